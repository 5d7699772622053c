"""The operators that have a bound, each with its rule. An operator that is not listed here has none.

A rule takes a `Call` and returns a `Value` or the bound (l2) of the call's first output, or one for each output.
Further outputs, and calls that a rule does not cover, have no bound.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from metrics.lipschitz.activations import ACTIVATIONS, log_softmax
from metrics.lipschitz.convolution import Convolution, find_circle
from metrics.lipschitz.values import LONGEST_CHAIN, Choice, LinearMap, Value, joint_bound, schur_bound
from models.kernels.symbol import largest_norm, plane_norm


class UncoveredError(Exception):
    """A call that a rule does not cover."""


@dataclass(eq=False)
class Call:
    """A call of an operator, whose arguments are constants, and `Value` and `Choice` in place of fake tensors."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Any]
    """The fake tensors that it returned"""
    label: str

    def __post_init__(self):
        schema = self.function._schema.arguments
        given = dict(zip((argument.name for argument in schema), self.args, strict=False)) | self.kwargs
        self.arguments = {argument.name: given.get(argument.name, argument.default_value) for argument in schema}
        self.values = [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Value)]
        self.name = str(self.function.overloadpacket).removeprefix("aten.")

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def x(self) -> Value:
        """The first argument, if it is the only one that depends on x; otherwise it raises UncoveredError."""
        first = next(iter(self.arguments.values()))
        if self.values != [first]:
            raise UncoveredError("only the first argument may depend on x")
        return first

    @property
    def shape(self) -> torch.Size:
        """The shape of the first output."""
        return self.outputs[0].shape

    def value(self, compute: Callable[[], float], index: int = 0, **form: Any) -> Value:
        """Return the output `index` as a Value with the bound that `compute` returns."""
        output = self.outputs[index]
        return Value(output.shape, output.device, compute, self.label, self.values, **form)

    def repeated(self, value: Value) -> float:
        """Return the bound of an operand that is broadcast, that is repeated, to the shape of the output."""
        return value.bound * math.sqrt(max(1.0, self.shape.numel() / max(1, value.shape.numel())))

    def linear_map(self, index: int, combined: bool) -> LinearMap:
        """Return the call as a map to its output, plus a constant.

        It maps the common root of its values if `combined`, else its only value.
        """
        keywords = {name: value for name, value in self.kwargs.items() if name != "dtype"}

        def apply(root: Tensor) -> Tensor:
            def substitute(leaf: Any) -> Any:
                if isinstance(leaf, Value):
                    return leaf.apply(root) if combined else root
                if isinstance(leaf, Choice):
                    return root.new_zeros(leaf.shape)
                return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

            args, kwargs = tree_map(substitute, (self.args, keywords))
            if self.name == "_to_copy":
                return args[0]
            if self.name in ("view", "_unsafe_view"):  # the layout of the root may differ from that of its fake tensor
                return args[0].reshape(self["size"])
            return tree_leaves(self.function(*args, **kwargs))[index]

        return apply

    def linear_form(self, index: int) -> dict[str, Any]:
        """Return the output as a linear map of the root of the values, if they have one in common."""
        roots = {id(value.root or value): value.root or value for value in self.values}
        chain = 1 + max(value.chain for value in self.values)
        if len(roots) == 1 and chain <= LONGEST_CHAIN:
            return {"root": next(iter(roots.values())), "apply": self.linear_map(index, True), "chain": chain}
        if len(self.values) == 1:
            return {"root": self.values[0], "apply": self.linear_map(index, False), "chain": 1}
        return {}


Rule = Callable[[Call], "Value | float | Sequence[Value | float] | None"]


def _activation(call: Call) -> float | None:
    options = dict(list(call.arguments.items())[1:])
    if any(isinstance(option, Choice) for option in options.values()):
        return None
    return ACTIVATIONS[call.name](**options) * call.repeated(call.x)


