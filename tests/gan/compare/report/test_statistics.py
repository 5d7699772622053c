import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, permutation_test

from gan.compare.report.statistics import (
    bootstrap_interval,
    compare_with_baseline,
    compute_spread,
    correct_holm,
    hedges_g,
    permutation_p,
    smallest_p,
)


def enumerate_splits(a: list[float], b: list[float]) -> float:
    """The p-value by its definition: enumerate all splits in exact arithmetic."""
    pooled = [Fraction(value) for value in (*a, *b)]
    extreme = 0
    for chosen in itertools.combinations(range(len(pooled)), len(a)):
        first = [pooled[i] for i in chosen]
        second = [pooled[i] for i in range(len(pooled)) if i not in chosen]
        difference = abs(sum(first) / len(a) - sum(second) / len(b))
        if chosen == tuple(range(len(a))):  # the first split is the observed one
            observed = difference
        extreme += difference >= observed
    return extreme / math.comb(len(pooled), len(a))


def test_separate_groups_have_the_smallest_p():
    assert permutation_p([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(2 / 252)
    assert permutation_p([6, 7, 8], [1, 2, 3]) == pytest.approx(0.1)  # the smallest p of three seeds


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (2, 2), (2, 3), (3, 3), (3, 5), (4, 5), (5, 5)])
def test_smallest_p_is_that_of_the_most_extreme_values(n, m):
    few, many = [100.0**i for i in range(3, 3 + n)], [2.0**i for i in range(m)]  # only a mirror split is as extreme
    assert smallest_p(n, m) == smallest_p(m, n) == pytest.approx(permutation_p(few, many))


def test_smallest_p_without_values():
    assert smallest_p(0, 5) == smallest_p(5, 0) == smallest_p(0, 0) == 1


def test_smallest_p_of_three_against_five():
    assert smallest_p(3, 5) == pytest.approx(1 / 56)  # 0.018


def test_p_counted_by_hand():
    # The 6 splits of 1, 2, 3, 10 into pairs by difference: {1,10}, {2,3}: 3; {2,10}, {1,3}: 4; {3,10}, {1,2}: 5.
    assert permutation_p([2, 10], [1, 3]) == pytest.approx(4 / 6)
    assert permutation_p([1], [2, 3]) == pytest.approx(2 / 3)  # means 1 and 2.5; 2 and 2; 3 and 1.5


def test_equal_means_have_p_one():
    assert permutation_p([1.0, 4.0], [2.0, 3.0]) == 1
    assert permutation_p([1.0, 2.0], [1.0, 2.0]) == 1
    assert permutation_p([3.0] * 5, [3.0] * 6) == 1


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=5),
    st.lists(st.integers(-6400, 6400).map(lambda n: n / 64), min_size=1, max_size=5),  # ties are exact
)
def test_p_equals_the_enumeration(a, b):
    assert permutation_p(a, b) == pytest.approx(enumerate_splits(a, b))


def test_p_equals_scipy():
    random = np.random.default_rng(0)
    a, b = random.normal(size=6), random.normal(0.8, size=5)
    expected = permutation_test(
        (a, b), lambda x, y: abs(np.mean(x) - np.mean(y)), alternative="greater", n_resamples=np.inf
    )
    assert permutation_p(list(a), list(b)) == pytest.approx(expected.pvalue)


def test_p_of_many_seeds():
    assert permutation_p(list(range(15)), list(range(100, 115))) == pytest.approx(2 / math.comb(30, 15), rel=1e-12)


def test_empty_group_is_an_error():
    with pytest.raises(ValueError, match="values in both groups"):
        permutation_p([], [1.0])


