"""Significance of a difference between two arms, from a few seeds each.

The test is the exact two-sample permutation test (Fisher, 1935; Pitman, 1937) of the difference of means. Under the
null hypothesis both arms have the same distribution, so that every split of the pooled values is equally likely.

The alternative is a paired test with sign flips, with one pair for each seed. It is not used for two reasons. Its
smallest p-value for n seeds is 2 / 2^n, which is 0.063 for 5 seeds, while the two-sample test can reach 2 / 252. And
two runs with the same seed diverge within some hundred steps, so that a pair has little in common. A remaining positive
correlation makes the two-sample test conservative.

Beside each test there are two sizes of the effect: the difference of means with a bootstrap interval (Efron, 1979), and
Hedges' g, the difference in units of the standard deviation (Hedges, 1981).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
MIN_SEEDS = 5  # of each arm, before one of them is called the best
RESAMPLES = 10_000
HUGE = 1e100  # the sum of squares of a few smaller values is finite


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation (None for a single value) and number of values."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class BaselineTest:
    """A test of an arm against the baseline: difference of means with its interval, Hedges' g or None, exact p-value,
    and Holm's corrected p-value.
    """

    difference: float
    interval: tuple[float, float]
    g: float | None
    p: float
    p_holm: float


def compute_spread(values: Sequence[float]) -> Spread | None:
    """Return the spread of the values, or None without values."""
    if not values:
        return None
    scaled, factor = _scale(values)
    std = factor * float(np.std(scaled, ddof=1)) if len(values) > 1 else None
    return Spread(_mean(values), std, len(values))


def permutation_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the exact two-sided p-value of the difference of means.

    It is the fraction of all splits of the pooled values into groups of these sizes whose absolute difference of means
    is at least the observed one. More than 20 values per group take seconds and GiB of memory. Raises ValueError for an
    empty group.
    """
    if not a or not b:
        raise ValueError("a permutation test needs values in both groups")
    pooled, _ = _scale([*a, *b])
    pooled -= pooled.mean()  # now mean(a) - mean(b) = sum(a) * (1/len(a) + 1/len(b))
    observed = abs(pooled[: len(a)].sum())
    threshold = observed - 1e-9 * max(observed, float(np.abs(pooled).max()))  # counts ties in spite of rounding
    if threshold <= 0:
        return 1.0
    half = len(pooled) // 2
    left, right = _compute_subset_sums(pooled[:half]), _compute_subset_sums(pooled[half:])
    extreme = 0
    for size, sums in enumerate(left):
        if 0 <= len(a) - size < len(right):
            others = np.sort(right[len(a) - size])
            extreme += (len(others) - np.searchsorted(others, threshold - sums, side="left")).sum()
            extreme += np.searchsorted(others, -threshold - sums, side="right").sum()
    return int(extreme) / math.comb(len(pooled), len(a))


def bootstrap_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of mean(a) - mean(b), from resamples of both groups.

    With few values it is too short. Of normally distributed values, it contains the true difference in 88 % of cases
    for 5 against 5, and in 92 % for 10 against 10.
    """
    random = np.random.default_rng(0)
    scaled, factor = _scale([*a, *b])
    groups = np.split(scaled, [len(a)])
    means = [random.choice(group, (RESAMPLES, len(group))).mean(axis=1) for group in groups]
    low, high = np.quantile(means[0] - means[1], [ALPHA / 2, 1 - ALPHA / 2])
    return factor * float(low), factor * float(high)


def hedges_g(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return (mean(a) - mean(b)) / s J, with s the pooled standard deviation and J the exact correction of the bias.

    J = Γ(m/2) / (√(m/2) Γ((m-1)/2)) for m = len(a) + len(b) - 2 degrees of freedom (Hedges, 1981, eq. 6e). Return None
    if s is zero or m < 2.
    """
    m = len(a) + len(b) - 2
    first, second = np.split(_scale([*a, *b])[0], [len(a)])
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in (first, second))
    if m < 2 or all(group.min() == group.max() for group in (first, second)):
        return None
    j = math.exp(math.lgamma(m / 2) - math.lgamma((m - 1) / 2)) / math.sqrt(m / 2)
    return float((first.mean() - second.mean()) / math.sqrt(squares / m) * j)


def find_best(values: Mapping[str, Sequence[float]], higher_is_better: bool | None) -> str | None:
    """Return the arm that is better than every other one with p < ALPHA, or None.

    All p-values must be small, so that none needs a correction. Return None if an arm has fewer than MIN_SEEDS values,
    for a single arm, or if the direction is unknown.
    """
    if higher_is_better is None or len(values) < 2 or min(map(len, values.values())) < MIN_SEEDS:
        return None
    best = (max if higher_is_better else min)(values, key=lambda arm: _mean(values[arm]))
    others = [sample for arm, sample in values.items() if arm != best]
    return best if all(permutation_p(values[best], sample) < ALPHA for sample in others) else None


def smallest_p(n: int, m: int) -> float:
    """Return the smallest two-sided p-value that is possible with n values in one group and m in the other.

    With n = m, the split with both groups exchanged has the same absolute difference, so that two splits count.
    """
    if min(n, m) < 1:
        return 1.0
    return (2 if n == m else 1) / math.comb(n + m, n)


def correct_holm(p_values: Mapping[str, float], family: int | None = None) -> dict[str, float]:
    """Return p-values corrected for multiple testing (Holm, 1979), which controls the family-wise error rate.

    `family` is the number of hypotheses, by default the number of p-values. Those without a p-value count as if they
    had p = 1.
    """
    size = len(p_values) if family is None else family
    if size < len(p_values):
        raise ValueError(f"a family of {size} hypotheses cannot have {len(p_values)} p-values")
    corrected: dict[str, float] = {}
    highest = 0.0
    for i, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (size - i) * p))
        corrected[name] = highest
    return corrected


def compare_with_baseline(baseline: str, values: Mapping[str, Sequence[float]]) -> dict[str, BaselineTest]:
    """Return a test for each arm whose number of values, and that of the baseline, allow p < ALPHA.

    Holm's family is every other arm in `values`, tested or not: a reader who looks at all of them makes all of these
    comparisons.
    """
    reference = values.get(baseline, ())
    others = {arm: sample for arm, sample in values.items() if arm != baseline}
    arms = {arm: sample for arm, sample in others.items() if smallest_p(len(sample), len(reference)) < ALPHA}
    p_values = {arm: permutation_p(sample, reference) for arm, sample in arms.items()}
    corrected = correct_holm(p_values, family=len(others))
    return {
        arm: BaselineTest(
            _mean(sample) - _mean(reference),
            bootstrap_interval(sample, reference),
            hedges_g(sample, reference),
            p_values[arm],
            corrected[arm],
        )
        for arm, sample in arms.items()
    }


def _mean(values: Sequence[float]) -> float:
    scaled, factor = _scale(values)
    return factor * float(np.mean(scaled))


def _scale(values: Sequence[float]) -> tuple[np.ndarray, float]:
    """Return values without a common factor, and the factor: a power of 2, so that the squares of huge values exist."""
    array = np.array(values, dtype=np.float64)
    factor = 2.0**600 if np.abs(array).max() > HUGE else 1.0
    return array / factor, factor


def _compute_subset_sums(values: np.ndarray) -> list[np.ndarray]:
    """Return the sums of all subsets, grouped by the size of the subset."""
    sums = [np.zeros(1)]
    for value in values:
        empty = np.empty(0)
        sums = [
            np.concatenate([without, with_value + value])
            for without, with_value in zip([*sums, empty], [empty, *sums], strict=True)
        ]
    return sums
