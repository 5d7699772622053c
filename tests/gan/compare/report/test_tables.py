import pytest

from gan.compare.experiment_types import GAN
from gan.compare.report import tables
from gan.compare.report.wording import get_wording

WORDING = get_wording(GAN)


def build_rows(values: dict[str, list[float | str]], tag: str = "metrics/fd_digits10k_test") -> list[dict]:
    """Rows of results.csv. A number is the metric of a finished cell, a string the status of another cell."""
    return [
        {"cell": f"{arm}-seed{seed}", "arm": arm, "seed": float(seed), "step": 9.0}
        | ({"status": value} if isinstance(value, str) else {"status": "finished", tag: value})
        for arm, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


def get_texts(table) -> list[list[str]]:
    return [[entry.text for entry in row] for row in table.rows]


LOW, HIGH = [1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]


def test_means_and_deviations():
    rows = build_rows({"a": [1.0, 3.0], "b": [1.0, "diverged"], "c": ["failed", "diverged"]})
    table = tables.build_metric_table(rows, WORDING)
    assert table.header == ["arm", "n", "fd_digits10k_test ↓"]
    assert get_texts(table) == [
        ["a", "2", "2.0 ± 1.4"],
        ["b", "1 of 2", "1.0"],
        ["c", "0 of 2", "–"],
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"a": [6.507, 7.6], "b": [13.81], "c": [110.0, 111.5]}, ["7.05 ± 0.77", "13.81", "110.75 ± 1.06"]),
        ({"a": [1000.0, 1000.0], "b": [998.0]}, ["1,000 ± 0", "998"]),
        ({"a": [0.123456], "b": [0.2]}, ["0.1235", "0.2000"]),
        ({"a": [1.72], "b": [22318.4], "c": [3080.0, 3180.0]}, ["1.72", "2.232e+04", "3130 ± 71"]),
        ({"a": [0.0], "b": [2.5]}, ["0.000", "2.500"]),
        ({"a": [3e-9], "b": [2e-9]}, ["3e-09", "2e-09"]),
        ({"a": [0.5, -0.5]}, ["0 ± 0.71"]),
        ({"a": [1.0, 1.0 + 1e-9], "b": [2.0]}, ["1.0000 ± 0.0000", "2.0000"]),
    ],
)
def test_column_has_one_precision(values, expected):
    table = tables.build_metric_table(build_rows(values), WORDING)
    assert [row[2].text for row in table.rows] == expected


def test_best_arm_is_marked_in_the_first_metric_alone():
    rows = build_rows({"a": HIGH, "b": LOW})
    for row in rows:
        row["metrics/modes10k"] = row["peak_memory_mib"] = float(row["seed"])
    table = tables.build_metric_table(rows, WORDING)
    assert table.header[2:] == ["fd_digits10k_test ↓", "modes10k ↑"]
    assert [[entry.best for entry in row[2:]] for row in table.rows] == [[False, False], [True, False]]
    assert not any(entry.best for row in tables.build_cost_table(rows, WORDING).rows for entry in row)


def test_best_arm_if_higher_is_better():
    table = tables.build_metric_table(build_rows({"a": LOW, "b": HIGH}, "metrics/modes10k"), WORDING)
    assert table.header[2] == "modes10k ↑"
    assert [row[2].best for row in table.rows] == [False, True]


@pytest.mark.parametrize(
    "others",
    [LOW, HIGH[:4], [2.0, 3.0, 4.0, 5.0, 6.0], [*HIGH, "diverged"], ["pending"]],
    ids=["equal", "four seeds", "close", "diverged seed", "pending"],
)
def test_no_arm_is_marked_as_the_best(others):
    table = tables.build_metric_table(build_rows({"a": LOW, "b": HIGH, "c": others}), WORDING)
    assert not any(entry.best for row in table.rows for entry in row)


def test_complete_arms_are_tested_and_all_arms_are_counted():
    rows = build_rows({"base": LOW, "worse": HIGH, "few": [20.0, 21.0, 22.0], "broken": [*HIGH, "diverged"]})
    table = tables.build_test_table(rows, "metrics/fd_digits10k_test", "base")
    assert get_texts(table) == [
        ["worse", "5", "+5", "+3.2 to +6.8", "+2.85", "0.00794", "0.0238"],  # 2/252 times three
        ["few", "3", "+18", "+16.47 to +19.53", "+11.06", "0.0179", "0.0357"],  # 1/56 times two
    ]
    assert all(row[-1].best for row in table.rows)


def test_cells_are_counted_by_status():
    rows = build_rows({"a": [1.0, "diverged"], "b": ["failed", "pending"]})
    table = tables.build_status_table(rows)
    assert table.header == ["arm", "finished", "diverged", "failed", "pending"]
    assert get_texts(table) == [["a", "1", "1", "0", "0"], ["b", "0", "0", "1", "1"]]
    assert [row[0].text for row in tables.build_problem_table(rows).rows] == ["a-seed1", "b-seed0"]