def test_holm_correction():
    # Holm (1979): the smallest times 4, the next times 3, and so on, at least the previous one, at most 1.
    assert correct_holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert correct_holm({"a": 0.5, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert correct_holm({}) == {}


def test_spread():
    spread = compute_spread([1.0, 3.0])
    assert (spread.mean, spread.std, spread.n) == (2.0, pytest.approx(math.sqrt(2)), 2)
    assert compute_spread([4.0]).std is None
    assert compute_spread([]) is None


def test_hypotheses_without_p_value_are_counted_by_holm():
    assert correct_holm({"a": 0.01, "b": 0.002}, family=4) == pytest.approx({"b": 0.008, "a": 0.03})
    assert correct_holm({"a": 0.01, "b": 1.0}) == pytest.approx(correct_holm({"a": 0.01}, family=2) | {"b": 1.0})
    with pytest.raises(ValueError, match="family of 1"):
        correct_holm({"a": 0.01, "b": 0.002}, family=1)


def test_arms_whose_seeds_can_show_a_difference_are_tested():
    low, high = [1.0, 2, 3, 4, 5], [6.0, 7, 8, 9, 10]
    tests = compare_with_baseline("none", {"none": low, "far": high, "near": low, "few": [9.0, 10, 11], "one": [20.0]})
    assert set(tests) == {"far", "near", "few"}  # one value against five cannot reach p < 0.05
    assert tests["far"].difference == 5
    assert (tests["far"].p, tests["far"].p_holm) == pytest.approx((2 / 252, 4 * 2 / 252))  # four arms, also "one"
    assert (tests["few"].p, tests["few"].p_holm) == pytest.approx((1 / 56, 3 / 56))
    assert tests["near"].p == tests["near"].p_holm == 1
    assert compare_with_baseline("none", {"none": low[:3], "far": high[:3]}) == {}
    assert set(compare_with_baseline("none", {"none": low[:4], "far": high[:4]})) == {"far"}  # 2 / 70
    assert compare_with_baseline("absent", {"far": high}) == {}


def test_interval_equals_scipy():
    random = np.random.default_rng(0)
    a, b = random.normal(size=6), random.normal(0.8, size=5)
    expected = bootstrap(
        (a, b), lambda x, y, axis: np.mean(x, axis) - np.mean(y, axis), n_resamples=100_000, method="percentile"
    ).confidence_interval
    assert bootstrap_interval(list(a), list(b)) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_coverage_of_the_interval_for_five_seeds():
    random = np.random.default_rng(0)
    intervals = [bootstrap_interval(*random.normal(size=(2, 5))) for _ in range(300)]
    assert np.mean([low <= 0 <= high for low, high in intervals]) == pytest.approx(0.88, abs=0.05)


def test_effect_in_units_of_the_standard_deviation():
    # Hedges (1981), table 1: the correction for 8 degrees of freedom is 0.9027, that for 2 is 0.5642.
    assert hedges_g([6.0, 7, 8, 9, 10], [1.0, 2, 3, 4, 5]) == pytest.approx(5 / math.sqrt(2.5) * 0.9027, rel=1e-4)
    assert hedges_g([1.0, 2], [3.0, 4]) == pytest.approx(-2 / math.sqrt(0.5) * 0.5642, rel=1e-4)
    assert hedges_g([0.7] * 6, [0.9] * 6) is None  # whose mean is rounded
    assert hedges_g([1.0, 2], [3.0]) is None


def test_effect_is_unbiased():
    random = np.random.default_rng(0)
    values = [hedges_g(random.normal(1, size=4), random.normal(size=4)) for _ in range(4000)]
    assert np.mean(values) == pytest.approx(1, abs=0.04)  # without the correction 1.15


def test_huge_values_have_the_same_statistics():
    a, b = [1.0, 2.0, 3.5, 4.0], [5.0, 7.0, 6.0, 8.5]
    huge_a, huge_b = ([value * 2.0**1020 for value in values] for values in (a, b))
    spread, huge = compute_spread(a), compute_spread(huge_a)
    assert (huge.mean, huge.std) == (spread.mean * 2.0**1020, spread.std * 2.0**1020)
    assert permutation_p(huge_a, huge_b) == permutation_p(a, b)
    huge, test = (compare_with_baseline("b", {"a": x, "b": y})["a"] for x, y in ((huge_a, huge_b), (a, b)))
    assert (huge.difference, *huge.interval) == tuple(value * 2.0**1020 for value in (test.difference, *test.interval))
    assert huge.g == test.g
