"""What may be claimed of a difference between two arms, seen over a few seeds.

The test is the exact two-sample permutation test (Fisher, 1935; Pitman, 1937) of the difference of means: under the
hypothesis that both arms draw from one distribution every split of the pooled values is as likely as the one seen.
Pairing by seed, with sign flips, is the other choice. It was not taken: with n seeds its p is at least 2 / 2^n, 0.063
for 5, so that 5 seeds could claim nothing, where the two-sample test reaches 2 / 252; and runs of one seed part within
some hundred steps, so that a pair has little in common. What it has makes the two-sample test cautious, not bold.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIN_SEEDS = 5  # of each arm, for a test
ALPHA = 0.05


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation (None of a single value) and number of values."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Test:
    """An arm against the baseline: difference of means, exact p, and p after Holm's correction."""

    difference: float
    p: float
    p_holm: float


def spread(values: Sequence[float]) -> Spread | None:
    """Return the spread of the values, or None of no values."""
    if not values:
        return None
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values))


def permutation_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the exact two-sided p of the difference of means: the share of all splits of the pooled values into groups
    of these sizes whose means differ as much as those of `a` and `b`, or more.

    Takes some seconds and GiB for more than 20 values a group. Raises ValueError for an empty group.
    """
    if not a or not b:
        raise ValueError("a permutation test needs values in both groups")
    pooled = np.array([*a, *b], dtype=np.float64)
    pooled -= pooled.mean()  # mean(a) - mean(b) is then sum(a) * (1/len(a) + 1/len(b))
    observed = abs(pooled[: len(a)].sum())
    threshold = observed - 1e-9 * max(observed, float(np.abs(pooled).max()))  # ties are as extreme
    if threshold <= 0:
        return 1.0
    half = len(pooled) // 2
    left, right = _subset_sums(pooled[:half]), _subset_sums(pooled[half:])
    extreme = 0
    for taken, sums in enumerate(left):
        if 0 <= len(a) - taken < len(right):
            others = np.sort(right[len(a) - taken])
            extreme += (len(others) - np.searchsorted(others, threshold - sums, side="left")).sum()
            extreme += np.searchsorted(others, -threshold - sums, side="right").sum()
    return int(extreme) / math.comb(len(pooled), len(a))


def smallest_p(n: int) -> float:
    """Return the smallest two-sided p that n values in each of two groups can reach."""
    return 2 / math.comb(2 * n, n) if n > 0 else 1.0


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the p values corrected for their number (Holm, 1979), which bounds the chance of any false claim."""
    corrected: dict[str, float] = {}
    highest = 0.0
    for i, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p_values) - i) * p))
        corrected[name] = highest
    return corrected


def compare_with(baseline: str, values: Mapping[str, Sequence[float]]) -> dict[str, Test]:
    """Return a test for each arm that has MIN_SEEDS values or more, as the baseline must have too."""
    reference = values.get(baseline, ())
    if len(reference) < MIN_SEEDS:
        return {}
    arms = {arm: seen for arm, seen in values.items() if arm != baseline and len(seen) >= MIN_SEEDS}
    p_values = {arm: permutation_p(seen, reference) for arm, seen in arms.items()}
    corrected = holm(p_values)
    return {
        arm: Test(float(np.mean(seen) - np.mean(reference)), p_values[arm], corrected[arm])
        for arm, seen in arms.items()
    }


def _subset_sums(values: np.ndarray) -> list[np.ndarray]:
    """Return, for each size, the sums of all subsets of that size."""
    sums = [np.zeros(1)]
    for value in values:
        empty = np.empty(0)
        sums = [
            np.concatenate([without, with_it + value])
            for without, with_it in zip([*sums, empty], [empty, *sums], strict=True)
        ]
    return sums
