import pytest

from gan.compare.report.families import choose_best, sort_arms, split_arm

ARMS = ["none,lr=1e-3", "b,strided,lr=1e-2", "none,lr=1e-2", "b,lr=1e-2", "b,lr=1e-1", "other", "c,x", "c,y"]


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("none,lr=1e-2", ("none", "lr=1e-2")),
        ("b,strided,lr=1e-2", ("b,strided", "lr=1e-2")),
        ("b,lr=1e-1", ("b", "lr=1e-1")),  # no other arm has this rate, but b has another one
        ("none,lr=1e-3", ("none", "lr=1e-3")),
        ("other", ("other", "")),
        ("c,x", ("c,x", "")),
    ],
)
def test_family_and_group(arm, expected):
    assert split_arm(arm, ARMS) == expected


def test_arms_are_sorted_by_family_and_number():
    assert sort_arms(["a,lr=1e-2", "b,lr=3e-4", "a,lr=3e-4", "b,lr=1e-2", "c", "a,lr=1e-1"]) == [
        *("a,lr=3e-4", "a,lr=1e-2", "a,lr=1e-1"),
        *("b,lr=3e-4", "b,lr=1e-2"),
        "c",
    ]
    assert sort_arms(["a,r1", "a", "b,r1", "b"]) == ["a", "a,r1", "b", "b,r1"]


def test_best_of_a_family_has_the_most_seeds_and_then_the_best_mean():
    values = {"a,lr=1": [5.0], "a,lr=2": [3.0, 9.0], "a,lr=3": [4.0, 5.0], "b,lr=1": [2.0], "b,lr=2": [3.0], "c": []}
    assert choose_best(values, higher=False) == ["a,lr=3", "b,lr=1"]
    assert choose_best(values, higher=True) == ["a,lr=2", "b,lr=2"]


def test_best_is_chosen_among_learning_rates_and_not_among_conditions():
    values = {"a,noise=0": [9.0], "a,noise=1": [5.0], "b,noise=0": [8.0], "b,noise=1": [4.0]}
    assert choose_best(values, higher=True) == []
    rates = {"c,lr=1": [1.0], "c,lr=2": [2.0], "d,lr=1": [1.0], "d,lr=2": []}
    assert choose_best(values | rates, higher=True) == [*values, "c,lr=2", "d,lr=1"]