def _rearranged(call: Call) -> list[Value]:
    """Operators whose output has each entry of a value once at most."""
    x = call.x
    if "dtype" in call.arguments and call.name != "_to_copy":
        raise UncoveredError("the same bits, read as another number format")
    return [call.value(lambda: x.bound, i, **call.linear_form(i)) for i in range(len(call.outputs))]


def _nonnegative(call: Call) -> list[Value]:
    """Linear operators without negative entries of a value, bounded alone and with the linear maps before them."""
    x = call.x
    if any(isinstance(leaf, Choice) for leaf in tree_leaves((call.args, call.kwargs))):
        raise UncoveredError("an index that depends on labels")

    def compute(index: int) -> float:
        bound = x.bound * schur_bound(x.shape, x.device, [call.linear_map(index, False)])
        if x.root is None or x.chain >= LONGEST_CHAIN:
            return bound
        return min(bound, x.root.bound * schur_bound(x.root.shape, x.device, [call.linear_map(index, True)]))

    return [call.value(partial(compute, i), i, **call.linear_form(i)) for i in range(len(call.outputs))]


def _joined(call: Call) -> Value:
    """Operators whose output has each entry of several values once at most."""
    values = call.values
    return call.value(lambda: joint_bound(values), **call.linear_form(0))


def _copied(call: Call) -> Value:
    """`copy` of the second argument, repeated, into the shape of the first, whose entries are lost."""
    source = call["src"]
    return call.value(lambda: call.repeated(source) if isinstance(source, Value) else 0.0)


def _filled(call: Call) -> float:
    """One number in all entries, which may be a value."""
    number = call.arguments.get("value")
    return call.repeated(number) if isinstance(number, Value) else 0.0


def _where(call: Call) -> Value | None:
    """An entry of one of two arguments, by a constant condition."""
    if not isinstance(call["condition"], Tensor) or any(value.shape != call.shape for value in call.values):
        return None
    return _joined(call)


def _masked_fill(call: Call) -> float | None:
    x = call["self"]
    return call.repeated(x) if call.values == [x] and not isinstance(call["mask"], Value) else None


def _cast(call: Call) -> list[Value] | None:
    """A conversion to another number format: rounding is not counted, but integers have no bound."""
    return _rearranged(call) if call.outputs[0].is_floating_point() else None


def _ordered(call: Call) -> Sequence[float]:
    """Entries selected by their order, as by `sort` or `max` over an axis: the first output moves no more than x.

    `logsumexp` has a softmax as gradient, whose norm is at most 1.
    """
    return [call.x.bound] * (2 if call.name == "aminmax" else 1)


def _maximum(call: Call) -> Value | float | None:
    """The larger or smaller entry of two values."""
    a, b = call["self"], call["other"]
    both = [value for value in (a, b) if isinstance(value, Value)]
    if any(value.shape != call.shape for value in both):
        return math.sqrt(sum(call.repeated(value) ** 2 for value in both))
    name = {"max": "maximum", "min": "minimum"}.get(call.name, call.name)
    order = (name, a, b) if len(both) == 2 else None
    return call.value(lambda: joint_bound(both), order=order)


def _max_or_min(call: Call) -> Any:
    """`max` and `min` have two forms: of two tensors, and over an axis."""
    if "other" in call.arguments:
        return _maximum(call)
    return _ordered(call)


def _vector_norm(call: Call) -> float | None:
    order = call.arguments.get("ord", call.arguments.get("p", 2))
    return call.x.bound if order in (2, math.inf) else None


def _sum_of_two(call: Call) -> Value | float:
    """a + alpha b. A constant summand changes nothing but the value."""
    a, b = call["self"], call["other"]
    alpha = abs(call.arguments.get("alpha", 1))
    scales = (alpha, 1) if call.name == "rsub" else (1, alpha)
    if len(call.values) == 1:
        x = call.x
        scale = scales[0] if x is a else scales[1]
        if scale == 1 and x.shape == call.shape and (call.name == "add" or (call.name == "sub" and x is a)):
            return call.value(lambda: x.bound, root=x.root, apply=x.apply, chain=x.chain, convolution=x.convolution)
        return scale * call.repeated(x)
    return sum(scale * call.repeated(value) for scale, value in zip(scales, (a, b), strict=True))


