"""What is known about the tensors of a trace: how much each can change with x, and of what form its dependence is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from metrics.lipschitz.convolution import Convolution

LinearMap = Callable[[Tensor], Tensor]

LONGEST_CHAIN = 16
"""Operations of a linear map that are evaluated as one; each evaluation repeats all of them"""


@dataclass(eq=False)
class Value:
    """A tensor that depends on x. Two values are equal only if they are the same object."""

    shape: torch.Size
    device: torch.device
    compute: Callable[[], float]
    """Returns an upper bound (l2) of x -> value; it is called only if the bound is used"""
    label: str = "x"
    inputs: Sequence["Value"] = ()
    root: "Value | None" = None
    """If the value is a linear map with nonnegative entries of another value, plus a constant: that value"""
    apply: LinearMap = lambda x: x
    """The linear map, on tensors in the shape of `root`, plus a constant"""
    chain: int = 0
    convolution: "tuple[Convolution, Value] | None" = None
    """If the value is a convolution of another value, plus a constant: both"""
    factors: "tuple[Value, list[Tensor]] | None" = None
    """If the value is another value times one of several constants in its shape: both"""
    order: "tuple[str, Value, Value] | None" = None
    """If the value is the maximum or the minimum of two values in its shape: which, and both"""

    @cached_property
    def bound(self) -> float:
        """The bound, computed once."""
        bound = self.compute()
        return math.inf if math.isnan(bound) else bound  # zero times infinity is unknown

    def find_reason(self) -> str:
        """Return the label of the first operation without a bound, for a value without a bound."""
        value = self
        while cause := next((v for v in value.inputs if math.isinf(v.bound)), None):
            value = cause
        return value.label


@dataclass(eq=False)
class Choice:
    """A tensor that depends only on labels y, with values 0 .. count - 1, or that is unknown and constant."""

    shape: torch.Size
    evaluate: Callable[[Tensor], Tensor] | None
    """Returns the tensor for labels y (1,), None if it is unknown"""
    count: float = math.inf

    def at(self, label: Tensor) -> Tensor:
        """Return the tensor for labels y (1,), if it is known."""
        assert self.evaluate is not None
        return self.evaluate(label)

    def candidates(self) -> list[Tensor] | None:
        """Return the tensor for each label, None if there are infinitely many."""
        if self.evaluate is None or math.isinf(self.count):
            return None
        return [self.at(torch.tensor([label])) for label in range(int(self.count))]


def schur_bound(shape: Sequence[int], device: Any, maps: Sequence[LinearMap]) -> float:
    """Return an upper bound of the norm of x -> (A_1 x, A_2 x, ...) for linear maps A_i without negative entries.

    Schur's test: ||A||² is at most the largest row sum times the largest column sum of A. They are A 1 and Aᵀ 1. The
    maps may add a constant. The result is exact for maps that repeat or average entries evenly.
    """
    with torch.enable_grad():
        ones = torch.ones(shape, dtype=torch.float64, device=device, requires_grad=True)
        outputs = torch.cat([apply(ones).flatten() for apply in maps])
        if not outputs.requires_grad:
            return 0.0
        (columns,) = torch.autograd.grad(outputs.sum(), ones)
    with torch.no_grad():
        constant = torch.cat([apply(torch.zeros_like(ones)).flatten() for apply in maps])
        largest = [t.max().item() if t.numel() else 0.0 for t in (outputs - constant, columns)]
    return math.sqrt(math.prod(largest))


def joint_bound(values: Sequence[Value]) -> float:
    """Return an upper bound of x -> (v_1, v_2, ...), all values side by side."""
    if not values:
        return 0.0
    values = _unsorted(values)
    separate = math.sqrt(sum(value.bound**2 for value in values))
    roots = {id(value.root or value): value.root or value for value in values}
    if len(values) == 1 or len(roots) > 1:
        return separate
    (root,) = roots.values()
    return min(separate, root.bound * schur_bound(root.shape, root.device, [value.apply for value in values]))


def _unsorted(values: Sequence[Value]) -> list[Value]:
    """Replace the maximum and the minimum of two values by the values: sorting pairs has norm 1."""
    found = {value.order: value for value in values if value.order is not None}
    kept = list(values)
    for (kind, a, b), value in found.items():
        other = found.get(("minimum", a, b)) or found.get(("minimum", b, a))
        if kind == "maximum" and other in kept and value in kept:
            kept = [v for v in kept if v not in (value, other)] + [a, b]
    return kept
