"""Rules of operators that are linear in the tensor that depends on x, apart from convolutions."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from metrics.lipschitz.calls import Call, UncoveredError
from metrics.lipschitz.values import LONGEST_CHAIN, Choice, Value, joint_bound, schur_bound
from models.kernels.symbol import largest_norm


def rearranged(call: Call) -> list[Value]:
    """Operators whose output has each entry of a value once at most."""
    x = call.x
    if "dtype" in call.arguments and call.name != "_to_copy":
        raise UncoveredError("the same bits, read as another number format")
    bound = x.bound
    return [call.value(lambda: bound, i, **call.linear_form(i)) for i in range(len(call.outputs))]


def nonnegative(call: Call) -> list[Value]:
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


def joined(call: Call) -> Value:
    """Operators whose output has each entry of several values once at most."""
    values = call.values
    return call.value(lambda: joint_bound(values), **call.linear_form(0))


def copied(call: Call) -> Value:
    """`copy` of the second argument, repeated, into the shape of the first, whose entries are lost."""
    source = call["src"]
    return call.value(lambda: call.repeated(source) if isinstance(source, Value) else 0.0)


def filled(call: Call) -> float:
    """One number in all entries, which may be a value."""
    number = call.arguments.get("value")
    return call.repeated(number) if isinstance(number, Value) else 0.0


def where(call: Call) -> Value | None:
    """An entry of one of two arguments, by a constant condition."""
    if not isinstance(call["condition"], Tensor) or any(value.shape != call.shape for value in call.values):
        return None
    return joined(call)


def masked_fill(call: Call) -> float | None:
    """A constant where a constant mask is true."""
    x = call["self"]
    return call.repeated(x) if call.values == [x] and not isinstance(call["mask"], Value) else None


def cast(call: Call) -> list[Value] | None:
    """A conversion to another number format: rounding is not counted, but integers have no bound."""
    return rearranged(call) if call.outputs[0].is_floating_point() else None


def sum_of_two(call: Call) -> Value | float:
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


def interpolated(call: Call) -> float | None:
    """`lerp` with a constant weight."""
    a, b, weight = call["self"], call["end"], call["weight"]
    if isinstance(weight, Tensor | Value | Choice):
        return None
    scales = (abs(1 - weight), abs(weight))
    return sum(s * call.repeated(v) for s, v in zip(scales, (a, b), strict=True) if isinstance(v, Value))


def summed(call: Call) -> list[Value]:
    """A sum or mean over axes. After a product with a constant c, it has the norm of c over these axes."""
    x = call.x
    (plain,) = nonnegative(call)
    if x.factors is None:
        return [plain]
    source, factors = x.factors
    dims = call.arguments.get("dim") or list(range(len(x.shape)))
    scale = 1.0 if call.name == "sum" else max(1, call.shape.numel()) / max(1, x.shape.numel())

    def compute() -> float:
        squares = torch.stack([f.square().expand(x.shape).sum(dims) for f in factors])
        together = scale * source.bound * math.sqrt(largest_entry(squares))
        return plain.bound if math.isnan(together) else min(plain.bound, together)

    return [call.value(compute, **call.linear_form(0))]


def matrix_product(call: Call) -> float | None:
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
    matrices = candidates(constant, call.outputs[0])
    if matrices is None:
        return None
    norm = largest_norm(torch.stack([m if m.dim() > 1 else m[None] for m in matrices]))
    return abs(options.get("alpha", 1)) * norm * x.bound


def candidates(factor: Any, like: Tensor) -> list[Tensor] | None:
    """Return the possible values of a constant in double precision, None if they are unknown."""
    if isinstance(factor, Choice):
        factors = factor.candidates()
        return None if factors is None else [f.double() for f in factors]
    if isinstance(factor, Tensor):
        return None if factor.is_complex() else [factor.double()]
    return None if isinstance(factor, complex) else [torch.tensor(factor, dtype=torch.float64, device=like.device)]


def largest_entry(tensor: Tensor) -> float:
    """Return the largest entry, 0 if there is none, NaN if one is NaN."""
    return tensor.max().item() if tensor.numel() else 0.0