def _interpolated(call: Call) -> float | None:
    a, b, weight = call["self"], call["end"], call["weight"]
    if isinstance(weight, Tensor | Value | Choice):
        return None
    scales = (abs(1 - weight), abs(weight))
    return sum(s * call.repeated(v) for s, v in zip(scales, (a, b), strict=True) if isinstance(v, Value))


def _candidates(factor: Any, like: Tensor) -> list[Tensor] | None:
    """Return the possible values of a constant in double precision, None if they are unknown."""
    if isinstance(factor, Choice):
        factors = factor.candidates()
        return None if factors is None else [f.double() for f in factors]
    if isinstance(factor, Tensor):
        return None if factor.is_complex() else [factor.double()]
    return None if isinstance(factor, complex) else [torch.tensor(factor, dtype=torch.float64, device=like.device)]


def _product(call: Call) -> Value | None:
    """A product with a constant, or a quotient by one."""
    x, factor = call["self"], call["other"]
    if not isinstance(x, Value):
        x, factor = factor, x
        if call.name == "div":
            return None
    if isinstance(factor, Value) or call.arguments.get("rounding_mode") is not None:
        return None
    factors = _candidates(factor, call.outputs[0])
    if factors is None:
        return None
    if call.name == "div":
        factors = [f.reciprocal() for f in factors]
    largest = _largest(torch.stack([f.abs() for f in factors]))
    convolution = None
    if len(factors) == 1 and x.convolution is not None and x.shape == call.shape:
        channels = _per_channel(factors[0], x.shape)
        if channels is not None:
            convolution = x.convolution[0].scale(channels), x.convolution[1]
    form: dict[str, Any] = {"factors": (x, factors)} if x.shape == call.shape else {}
    if convolution is not None:
        return _convolved(call, *convolution, **form)
    return call.value(lambda: largest * call.repeated(x), **form)


def _largest(tensor: Tensor) -> float:
    return tensor.max().item() if tensor.numel() else 0.0


def _per_channel(factor: Tensor, shape: torch.Size) -> Tensor | None:
    """Return the factors (C,) of the channels of a tensor in `shape` (B, C, ...), None if they differ within one."""
    sizes = [1] * (len(shape) - factor.dim()) + list(factor.shape)
    if any(size != 1 for axis, size in enumerate(sizes) if axis != 1):
        return None
    return factor.reshape(-1).expand(shape[1])


def _summed(call: Call) -> list[Value]:
    """A sum or mean over axes. After a product with a constant c, it has the norm of c over these axes."""
    x = call.x
    (plain,) = _nonnegative(call)
    if x.factors is None:
        return [plain]
    source, factors = x.factors
    dims = call.arguments.get("dim") or list(range(len(x.shape)))
    scale = 1.0 if call.name == "sum" else max(1, call.shape.numel()) / max(1, x.shape.numel())

    def compute() -> float:
        squares = torch.stack([f.square().expand(x.shape).sum(dims) for f in factors])
        together = scale * source.bound * math.sqrt(_largest(squares))
        return plain.bound if math.isnan(together) else min(plain.bound, together)

    return [call.value(compute, **call.linear_form(0))]


def _matrix_product(call: Call) -> float | None:
    """A product with a constant matrix, or one for each element of a batch, and a constant summand."""
    options = call.arguments
    factors = [options[n] for n in ("self", "mat1", "batch1", "input", "mat", "mat2", "batch2", "vec", "tensor",
                                    "vec2", "weight") if n in options]  # fmt: skip
    added = options.get("bias")
    if call.name in ("addmm", "baddbmm", "addmv"):
        added, *factors = factors
    x, constant = factors
    if isinstance(constant, Value):
        x, constant = constant, x
    if isinstance(added, Value) or not isinstance(x, Value) or isinstance(constant, Value):
        return None
    matrices = _candidates(constant, call.outputs[0])
    if matrices is None:
        return None
    norm = largest_norm(torch.stack([m if m.dim() > 1 else m[None] for m in matrices]))
    return abs(options.get("alpha", 1)) * norm * x.bound


