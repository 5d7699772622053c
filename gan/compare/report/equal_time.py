"""The metrics of all arms after the same training time, instead of after the same number of steps."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from gan.compare.csv_files import Row
from gan.compare.report.tables import AT_STEP, get_values

SECONDS = "seconds_per_step"


def find_equal_time(rows: Sequence[Row]) -> float | None:
    """Return the training time in seconds of the arm that trains for the shortest time, or None.

    It is None if there are fewer than two arms with finished cells, or if a time per step is not known.
    """
    seconds = get_seconds_per_step(rows)
    steps = _get_means(rows, "step")
    if len(steps) < 2 or seconds.keys() != steps.keys():
        return None
    return min(steps[arm] * seconds[arm] for arm in steps)


def read_at_time(rows: Sequence[Row], curves: Mapping[str, Sequence[Row]], tag: str, time: float) -> list[Row]:
    """Return the rows with the metric `tag` of the last evaluation within `time` seconds of training, and its AT_STEP.

    `curves` has the curve of each cell. All cells of an arm have the same number of steps in this time: the arm's mean
    time per step counts. A cell without an evaluation in this time has no value.
    """
    seconds = get_seconds_per_step(rows)
    read = []
    for row in rows:
        last: Row = {}
        for point in curves[row["cell"]]:
            # A step is part of the time even if the product is larger by a rounding error.
            if tag in point and row["arm"] in seconds and point["step"] * seconds[row["arm"]] <= time * (1 + 1e-9):
                last = {AT_STEP: point["step"], tag: point[tag]}
        read.append({key: row[key] for key in ("cell", "arm", "status", "step") if key in row} | last)
    return read


def get_seconds_per_step(rows: Sequence[Row]) -> dict[str, float]:
    """Return the mean training time per step of each arm that has one."""
    return _get_means(rows, SECONDS)


def _get_means(rows: Sequence[Row], column: str) -> dict[str, float]:
    return {arm: fmean(values) for arm, values in get_values(rows, column).items() if values}
