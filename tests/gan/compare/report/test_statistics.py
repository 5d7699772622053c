import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test

from gan.compare.report.statistics import compare_with, holm, permutation_p, smallest_p, spread


def enumerated(a: list[float], b: list[float]) -> float:
    """The definition, written out: all splits, one by one, in exact arithmetic."""
    pooled = [Fraction(value) for value in (*a, *b)]
    extreme = 0
    for chosen in itertools.combinations(range(len(pooled)), len(a)):
        mine = [pooled[i] for i in chosen]
        others = [pooled[i] for i in range(len(pooled)) if i not in chosen]
        difference = abs(sum(mine) / len(a) - sum(others) / len(b))
        if chosen == tuple(range(len(a))):  # the first split is the one that was observed
            observed = difference
        extreme += difference >= observed
    return extreme / math.comb(len(pooled), len(a))


def test_groups_apart_reach_the_smallest_p():
    assert permutation_p([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(2 / 252)
    assert permutation_p([6, 7, 8], [1, 2, 3]) == pytest.approx(0.1)  # three seeds cannot do better
    assert smallest_p(5) == pytest.approx(2 / 252)
    assert smallest_p(3) == pytest.approx(0.1)


def test_a_p_value_counted_by_hand():
    # Of the 6 splits of 1, 2, 3, 10 in pairs, {1,10}, {2,3}, {2,10}, {1,3}, {3,10}, {1,2} differ by 3, 3, 4, 4, 5, 5.
    assert permutation_p([2, 10], [1, 3]) == pytest.approx(4 / 6)
    assert permutation_p([1], [2, 3]) == pytest.approx(2 / 3)  # means 1 and 2.5; 2 and 2; 3 and 1.5


def test_equal_groups_differ_by_chance_alone():
    assert permutation_p([1.0, 4.0], [2.0, 3.0]) == 1
    assert permutation_p([1.0, 2.0], [1.0, 2.0]) == 1
    assert permutation_p([3.0] * 5, [3.0] * 6) == 1


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=5),
    st.lists(st.integers(-6400, 6400).map(lambda n: n / 64), min_size=1, max_size=5),  # ties are exact, or far from it
)
def test_p_is_the_share_of_splits_that_are_as_extreme(a, b):
    assert permutation_p(a, b) == pytest.approx(enumerated(a, b))


def test_p_agrees_with_scipy():
    random = np.random.default_rng(0)
    a, b = random.normal(size=6), random.normal(0.8, size=5)
    theirs = permutation_test(
        (a, b), lambda x, y: abs(np.mean(x) - np.mean(y)), alternative="greater", n_resamples=np.inf
    )
    assert permutation_p(list(a), list(b)) == pytest.approx(theirs.pvalue)


def test_many_seeds_are_still_exact():
    assert permutation_p(list(range(15)), list(range(100, 115))) == pytest.approx(2 / math.comb(30, 15), rel=1e-12)


def test_an_empty_group_is_an_error():
    with pytest.raises(ValueError, match="values in both groups"):
        permutation_p([], [1.0])


def test_holms_correction():
    # Holm (1979): the smallest times 4, the next times 3, ...; never below the one before, never above 1.
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm({"a": 0.5, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_spread():
    seen = spread([1.0, 3.0])
    assert (seen.mean, seen.std, seen.n) == (2.0, pytest.approx(math.sqrt(2)), 2)
    assert spread([4.0]).std is None
    assert spread([]) is None


def test_only_arms_of_five_seeds_are_tested():
    low, high = [1.0, 2, 3, 4, 5], [6.0, 7, 8, 9, 10]
    tests = compare_with("none", {"none": low, "far": high, "near": low, "few": high[:4]})
    assert set(tests) == {"far", "near"}
    assert tests["far"].difference == 5
    assert (tests["far"].p, tests["far"].p_holm) == pytest.approx((2 / 252, 4 / 252))
    assert tests["near"].p_holm == tests["near"].p == permutation_p(low, low)
    assert compare_with("none", {"none": low[:4], "far": high}) == {}
    assert compare_with("absent", {"far": high}) == {}
