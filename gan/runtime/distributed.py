"""Several processes that work on one run, as `torchrun` starts them; everything here also works for one alone.

Each process has the whole of the networks and an equal share of every batch. Gradients are averaged by hand after the
backward pass: the wrapper DistributedDataParallel knows neither gradients within a loss (`autograd.grad`), nor a
network that is frozen for a while or called twice before its backward pass.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gan.runtime.errors import UserError

T = TypeVar("T")

# How long a process waits for another. torchrun ends all when one dies, so this is for messages lost on the way; the
# others wait meanwhile when the first one prepares a large data set, or computes metrics.
PATIENCE = timedelta(hours=4)


def rank() -> int:
    """Return the number of this process, from 0 on."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launched_world_size() -> int:
    """Return the number of processes that torchrun started, whether they work together or not; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Work together with the other processes that torchrun started, if it did: the first alone prints and warns.

    On CUDA each process of a machine takes its own device; UserError when there are too few.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    backend = "gloo"
    if device.type == "cuda":
        count, found = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if count > found:
            raise UserError(f"torchrun: {count} processes for {found} CUDA devices; use --nproc_per_node={found}")
        torch.cuda.set_device(_local_rank())
        backend = "cpu:gloo,cuda:nccl"  # objects go from CPU to CPU: no GPU spins while its process waits for them
    dist.init_process_group(backend, timeout=PATIENCE)
    if rank() == 0:
        yield
    else:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    dist.destroy_process_group()  # not after an error: the others may be busy


def claim_first_failure() -> bool:
    """Tell whether this is the first process of the job that fails: its error is the one to show."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:  # torchrun's own store, which is there before the processes have found each other
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        wait = timedelta(seconds=10)
        store = dist.TCPStore(address, port, is_master=False, timeout=wait)  # pyright: ignore[reportPrivateImportUsage]
        return store.add(f"failures of attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", 1) == 1
    except RuntimeError:
        return True


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Let the first process of each machine go through the context before the others, to fill a cache for them."""
    is_first = world_size() == 1 or _local_rank() == 0
    if not is_first:
        all_gather_objects(None)
    try:
        yield
    finally:
        if is_first:
            all_gather_objects(None)  # what the others wait for


def call_on_rank_zero(compute: Callable[[], T]) -> T:
    """Return on every process what the first one computes (a small object, or tensors on the CPU)."""
    return cast(T, broadcast_object(compute() if rank() == 0 else None))  # nobody gets the others' None


def broadcast_object(value: T) -> T:
    """Return on every process the first one's value (a small object, or tensors on the CPU)."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def all_gather_objects(value: T) -> list[T]:
    """Return on every process the values of all, in their order (small objects)."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


class Idle:
    """Stands on the other processes for what only the first one has: it takes every call and does nothing."""

    def __call__(self, *args: Any, **kwargs: Any) -> "Idle":
        """Do nothing."""
        return self

    def __getattr__(self, name: str) -> "Idle":
        return self


def first_only(callee: T) -> T:
    """Return a function or class on the first process, and on the others what does nothing in its place."""
    return callee if rank() == 0 else cast(T, Idle())


def local_shard(whole: Tensor) -> Tensor:
    """Return the rows of a batch (B, ...) on which this process works: one of `world_size()` equal parts."""
    return whole if world_size() == 1 else whole.chunk(world_size())[rank()]


def all_gather(own: Tensor) -> Tensor:
    """Return on every process the whole batch (B, ...) of which `own` are its rows; no gradient goes through."""
    if world_size() == 1:
        return own
    parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, own.detach().contiguous())
    return torch.cat(parts)


def gather_shards(local: Tensor, rows: list[Tensor], total: int) -> Tensor:
    """Return on every process the whole (total, ...) of which each holds some rows.

    `rows[r]` are the numbers of the rows in process r's `local`, (len(rows[r]), ...).
    """
    if world_size() == 1:
        return local
    longest = max(len(index) for index in rows)
    padded = local.new_zeros(longest, *local.shape[1:])
    padded[: len(local)] = local
    whole = local.new_empty(total, *local.shape[1:])
    for index, part in zip(rows, all_gather(padded).chunk(world_size()), strict=True):
        whole[index.to(whole.device)] = part[: len(index)]
    return whole


def average(tensors: list[Tensor]) -> None:
    """Replace tensors, which have the same shapes on every process, by their means over the processes."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])  # one message for all
    dist.all_reduce(flat)
    flat /= world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    parts = [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
    torch._foreach_copy_(tensors, parts)  # pyright: ignore[reportPrivateImportUsage]


def average_gradients(network: nn.Module) -> None:
    """Replace the gradients of each process's share of the batch by those of the whole batch."""
    average([p.grad for p in network.parameters() if p.grad is not None])


def average_batch_statistics(network: nn.Module) -> None:
    """Make the running statistics of batch norm those of all processes, so that all have the same network."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    statistics = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
    average([statistic for statistic in statistics if statistic is not None])  # None of those that keep none


def mean_numbers(numbers: dict[str, Tensor]) -> dict[str, float]:
    """Return numbers (scalars on the device) as floats, averaged over the processes; waits for the device."""
    values = torch.stack(list(numbers.values()))
    average([values])
    return dict(zip(numbers, values.tolist(), strict=True))


def std(own: Tensor) -> Tensor:
    """Return the standard deviation of all elements of a batch of which `own` are this process's rows, a scalar."""
    if world_size() == 1:
        return own.std()
    variance, mean = torch.var_mean(own.detach(), correction=0)
    variances, means = all_gather(torch.stack([variance, mean])[None]).unbind(dim=1)
    count = own.numel() * world_size()
    return ((variances.mean() + means.var(correction=0)) * (count / (count - 1))).sqrt()


def _local_rank() -> int:
    return int(os.environ["LOCAL_RANK"])
