"""Data-parallel training with several processes, as `torchrun` starts them. Every function also works for one process.

Each process holds the whole networks and an equal shard of every batch. Gradients are averaged explicitly after the
backward pass, because DistributedDataParallel does not support gradients inside a loss (`autograd.grad`), temporarily
frozen networks, or several forward passes before a backward pass.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gan.runtime.errors import UserError
from gan.runtime.job import get_agent_store, is_launched

T = TypeVar("T")

# How long a collective waits. torchrun stops all processes when one fails, so this only matters for lost messages. The
# other processes also wait while rank 0 prepares a large data set or computes metrics.
TIMEOUT = timedelta(hours=4)

_PART: ContextVar[tuple[int, int]] = ContextVar("part", default=(0, 1))  # of each thread; see `shard_part`


def rank() -> int:
    """Return the rank of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group if torchrun launched this process. Ranks other than 0 neither print nor warn.

    On CUDA each process of a machine uses its own device. Raises UserError when there are too few devices.
    """
    if not is_launched():
        yield
        return
    backend = "gloo"
    if device.type == "cuda":
        count, found = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if count > found:
            raise UserError(f"torchrun: {count} processes for {found} CUDA devices; use --nproc_per_node={found}")
        torch.cuda.set_device(_local_rank())
        backend = "cpu:gloo,cuda:nccl"  # objects are sent between CPUs, so that no GPU is busy while a process waits
    _join(backend)
    if rank() == 0:
        yield
    else:
        with open(os.devnull, "w") as devnull, redirect_stdout(devnull), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    dist.destroy_process_group()  # not after an exception, because the other processes may be in a collective


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Run the context on the first process of each machine before the others, for example to fill a cache."""
    is_first = world_size() == 1 or _local_rank() == 0
    if not is_first:
        all_gather_objects(None)
    try:
        yield
    finally:
        if is_first:
            all_gather_objects(None)  # releases the other processes


def call_on_rank_zero(function: Callable[[], T]) -> T:
    """Call a function on rank 0 and return its result on all processes (a small object, or tensors on the CPU)."""
    return cast(T, broadcast_object(function() if rank() == 0 else None))


def broadcast_object(value: T) -> T:
    """Return the value of rank 0 on all processes (a small object, or tensors on the CPU)."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def wait_for_rank_zero() -> None:
    """Return when rank 0 has called this, too."""
    broadcast_object(None)


def max_over_processes(number: int) -> int:
    """Return the largest number of all processes."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number)  # on the CPU, so that no process waits for its GPU
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def all_gather_objects(value: T) -> list[T]:
    """Return the values of all processes in the order of their ranks (small objects)."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def shard_part(index: int, count: int) -> Iterator[None]:
    """Work on a part of this process's shard of a batch in the context: the part `index` of `count` equal ones."""
    token = _PART.set((index, count))
    try:
        yield
    finally:
        _PART.reset(token)


def num_shards() -> int:
    """Return the number of shards of a batch: one for each process, or for each part of each process's shard."""
    return world_size() * _PART.get()[1]


def local_shard(batch: Tensor) -> Tensor:
    """Return the shard of a batch (B, ...) that this process works on, (B / num_shards, ...)."""
    index, count = _PART.get()
    return batch if num_shards() == 1 else batch.chunk(num_shards())[rank() * count + index]


def draw_shard(draw: Callable[..., Tensor], size: Sequence[int], random: torch.Generator, **options: Any) -> Tensor:
    """Return random numbers of a shard, (B, ...) = `size`, from `draw`, such as torch.rand, with its `options`.

    Those of the whole batch are drawn, so that the numbers of an image do not depend on the number of processes.
    """
    whole = (size[0] * num_shards(), *size[1:])
    return local_shard(draw(size=whole, generator=random, device=random.device, **options))


