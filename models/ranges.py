"""Ranges of numbers in configs.

Annotate a dataclass field with a range, as in `width: Annotated[int, Range(min=1)]`. The config loader checks it.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Range:
    """A closed interval. Both bounds are optional."""

    min: float = float("-inf")
    max: float = float("inf")

    def __contains__(self, value: float) -> bool:
        return self.min <= value <= self.max

    def __str__(self) -> str:
        if self.max == float("inf"):
            return f"at least {self.min:g}"
        if self.min == float("-inf"):
            return f"at most {self.max:g}"
        return f"from {self.min:g} to {self.max:g}"


AT_LEAST_0 = Range(min=0)
AT_LEAST_1 = Range(min=1)
REPEATS = Range(min=1, max=10_000)  # of a computation within a step; the upper bound keeps it from lasting for ever
SIZE = Range(min=1, max=65_536)  # of a layer; the upper bound keeps the number of weights from overflowing
INT64 = Range(min=-(2**63), max=2**63 - 1)  # of all whole numbers
