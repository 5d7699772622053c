import pytest

from gan.compare.report import tables
from gan.compare.report.equal_time import find_equal_time, read_at_time

TAG = "metrics/fd_digits10k_test"


def build_row(cell: str, seconds: float | None, status: str = "finished") -> dict:
    times = {} if seconds is None else {"seconds_per_step": seconds}
    return {"cell": cell, "arm": cell[0], "status": status, "step": 4.0, TAG: 1.0} | times


def build_curve(values: list[float]) -> list[dict]:
    points = [{"step": float(step), TAG: float(value)} for step, value in enumerate(values, start=1)]
    return [{"step": 0.0, "lipschitz/D/product": 9.0}, *points]


def test_slow_arm_is_read_at_an_earlier_step():
    rows = [build_row("a0", 0.1), build_row("b0", 0.1), build_row("b1", 0.3)]  # b: 0.2 s per step
    curves = {"a0": build_curve([8, 4, 2, 1]), "b0": build_curve([9, 5, 3, 1]), "b1": build_curve([7, 6, 3, 1])}
    seconds = find_equal_time(rows)
    assert seconds == pytest.approx(0.4)
    read = read_at_time(rows, curves, TAG, seconds)
    assert [(row[tables.AT_STEP], row[TAG]) for row in read] == [(4, 1), (2, 5), (2, 6)]
    table = tables.build_equal_time_table(read, TAG, seconds)
    assert [[entry.text for entry in row] for row in table.rows] == [
        ["a", "1", "1.00", "4"],
        ["b", "2", "5.50 ± 0.71", "2 ± 0"],
    ]


def test_best_arm_after_equal_time_is_marked():
    rows = [
        {"cell": f"{arm}{seed}", "arm": arm, "status": "finished", "step": 4.0, TAG: value, tables.AT_STEP: 2.0}
        for arm, values in (("a", [1.0, 2.0, 3.0, 4.0, 5.0]), ("b", [6.0, 7.0, 8.0, 9.0, 10.0]))
        for seed, value in enumerate(values)
    ]
    table = tables.build_equal_time_table(rows, TAG, 0.4)
    assert [[entry.best for entry in row[2:]] for row in table.rows] == [[True, False], [False, False]]


def test_arm_without_an_evaluation_in_the_time_has_no_value():
    rows = [build_row("a0", 0.1), build_row("b0", 1.0)]
    read = read_at_time(rows, {"a0": build_curve([4, 3, 2, 1]), "b0": build_curve([4])}, TAG, 0.4)
    assert TAG not in read[1]
    rows = tables.build_equal_time_table(read, TAG, 0.4).rows
    assert [entry.text for entry in rows[1]] == ["b", "1", "–", "–"]


@pytest.mark.parametrize(
    "rows",
    [
        [build_row("a0", 0.1)],
        [build_row("a0", 0.1), build_row("b0", None)],
        [build_row("a0", 0.1), build_row("b0", 0.1, "diverged")],
    ],
)
def test_no_equal_time_without_two_arms_of_known_speed(rows):
    assert find_equal_time(rows) is None
