"""Rules of convolutions, and of the linear operators that are bounded together with a convolution before them."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metrics.lipschitz.calls import Call
from metrics.lipschitz.convolution import Convolution, find_circle
from metrics.lipschitz.linear_rules import candidates, largest_entry, nonnegative
from metrics.lipschitz.values import Value
from models.kernels.symbol import plane_norm


def convolution(call: Call) -> Value | None:
    """A convolution or transposed convolution with a constant weight."""
    x, weight, options = call.x, call["weight"], call.arguments
    if not isinstance(weight, Tensor):
        return None
    convolution = Convolution(weight, options["stride"], options["dilation"], options["groups"])
    if options["transposed"]:  # the adjoint of a convolution from the output to the input, which has the same norm
        return call.value(lambda: x.bound * convolution.norm())
    return convolved(call, replace(convolution, circle=_find_circle(call, convolution)), x)


def convolved(call: Call, convolution: Convolution, source: Value, **form: Any) -> Value:
    """Return the output as a convolution of `source`."""

    def compute() -> float:
        if convolution.circle is None:
            return source.bound * convolution.norm()
        return (source.root or source).bound * convolution.circular_norm()

    return call.value(compute, convolution=(convolution, source), **form)


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


def batch_norm(call: Call) -> Value | None:
    """Batch normalization with running statistics."""
    options = call.arguments
    x, variance, weight = options["input"], options["running_var"], options["weight"]
    if options.get("training") or call.values != [x] or not isinstance(variance, Tensor):
        return None
    scale = (variance.double() + options["eps" if "eps" in options else "epsilon"]).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    if x.convolution is None:
        return call.value(lambda: x.bound * largest_entry(scale.abs()))
    return convolved(call, x.convolution[0].scale(scale), x.convolution[1])


def average_pooled(call: Call) -> Value:
    """An average over windows, as a nonnegative map, and as a convolution, alone or with the one before it."""
    x = call.x
    (plain,) = nonnegative(call)
    size = as_tuple(call["kernel_size"], int(call.name[-2]))
    stride = as_tuple(call["stride"] or size, len(size))
    padding = as_tuple(call["padding"], len(size))
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
            return convolved(call, convolution, x.convolution[1], **call.linear_form(0))
    return replace(plain, compute=alone)


def as_tuple(value: Any, axes: int) -> tuple[int, ...]:
    """Return one number per axis, given one for all or one for each."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


def product(call: Call) -> Value | None:
    """A product with a constant, or a quotient by one."""
    x, factor = call["self"], call["other"]
    if not isinstance(x, Value):
        x, factor = factor, x
        if call.name == "div":
            return None
    if isinstance(factor, Value) or call.arguments.get("rounding_mode") is not None:
        return None
    factors = candidates(factor, call.outputs[0])
    if factors is None:
        return None
    if call.name == "div":
        factors = [f.reciprocal() for f in factors]
    largest = largest_entry(torch.stack([f.abs() for f in factors]))
    convolution = None
    if len(factors) == 1 and x.convolution is not None and x.shape == call.shape:
        channels = _per_channel(factors[0], x.shape)
        if channels is not None:
            convolution = x.convolution[0].scale(channels), x.convolution[1]
    form: dict[str, Any] = {"factors": (x, factors)} if x.shape == call.shape else {}
    if convolution is not None:
        return convolved(call, *convolution, **form)
    return call.value(lambda: largest * call.repeated(x), **form)


def _per_channel(factor: Tensor, shape: torch.Size) -> Tensor | None:
    """Return the factors (C,) of the channels of a tensor in `shape` (B, C, ...), None if they differ within one."""
    sizes = [1] * (len(shape) - factor.dim()) + list(factor.shape)
    if any(size != 1 for axis, size in enumerate(sizes) if axis != 1):
        return None
    return factor.reshape(-1).expand(shape[1])
