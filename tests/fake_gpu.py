"""A GPU without hardware: tensors with a device and a shape but no data, to test code for GPUs on a CPU.

Inside `with FakeGPU() as gpu:`, everything on `gpu.device` is a FakeTensor. Mixing devices raises RuntimeError, as on
CUDA. `gpu.events` lists what a CUDA stream would wait for (reading a number, a shape that depends on values, a copy
between host and device), and the creation of generators, which a CUDA graph cannot capture. `gpu.launches` counts the
operations that would launch a kernel.

Tests that use it are marked `fake_gpu`, and run in processes of their own: autograd does not know a device that is
registered after its first backward pass, and other tests should not see the device.

Kernels that run under another name on CUDA, or several kernels behind one operation, are not seen: the counts compare
two versions of a program, and are no prediction of its time.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

try:  # private interfaces of PyTorch, which its own tests use for backends in Python
    from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend
except ImportError:
    pytest.skip("this version of PyTorch cannot register a backend in Python", allow_module_level=True)

NAME = "fakegpu"
PACKAGES = ("/gan/", "/models/", "/metrics/", "/classification/")
WAITING = ("sync", "h2d", "d2h")
VIEWS = {  # operations without a kernel, besides those that PyTorch calls views
    "view _unsafe_view t transpose permute expand detach alias slice select unsqueeze squeeze as_strided split",
    "split_with_sizes unbind empty empty_like empty_strided new_empty new_empty_strided lift_fresh device resize_",
    "view_as_real is_same_size diagonal chunk reshape _reshape_alias real imag set_ narrow movedim flatten unflatten",
    "contiguous unfold",
}
NO_KERNEL = {name for line in VIEWS for name in line.split()}
DATA_DEPENDENT = ("nonzero", "_unique2", "unique_dim", "masked_select", "unique_consecutive", "bincount")
INDEXING = ("index", "index_put", "index_put_", "_unsafe_index_put", "_index_put_impl_")
DRAWING = ("rand", "randn", "randint", "randperm")

aten = torch.ops.aten


class Event(NamedTuple):
    """What the host waits for, or a generator that is created."""

    kind: str
    """sync (a value is read), h2d or d2h (a copy), or generator"""
    operation: str
    line: str
    """Line of the project that called the operation"""


class FakeGPU:
    """A context in which `device` can be computed on, without data."""

    def __init__(self) -> None:
        register_backend()
        self.device = torch.device(NAME)
        self.events: list[Event] = []
        self.launches: Counter[str] = Counter()
        """Operations that launch at least one kernel"""
        self._stack = ExitStack()
        self._mode = _FakeMode(allow_non_fake_inputs=False)

    def __enter__(self) -> "FakeGPU":
        enter = self._stack.enter_context
        enter(mock.patch.object(torch, "Generator", lambda device="cpu": _Generator(self, device)))
        for name in DRAWING:
            enter(mock.patch.object(torch, name, _accept_fake_generator(getattr(torch, name))))
        enter(mock.patch.object(nn.Module, "_apply", _apply))
        enter(self._mode)
        enter(_Watch(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def forget(self) -> None:
        """Start counting again."""
        self.events.clear()
        self.launches.clear()

    def find(self, *kinds: str) -> Counter[Event]:
        """Return how often each event of the given kinds has happened."""
        return Counter(event for event in self.events if event.kind in kinds)

    def record(self, kind: str, operation: str) -> None:
        """Add an event of the current line of the project."""
        self.events.append(Event(kind, operation, _calling_line()))


_library: torch.library.Library | None = None


def register_backend() -> None:
    """Give PyTorch's spare backend a name, and streams and guards in Python, for which the autograd engine asks."""
    global _library
    if _library is not None:
        return

    class Module(_DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

    _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    _library = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    _library.fallback(torch.library.fallthrough_kernel)


class _Generator:
    """A random generator on the fake device; `torch.Generator` cannot be created there, nor have a subclass."""

    real = torch.Generator

    def __init__(self, gpu: FakeGPU, device: torch.device | str):
        self.device = torch.device(device)
        self.cpu = self.real("cpu")
        if self.device.type == NAME:
            gpu.record("generator", "new")

    def manual_seed(self, seed: int) -> "_Generator":
        self.cpu.manual_seed(seed)
        return self


def _accept_fake_generator(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `function`, such as torch.rand, for fake generators; like PyTorch it requires one of its own device."""

    def draw(*args: Any, generator: Any = None, device: Any = "cpu", **options: Any) -> Tensor:
        if isinstance(generator, _Generator):
            if generator.device.type != torch.device(device).type:
                raise RuntimeError(f"Expected a '{device}' device type for generator but found '{generator.device}'")
            generator = generator.cpu
        return function(*args, generator=generator, device=device, **options)

    return draw


class _FakeMode(FakeTensorMode):
    avoid_device_init = True  # constants are not copied to the device

    def __deepcopy__(self, memo: dict) -> "_FakeMode":
        return self  # copies of a buffer stay in this mode


class _Watch(TorchDispatchMode):
    """Records events and launches, and answers operations whose results depend on values."""

    def __init__(self, gpu: FakeGPU):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        on_gpu = any(tensor.device.type == NAME for tensor in _tensors((args, kwargs)))
        if func is aten._local_scalar_dense.default:
            if on_gpu:
                self.gpu.record("sync", "item")
            dtype = args[0].dtype
            return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if name in DATA_DEPENDENT and on_gpu:
            self.gpu.record("sync", name)
        if name in INDEXING:
            self._record_indices(name, *args[:2])
        if name in ("_to_copy", "device_put", "copy_", "_copy_from"):
            self._record_copy(name, args, kwargs)
        result = self._answer(name, args, kwargs)
        if result is NotImplemented:
            result = func(*args, **kwargs)
        if name.startswith("convolution") and on_gpu:
            result = _lay_out_as_cudnn(result, args)
        if (on_gpu or str(kwargs.get("device", "")).startswith(NAME)) and name not in NO_KERNEL and not func.is_view:
            self.gpu.launches[name] += 1
        return result

    def _record_indices(self, name: str, x: Tensor, indices: list) -> None:
        for index in (part for part in indices if isinstance(part, Tensor)):
            if index.device.type == "cpu" and x.device.type == NAME:
                self.gpu.record("h2d", f"{name} by an index on the CPU")
            if index.device.type == NAME and index.dtype in (torch.bool, torch.uint8):
                self.gpu.record("sync", f"{name} by a mask")

    def _record_copy(self, name: str, args: tuple, kwargs: dict) -> None:
        source = args[1] if name == "copy_" else args[0]
        target = args[0].device if name == "copy_" else torch.device(kwargs.get("device") or source.device)
        if source.device.type != target.type:
            self.gpu.record("h2d" if target.type == NAME else "d2h", f"{name} {tuple(source.shape)}")

    def _answer(self, name: str, args: tuple, kwargs: dict) -> Any:
        """Return a result of an operation that cannot run without data, NotImplemented for any other operation."""
        x = args[0] if args else None
        if name == "index" and [t.dtype for t in args[1] if isinstance(t, Tensor)] == [torch.bool]:
            ((at, mask),) = ((i, t) for i, t in enumerate(args[1]) if isinstance(t, Tensor))
            return x.flatten(at, at + mask.dim() - 1).clone()  # as if the whole mask were true
        if name == "nonzero":
            return torch.zeros(x.numel(), x.dim(), dtype=torch.long, device=x.device)
        if name == "_unique2":
            whole = torch.zeros(x.shape, dtype=torch.long, device=x.device)
            return x.flatten().clone(), whole, whole.flatten()
        if name == "bincount":
            size = kwargs.get("minlength", args[2] if len(args) > 2 else 0)
            return torch.zeros(max(1, size), dtype=torch.long, device=x.device)
        if name == "_fused_adam_":
            return None
        return NotImplemented


def _lay_out_as_cudnn(results: Any, args: tuple) -> Any:
    """Return the maps and kernels of a convolution or its backward pass in channels last, if an argument is."""
    maps = [x for x in args[:3] if isinstance(x, Tensor) and x.dim() == 4]
    if not any(x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous() for x in maps):
        return results

    def lay_out(x: Any) -> Any:
        is_map = isinstance(x, Tensor) and x.dim() == 4
        return x.contiguous(memory_format=torch.channels_last) if is_map else x

    return lay_out(results) if isinstance(results, Tensor) else tuple(map(lay_out, results))


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor))


def _calling_line() -> str:
    for frame in reversed(traceback.extract_stack()):
        if any(part in frame.filename for part in PACKAGES) and not {"site-packages", "tests"} & {
            *Path(frame.filename).parts
        }:
            return f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}"
    return "?"


def _apply(module: nn.Module, function: Callable, recurse: bool = True, done: dict | None = None) -> nn.Module:
    """`nn.Module._apply` with new parameters, because the device of a fake parameter cannot be changed in place."""
    done = {} if done is None else done
    for child in module.children():
        _apply(child, function, True, done)
    for table in (module._parameters, module._buffers):
        for key, tensor in table.items():
            if tensor is None:
                continue
            if tensor not in done:  # shared parameters stay shared
                with torch.no_grad():
                    moved = function(tensor)
                done[tensor] = nn.Parameter(moved, tensor.requires_grad) if table is module._parameters else moved
            table[key] = done[tensor]
    return module
