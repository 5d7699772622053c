"""The tables of the report. Most have a row for each arm, with mean ± standard deviation over its finished seeds."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from gan.compare.csv_files import Row
from gan.compare.report import statistics
from gan.compare.report.document import Entry, Table
from gan.compare.report.statistics import Spread
from gan.compare.report.wording import Wording
from gan.compare.status import COMPLETED, FAILED, FINISHED, PENDING, RUNNING
from gan.compare.tags import LIPSCHITZ, METRIC, get_layer_tags, get_metric_tags, get_primary_metric, higher_is_better

EMPTY = "–"
AT_STEP = "at step"  # column of `equal_time.read_at_time`
COSTS = {
    "seconds_per_step": "time per step (s)",
    "peak_memory_mib": "peak memory (MiB)",
    "peak_gpu_memory_mib": "peak GPU memory (MiB)",
}
MAX_RATIO = 1e3  # of the values of a column with the same number of decimals
ARROWS = {None: "", True: " ↑", False: " ↓"}


def get_values(rows: Sequence[Row], column: str) -> dict[str, list[float]]:
    """Return the numbers of a column by arm, from finished cells only. Arms without numbers have an empty list."""
    arms: dict[str, list[float]] = {row["arm"]: [] for row in rows}
    for row in rows:
        if row["status"] == FINISHED and isinstance(row.get(column), float):
            arms[row["arm"]].append(row[column])
    return arms


def get_testable_values(rows: Sequence[Row], column: str) -> dict[str, list[float]]:
    """Return the numbers of a column by arm, as `get_values`, but none for an arm with a cell that did not finish.

    The finished seeds of such an arm are a biased sample.
    """
    unfinished = {row["arm"] for row in rows if row["status"] != FINISHED}
    return {arm: [] if arm in unfinished else values for arm, values in get_values(rows, column).items()}


def build_metric_table(rows: Sequence[Row], wording: Wording) -> Table:
    """Return the metrics. The best arm of the first one is marked, if there is one."""
    caption = f"Metrics of {wording.evaluated} after the last step."
    columns = {tag: tag.removeprefix(METRIC) + ARROWS[higher_is_better(tag)] for tag in get_metric_tags(rows)}
    return _build_arm_table(caption, rows, columns, get_primary_metric(rows), count_unfinished=True)


def build_equal_time_table(rows: Sequence[Row], tag: str, seconds: float) -> Table:
    """Return a metric after the same training time, from the rows that `equal_time.read_at_time` returns."""
    name = tag.removeprefix(METRIC)
    caption = f"{name} at the last evaluation within {seconds:.3g} s of training, the shortest time of an arm."
    columns = {tag: name + ARROWS[higher_is_better(tag)], AT_STEP: AT_STEP}
    return _build_arm_table(caption, rows, columns, tag)


def build_lipschitz_table(rows: Sequence[Row], wording: Wording) -> Table:
    """Return the Lipschitz estimates of the network."""
    caption = f"Lipschitz constant of {wording.network} after the last step: an upper bound, and estimates."
    columns = {tag: name for tag, name in LIPSCHITZ.items() if any(tag in row for row in rows)}
    return _build_arm_table(caption, rows, columns)


def build_layer_table(rows: Sequence[Row], wording: Wording) -> Table:
    """Return the operator norm of each layer of the network."""
    caption = f"Operator norm of each layer of {wording.network} after the last step."
    return _build_arm_table(caption, rows, get_layer_tags(rows))


def build_cost_table(rows: Sequence[Row], wording: Wording) -> Table:
    """Return time and memory."""
    caption = f"Median time of {wording.timed_step}, without measurements; peak memory of the process."
    columns = {tag: name for tag, name in COSTS.items() if any(tag in row for row in rows)}
    return _build_arm_table(caption, rows, columns)


def build_status_table(rows: Sequence[Row]) -> Table:
    """Return the number of cells of each arm by status."""
    others = [status for status in dict.fromkeys(row["status"] for row in rows) if status != FINISHED]
    counts = {arm: Counter(row["status"] for row in rows if row["arm"] == arm) for arm in get_values(rows, "seed")}
    header = ["arm", FINISHED, *others]
    body = [[Entry(arm), *(Entry(str(count[status])) for status in header[1:])] for arm, count in counts.items()]
    return Table("Cells of each arm by how they ended.", header, body)


def build_problem_table(rows: Sequence[Row]) -> Table:
    """Return the cells that diverged, failed or were interrupted, with the reason."""
    body = [
        [Entry(row["cell"]), Entry(row["status"]), Entry(row.get("reason", "") or EMPTY)]
        for row in rows
        if row["status"] not in (FINISHED, PENDING, RUNNING)
    ]
    return Table("Cells without a result in the tables above.", ["cell", "status", "reason"], body)


def build_test_table(rows: Sequence[Row], tag: str, baseline: str) -> Table:
    """Return the tests of a metric against the baseline.

    Arms with a cell that did not finish are not tested, but are counted in Holm's correction.
    """
    values = get_testable_values(rows, tag)
    tests = statistics.compare_with_baseline(baseline, values)
    body = [
        [
            Entry(arm),
            Entry(str(len(values[arm]))),
            Entry(f"{test.difference:+.4g}"),
            Entry("{:+.4g} to {:+.4g}".format(*test.interval)),
            Entry(EMPTY if test.g is None else f"{test.g:+.2f}"),
            Entry(f"{test.p:.3g}"),
            Entry(f"{test.p_holm:.3g}", best=test.p_holm < statistics.ALPHA),
        ]
        for arm, test in tests.items()
    ]
    n = len(values.get(baseline, ()))
    caption = (
        f"{tag.removeprefix(METRIC)} against {baseline} (n = {n}); p below {statistics.ALPHA} after Holm's correction "
        f"marked (arms: {len(values) - 1})."
    )
    return Table(caption, ["arm", "n", "difference of means", "95 % interval", "Hedges' g", "p", "p (Holm)"], body)


def format_spread(spread: Spread | None, n: int, decimals: int | None = None) -> str:
    """Return mean ± standard deviation. The number of values is added unless it equals `n`, the number in the row."""
    if spread is None:
        return EMPTY
    mean, std = ("{:.4g}", "{:.2g}") if decimals is None else [f"{{:,.{decimals}f}}"] * 2
    text = mean.format(spread.mean) if spread.std is None else f"{mean.format(spread.mean)} ± {std.format(spread.std)}"
    return text if spread.n == n else f"{text} (n={spread.n})"


def choose_decimals(spreads: Iterable[Spread | None]) -> int | None:
    """Return the decimals of a column: as many as give a typical standard deviation, or else the largest value, two
    or four digits. Return None if the values differ by too many orders of magnitude for common decimals.
    """
    found = [spread for spread in spreads if spread is not None]
    sizes = [abs(spread.mean) for spread in found if spread.mean]
    if all(spread.mean.is_integer() and not spread.std for spread in found):
        return 0
    if not sizes or max(sizes) > MAX_RATIO * min(sizes) or not 1e-3 < max(sizes) < 1e6:
        return None
    stds = [spread.std for spread in found if spread.std]
    most = 4 - math.floor(math.log10(max(sizes)))
    return max(0, min(most, 1 - math.floor(math.log10(median(stds)))) if stds else most - 1)


def _build_arm_table(
    caption: str,
    rows: Sequence[Row],
    columns: dict[str, str],
    primary: str | None = None,
    count_unfinished: bool = False,
) -> Table:
    """Return a table with a row for each arm.

    `columns` maps tags to column names. The best arm is marked in the column `primary`. With `count_unfinished`, n is
    written as `4 of 5` if seeds diverged or failed.
    """
    finished = get_values(rows, "step")
    spreads = {
        tag: {arm: statistics.compute_spread(values) for arm, values in get_values(rows, tag).items()}
        for tag in columns
    }
    decimals = {tag: choose_decimals(column.values()) for tag, column in spreads.items()}
    best = primary and statistics.find_best(get_testable_values(rows, primary), higher_is_better(primary))
    body = []
    for arm, seeds in finished.items():
        ended = sum(row["arm"] == arm and row["status"] in (*COMPLETED, FAILED) for row in rows)
        n = f"{len(seeds)} of {ended}" if count_unfinished and ended > len(seeds) else str(len(seeds))
        entries = [
            Entry(format_spread(spreads[tag][arm], len(seeds), decimals[tag]), tag == primary and arm == best)
            for tag in columns
        ]
        body.append([Entry(arm), Entry(n), *entries])
    return Table(caption, ["arm", "n", *columns.values()], body)
