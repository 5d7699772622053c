"""The operations that a network applies to its input, recorded as a list of steps that change no tensor.

The network runs once on a fake tensor, which has a shape but no entries. Whatever depends on x is a fake tensor, and
whatever does not is a real one, so that no value that depends on x can be used unnoticed. `torch.func.functionalize`
replaces mutation, also through views, by operations that return new tensors.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from metrics.lipschitz.attempt import describe
from metrics.lipschitz.state import computed_weights, restored
from metrics.lipschitz.trust import is_trusted
from models.kernels import plain_kernels

Shape = Sequence[int]

SHAPE_ONLY = {
    *("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"),
    *("rand_like", "randn_like", "randint_like"),
}
"""Operators that use only the shape of a tensor"""

_READS = {"numpy", "__array__", "tolist", "data_ptr", "storage", "untyped_storage", "__dlpack__"}
_CONSTANTS: dict[Callable, float] = {
    F.softsign: 1.0,  # derivative 1 / (1 + |x|)²
    F.tanhshrink: 1.0,  # derivative tanh²
}


class Opaque(NamedTuple):
    """A function that is recorded as one step, with an own bound of its Lipschitz constant for an input shape."""

    name: str
    run: Callable[[Sequence[Tensor]], Any]
    bound: Callable[[Shape], float]


class Step(NamedTuple):
    """One operation: an operator of PyTorch, or an `Opaque` function of tensors."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    """Tensors, which are fake if they depend on x"""
    label: str
    """Name and place, such as "aten.exp at blocks.2" """


class Trace(NamedTuple):
    """The steps from x (1, ...) and labels y (1,), which are fake tensors, to all tensors that the network returns."""

    x: Tensor
    y: Tensor | None
    steps: list[Step]
    outputs: list[Tensor]


class UntraceableError(Exception):
    """What a network does that cannot be recorded, and where."""


def record(network: nn.Module, x: Tensor, y: Tensor | None) -> Trace:
    """Record network(x), or network(x, y), for inputs like x (1, ...). Only the shape of x matters.

    Integer labels y are recorded as if their values were unknown; other y are constants. Raises UntraceableError. The
    network is not changed.
    """
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    labels = None if y is None or y.is_floating_point() else fake_mode.from_tensor(y)
    rest = () if y is None else (y if labels is None else labels,)
    example = fake_mode.from_tensor(x)
    recorder = _Recorder(fake_mode, network)

    def run(x: Tensor, *y: Tensor) -> list[Tensor]:
        outputs = tree_leaves(network(x.clone(), *y))  # a copy, which the network may change
        for output in outputs:
            if not isinstance(output, Tensor | int | float | str | None):
                raise UntraceableError(f"an output of type {type(output).__name__}")
        return [output for output in outputs if isinstance(output, Tensor)]

    with ExitStack() as contexts:
        for context in (
            torch.no_grad(),
            plain_kernels(),
            _silent(logging.getLogger("torch._subclasses.fake_tensor")),  # the errors are in the exceptions
            restored(network),
            recorder.opaque_modules(),
            _Rewrites(recorder),
        ):
            contexts.enter_context(context)
        try:
            contexts.enter_context(computed_weights(network))
            contexts.enter_context(recorder)
            outputs = torch.func.functionalize(run)(example, *rest)
        except Exception as error:  # a network that cannot run like this, for any reason
            message = str(error) if isinstance(error, UntraceableError) else recorder.place(describe(error))
            raise UntraceableError(recorder.failure or message) from error
    if recorder.failure is not None:  # and the network has caught the error
        raise UntraceableError(recorder.failure)
    return Trace(example, labels, recorder.steps, outputs)


class _Recorder(TorchDispatchMode):
    def __init__(self, fake_mode: FakeTensorMode, network: nn.Module):
        super().__init__()
        self.fake_mode = fake_mode
        self.network = network
        self.steps: list[Step] = []
        self.failure: str | None = None
        self.calls: list[Opaque] = []
        self.active = True
        self._path = [""]

    def place(self, what: str) -> str:
        """Return `what` with the path of the module that runs."""
        return f"{what} at {self._path[-1]}" if self._path[-1] else what

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func.overloadpacket)
        if name == "prim.device":
            return func(*args, **kwargs)
        opaque = func is torch.ops.convnorm_gan.opaque.default
        name = self.calls[args[1]].name if opaque else name
        try:
            return self._call(*args) if opaque else self._apply(func, name, args, kwargs)
        except Exception as error:
            message = str(error) if isinstance(error, UntraceableError) else f"{name} ({describe(error)})"
            self.failure = self.failure or self.place(message)
            raise

    def _apply(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == "aten.as_strided_" and _keeps_entries(*args):  # adaptive average pooling in channels last
            with self.fake_mode:
                return func(*args, **kwargs)
        if func._schema.is_mutable:
            raise UntraceableError(f"{name}, which changes a parameter, buffer or constant,")
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            raise UntraceableError("a Python number that depends on the input")
        uninitialized = name.startswith(("aten.empty", "aten.new_empty"))
        if uninitialized or name.removeprefix("aten.") in SHAPE_ONLY:
            args, kwargs = tree_map_only(FakeTensor, _zeros, (args, kwargs))
        unknown = uninitialized or torch.Tag.nondeterministic_seeded in func.tags
        if not unknown and not any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)  # does not depend on x
        with self.fake_mode:
            output = func(*args, **kwargs)
        self.steps.append(Step(func, args, kwargs, output, self.place(name)))
        return output

    def call(self, function: Opaque, tensors: Sequence[Tensor]) -> Tensor:
        """Apply `function` to tensors as one step."""
        self.calls.append(function)
        return torch.ops.convnorm_gan.opaque(list(tensors), len(self.calls) - 1)

    def _call(self, tensors: list[Tensor], key: int) -> Tensor:
        function = self.calls[key]
        self.active = False
        try:
            output = function.run([_zeros(t) if isinstance(t, FakeTensor) else t for t in tensors])
        finally:
            self.active = True
        if not isinstance(output, Tensor):
            raise UntraceableError(f"{function.name}, which returns no tensor,")
        if not any(isinstance(t, FakeTensor) for t in tensors):
            return output
        fake = self.fake_mode.from_tensor(output)
        self.steps.append(Step(function, (tensors,), {}, fake, self.place(function.name)))
        return fake

    @contextmanager
    def opaque_modules(self) -> Iterator[None]:
        """Record each call of a module that computes its own bound as one step, and keep track of the running module.

        Hooks of such a module are recorded as the operations that they apply. A module that is not trusted is recorded
        by the operations of its forward pass.
        """
        names = {module: name for name, module in self.network.named_modules()}

        def enter(module: nn.Module, args: Any) -> None:
            self._path.append(names.get(module, self._path[-1]))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._path.pop()

        for module in names:
            if is_trusted(module):
                module.forward = self._opaque_forward(module)
        with ExitStack() as handles:
            handles.callback(register_module_forward_pre_hook(enter).remove)
            handles.callback(register_module_forward_hook(leave).remove)
            yield

    def _opaque_forward(self, module: Any) -> Callable[..., Any]:
        forward = module.forward

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.active:
                return forward(*args, **kwargs)
            leaves, structure = tree_flatten((args, kwargs))
            where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

            def run(tensors: Sequence[Tensor]) -> Any:
                filled = list(leaves)
                for i, tensor in zip(where, tensors, strict=True):
                    filled[i] = tensor
                args, kwargs = tree_unflatten(filled, structure)
                return forward(*args, **kwargs)

            return self.call(Opaque(type(module).__name__, run, module.lipschitz_bound), [leaves[i] for i in where])

        return call


class _Rewrites(TorchFunctionMode):
    """Functions of `torch.nn.functional` whose operators say less than the function does."""

    def __init__(self, recorder: _Recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.recorder.active:
            return func(*args, **kwargs)
        if getattr(func, "__name__", "") in _READS:
            self.recorder.failure = self.recorder.place(f"Tensor.{func.__name__}")
            raise UntraceableError(self.recorder.failure)
        if func in _CONSTANTS:
            function = Opaque(func.__name__, lambda tensors: func(tensors[0]), lambda _: _CONSTANTS[func])
            return self.recorder.call(function, [*args, *kwargs.values()])
        if func is F.pad or func is F.rrelu:
            bound = inspect.signature(func).bind(*args, **kwargs)
            bound.apply_defaults()
            options = bound.arguments
            if func is F.pad and options["mode"] == "circular":  # its operators change a tensor in place
                return _circular_padding(options["input"], options["pad"])
            if func is F.rrelu and not options["training"]:  # its operator changes an argument
                return F.leaky_relu(options["input"], (options["lower"] + options["upper"]) / 2)
        return func(*args, **kwargs)


def _circular_padding(x: Tensor, pad: Sequence[int]) -> Tensor:
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=1):
        size = x.shape[-axis]
        if max(before, after) > size:
            raise ValueError(f"circular padding {tuple(pad)} of a map of shape {tuple(x.shape)}")
        positions = torch.arange(-before, size + after, device=x.device) % size
        x = x.index_select(x.dim() - axis, positions)
    return x


def _keeps_entries(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None = None) -> bool:
    """Return whether a view of x has the same entries at the same places, with other strides of axes of size 1."""
    axes = zip(size, stride, x.stride(), strict=False)
    same = tuple(size) == tuple(x.shape) and offset in (None, x.storage_offset())
    return isinstance(x, FakeTensor) and same and all(n == 1 or a == b for n, a, b in axes)


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


if not hasattr(torch.ops.convnorm_gan, "opaque"):  # a second copy of this module must not define it again
    torch.library.define("convnorm_gan::opaque", "(Tensor[] tensors, int key) -> Tensor")