def _convolved(call: Call, convolution: Convolution, source: Value, **form: Any) -> Value:
    """Return the output as a convolution of `source`."""

    def compute() -> float:
        if convolution.circle is None:
            return source.bound * convolution.norm()
        return (source.root or source).bound * convolution.circular_norm()

    return call.value(compute, convolution=(convolution, source), **form)


def _convolution(call: Call) -> Value | None:
    x, weight, options = call.x, call["weight"], call.arguments
    if not isinstance(weight, Tensor):
        return None
    convolution = Convolution(weight, options["stride"], options["dilation"], options["groups"])
    if options["transposed"]:  # the adjoint of a convolution from the output to the input, which has the same norm
        return call.value(lambda: x.bound * convolution.norm())
    return _convolved(call, replace(convolution, circle=_find_circle(call, convolution)), x)


def _find_circle(call: Call, convolution: Convolution) -> tuple[int, ...] | None:
    """Return the size of the map on whose periodic grid the convolution is circular, None if there is none.

    Without padding it is a part of the circular convolution. Then the grid is used if it has fewer frequencies.
    """
    x = call.x
    root = x.root or x
    size = tuple(root.shape[2:])
    if any(call["padding"]) or root.shape[:2] != x.shape[:2] or len(root.shape) != len(x.shape):
        return None
    sizes = list(zip(size, call.shape[2:], call["stride"], strict=True))
    if any(n % s or out > n // s for n, out, s in sizes):
        return None
    padded = any(m > n for m, n in zip(x.shape[2:], size, strict=True))
    if not padded and math.prod(n // s for n, _, s in sizes) > math.prod(convolution.plane_grid()):
        return None
    zeros = torch.zeros(root.shape, dtype=torch.float64, device=x.device)
    flat = torch.arange(zeros.numel(), dtype=torch.float64, device=x.device).view(zeros.shape)
    positions = x.apply(flat) - x.apply(zeros) if x.root is not None else flat
    return size if find_circle(positions[0], size) else None


def _batch_norm(call: Call) -> Value | None:
    """Batch normalization with running statistics."""
    options = call.arguments
    x, variance, weight = options["input"], options["running_var"], options["weight"]
    if options.get("training") or call.values != [x] or not isinstance(variance, Tensor):
        return None
    scale = (variance.double() + options["eps" if "eps" in options else "epsilon"]).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    if x.convolution is None:
        return call.value(lambda: x.bound * _largest(scale.abs()))
    return _convolved(call, x.convolution[0].scale(scale), x.convolution[1])


def _average_pooled(call: Call) -> Value:
    """An average over windows, as a nonnegative map, and as a convolution, alone or with the one before it."""
    x = call.x
    (plain,) = _nonnegative(call)
    size = _tuple(call["kernel_size"], int(call.name[-2]))
    stride = _tuple(call["stride"] or size, len(size))
    padding = _tuple(call["padding"], len(size))
    regular = not (call["ceil_mode"] or call.arguments.get("divisor_override"))
    if not regular or (any(padding) and not call["count_include_pad"]):
        return plain

    def alone() -> float:
        if stride == size:
            return plain.bound
        box = torch.full((1, 1, *size), 1 / math.prod(size), dtype=torch.float64)
        return min(plain.bound, x.bound * plane_norm(box, stride))

    if x.convolution is not None and stride == size and not any(padding):
        convolution = x.convolution[0].average(size)
        if convolution is not None:
            return _convolved(call, convolution, x.convolution[1], **call.linear_form(0))
    return replace(plain, compute=alone)


def _max_pooled(call: Call) -> float:
    """A maximum over windows: the square root of the number of windows in which an entry can be the maximum."""
    x = call.x
    axes = int(call.name[len("max_pool")])
    size, dilation = _tuple(call["kernel_size"], axes), _tuple(call["dilation"], axes)
    stride = _tuple(call["stride"] or size, axes)
    # Windows i with i s + j d = const for some tap j: the taps j are equal modulo s / gcd(s, d).
    counts = (math.ceil(k * math.gcd(s, d) / s) for k, s, d in zip(size, stride, dilation, strict=True))
    return x.bound * math.sqrt(math.prod(counts))


def _adaptive_max_pooled(call: Call) -> float:
    """A maximum over windows [floor(i n / m), ceil((i + 1) n / m)) along each axis."""
    x = call.x
    counts = []
    for n, m in zip(x.shape[2:], call.shape[2:], strict=True):
        counted = torch.zeros(n, dtype=torch.int64)
        for i in range(m):
            counted[i * n // m : -(-(i + 1) * n // m)] += 1
        counts.append(int(counted.max()))
    return x.bound * math.sqrt(math.prod(counts))


def _tuple(value: Any, axes: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


def _log_softmax(call: Call) -> float:
    x = call.x
    return log_softmax(x.shape[call["dim"]] if x.shape else 1) * x.bound


RULES: dict[str, Rule] = {
    **dict.fromkeys(ACTIVATIONS, _activation),
    **dict.fromkeys(
        ("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "squeeze", "unsqueeze", "alias", "detach",
         "clone", "contiguous", "lift_fresh", "flip", "roll", "slice", "select", "split", "split_with_sizes", "chunk",
         "unbind", "diagonal", "tril", "triu", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
         "native_channel_shuffle"), _rearranged),
    **dict.fromkeys(
        ("expand", "repeat", "unfold", "cumsum", "constant_pad_nd", "im2col", "col2im", "index_select", "index",
         "gather", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "upsample_linear1d",
         "upsample_bilinear2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa",
         *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
         *(f"{kind}{n}d" for kind in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3))),
        _nonnegative),
    **dict.fromkeys(("sum", "mean"), _summed),
    **dict.fromkeys(("cat", "stack", "slice_scatter", "select_scatter", "diagonal_scatter"), _joined),
    **dict.fromkeys(("logsumexp", "sort", "msort", "topk", "kthvalue", "median", "amax", "amin", "aminmax"), _ordered),
    **dict.fromkeys(("max", "min"), _max_or_min),
    **dict.fromkeys(("maximum", "minimum", "fmax", "fmin"), _maximum),
    **dict.fromkeys(("linalg_vector_norm", "norm"), _vector_norm),
    **dict.fromkeys(("add", "sub", "rsub"), _sum_of_two),
    **dict.fromkeys(("mul", "div"), _product),
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv", "linear"), _matrix_product),
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm",
         "miopen_batch_norm"), _batch_norm),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _average_pooled),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices"), _max_pooled),
    **dict.fromkeys(("adaptive_max_pool2d", "adaptive_max_pool3d"), _adaptive_max_pooled),
    **dict.fromkeys(("fill", "zero"), _filled), "copy": _copied, "where": _where, "masked_fill": _masked_fill,
    "_to_copy": _cast, "lerp": _interpolated, "_log_softmax": _log_softmax, "convolution": _convolution,
}  # fmt: skip


def apply_rule(call: Call) -> list[Value]:
    """Return the outputs of a call that depends on x. Those without a bound have infinity."""
    rule = RULES.get(call.name) if str(call.function.overloadpacket).startswith("aten.") else None
    try:
        found = rule(call) if rule is not None else None
    except UncoveredError:
        found = None
    results = [] if found is None else list(found) if isinstance(found, Sequence) else [found]
    values = [
        result if isinstance(result, Value) else call.value(lambda bound=result: bound, i)
        for i, result in enumerate(results)
    ]
    unknown = [call.value(lambda: math.inf, i) for i in range(len(call.outputs))]
    pairs = itertools.zip_longest(values, unknown, call.outputs)
    return [v if v is not None and output.is_floating_point() else none for v, none, output in pairs]