def all_gather(shard: Tensor) -> Tensor:
    """Return the whole batch (B, ...) on every process, given the shard of each. Not differentiable."""
    if world_size() == 1:
        return shard
    parts = [torch.empty_like(shard, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, shard.detach().contiguous())
    return torch.cat(parts)


def gather_shards(local: Tensor, indices: Sequence[Tensor], total: int) -> Tensor:
    """Return a tensor (total, ...) on every process, given shards of different sizes.

    `indices[r]` are the positions of the rows of rank r: its `local` has shape (len(indices[r]), ...).
    """
    if world_size() == 1:
        return local
    longest = max(len(index) for index in indices)
    padded = local.new_zeros(longest, *local.shape[1:])
    padded[: len(local)] = local
    whole = local.new_empty(total, *local.shape[1:])
    for index, part in zip(indices, all_gather(padded).chunk(world_size()), strict=True):
        whole[index.to(whole.device)] = part[: len(index)]
    return whole


def all_reduce_mean(tensors: list[Tensor]) -> None:
    """Replace tensors in place by their means over all processes, where they have the same shapes and strides.

    The tensors, which have one dtype and one device, are sent in one message, each in its own memory format.
    """
    if world_size() == 1 or not tensors:
        return
    flat = tensors[0].new_empty(sum(tensor.numel() for tensor in tensors))
    parts = flat.split([tensor.numel() for tensor in tensors])
    parts = [_view_as(part, tensor) for part, tensor in zip(parts, tensors, strict=True)]
    torch._foreach_copy_(parts, tensors)  # pyright: ignore[reportPrivateImportUsage]
    if flat.is_cuda:
        dist.all_reduce(flat, dist.ReduceOp.AVG)
    else:  # gloo has no mean
        dist.all_reduce(flat)
        flat /= world_size()
    torch._foreach_copy_(tensors, parts)  # pyright: ignore[reportPrivateImportUsage]


@torch.no_grad()
def broadcast_network(network: nn.Module) -> None:
    """Replace the parameters and buffers by those of rank 0."""
    if world_size() == 1:
        return
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.numel():
            value = tensor.detach().clone(memory_format=torch.contiguous_format)
            dist.broadcast(value, src=0)
            tensor.copy_(value)


def average_gradients(network: nn.Module) -> None:
    """Replace the gradients of the local shard by those of the whole batch."""
    all_reduce_mean([p.grad for p in network.parameters() if p.grad is not None])


def average_batch_statistics(network: nn.Module) -> None:
    """Average the running statistics of batch norm, so that all processes hold the same network.

    The statistics are moving averages, so how often this is called only matters up to rounding.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    statistics = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
    all_reduce_mean([statistic for statistic in statistics if statistic is not None])


def mean_numbers(numbers: dict[str, Tensor]) -> dict[str, float]:
    """Return scalar tensors as floats, averaged over the processes. Synchronizes with the device once."""
    values = torch.stack(list(numbers.values()))
    all_reduce_mean([values])
    return dict(zip(numbers, values.tolist(), strict=True))


def std(shard: Tensor) -> Tensor:
    """Return the standard deviation of all elements of a batch, given the local shard, as a scalar."""
    if world_size() == 1:
        return shard.std()
    variance, mean = torch.var_mean(shard.detach(), correction=0)
    variances, means = all_gather(torch.stack([variance, mean])[None]).unbind(dim=1)
    count = shard.numel() * world_size()
    return ((variances.mean() + means.var(correction=0)) * (count / (count - 1))).sqrt()


def _view_as(part: Tensor, tensor: Tensor) -> Tensor:
    """Return a vector with the shape of a tensor, and with its strides if it is in channels-last order."""
    if tensor.is_contiguous(memory_format=torch.channels_last):
        return part.as_strided(tensor.shape, tensor.stride())
    return part.view(tensor.shape)


def _join(backend: str) -> None:
    store, on_one_machine = get_agent_store(), os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]
    if store is None or not on_one_machine:  # several machines count their restarts separately
        dist.init_process_group(backend, timeout=TIMEOUT)
        return
    # By default, restarted processes find in the store the addresses of the processes that have ended, and hang.
    store.set_timeout(TIMEOUT)
    name = f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}"
    store = dist.PrefixStore(name, store)  # pyright: ignore[reportPrivateImportUsage]
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=rank, world_size=world_size)


def _local_rank() -> int:
    return int(os.environ["LOCAL_RANK"])
