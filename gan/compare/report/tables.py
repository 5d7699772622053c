"""The tables of the report: a row for each arm, mean ± standard deviation over its finished seeds."""

from collections import Counter
from collections.abc import Callable, Sequence

from gan.compare.experiment_types import GAN, Kind
from gan.compare.outcome import ENDED, FINISHED, PENDING, RUNNING
from gan.compare.report import statistics
from gan.compare.report.document import Entry, Table
from gan.compare.report.statistics import Spread
from gan.compare.results import Row
from gan.compare.tags import LIPSCHITZ, METRIC, higher_is_better, layer_tags, metric_tags

NOTHING = "–"
COSTS = {
    "seconds_per_step": "time per step (s)",
    "peak_memory_mib": "peak memory (MiB)",
    "peak_gpu_memory_mib": "peak GPU memory (MiB)",
}


def get_values(rows: Sequence[Row], column: str) -> dict[str, list[float]]:
    """Return, for each arm, the numbers of its finished cells in a column; arms without any have an empty list."""
    arms: dict[str, list[float]] = {row["arm"]: [] for row in rows}
    for row in rows:
        if row["status"] == FINISHED and isinstance(row.get(column), float):
            arms[row["arm"]].append(row[column])
    return arms


def quality(rows: Sequence[Row], kind: Kind = GAN) -> Table:
    """Return the metrics, the best mean of each marked."""
    caption = f"Metrics of {kind.evaluated} after the last step."
    tags = metric_tags(rows)
    arrows = {None: "", True: " ↑", False: " ↓"}
    columns = {tag: tag.removeprefix(METRIC) + arrows[higher_is_better(tag)] for tag in tags}
    return _by_arm(caption, rows, columns, higher_is_better, True)


def lipschitz(rows: Sequence[Row], kind: Kind = GAN) -> Table:
    """Return the Lipschitz estimates of D, or of the classifier."""
    caption = f"Lipschitz constant of {kind.subject} after the last step: an upper bound, and estimates."
    columns = {tag: name for tag, name in LIPSCHITZ.items() if any(tag in row for row in rows)}
    return _by_arm(caption, rows, columns)


def layers(rows: Sequence[Row], kind: Kind = GAN) -> Table:
    """Return the operator norm of each layer of D, or of the classifier."""
    return _by_arm(f"Operator norm of each layer of {kind.subject} after the last step.", rows, layer_tags(rows))


def costs(rows: Sequence[Row], kind: Kind = GAN) -> Table:
    """Return time and memory, the lowest marked."""
    caption = f"Median time of {kind.long_step}, without measurements; peak memory of the process."
    columns = {tag: name for tag, name in COSTS.items() if any(tag in row for row in rows)}
    return _by_arm(caption, rows, columns, lambda tag: False)


def endings(rows: Sequence[Row]) -> Table:
    """Return how many cells of each arm ended in which way."""
    statuses = [status for status in dict.fromkeys(row["status"] for row in rows) if status != FINISHED]
    counts = {arm: Counter(row["status"] for row in rows if row["arm"] == arm) for arm in get_values(rows, "seed")}
    header = ["arm", FINISHED, *statuses]
    body = [[Entry(arm), *(Entry(str(count[status])) for status in header[1:])] for arm, count in counts.items()]
    return Table("Cells of each arm by how they ended.", header, body)


def troubles(rows: Sequence[Row]) -> Table:
    """Return the cells that came to no good end, and why."""
    body = [
        [Entry(row["cell"]), Entry(row["status"]), Entry(row.get("reason", "") or NOTHING)]
        for row in rows
        if row["status"] not in (FINISHED, PENDING, RUNNING)
    ]
    return Table("Cells without a result in the tables above.", ["cell", "status", "reason"], body)


def significance(rows: Sequence[Row], tag: str, baseline: str) -> Table:
    """Return the tests of a metric against the baseline; arms with a cell that diverged or failed have none, since the
    seeds that are left are no fair sample of them.
    """
    values = get_values(rows, tag)
    whole = {arm for arm in values if all(row["status"] == FINISHED for row in rows if row["arm"] == arm)}
    tests = statistics.compare_with(baseline, {arm: seen for arm, seen in values.items() if arm in whole})
    counts = {arm: len(seen) for arm, seen in values.items()}
    body = [
        [
            *(Entry(text) for text in (arm, str(counts[arm]), f"{test.difference:+.4g}", f"{test.p:.3g}")),
            Entry(f"{test.p_holm:.3g}", test.p_holm < statistics.ALPHA),
        ]
        for arm, test in tests.items()
    ]
    name = tag.removeprefix(METRIC)
    caption = f"{name} against {baseline} (n = {counts.get(baseline, 0)}); p below {statistics.ALPHA} marked."
    return Table(caption, ["arm", "n", "difference of means", "p", "p (Holm)"], body)


def formatted(value: Spread | None, n: int) -> str:
    """Return mean ± standard deviation, with the number of values where it is not the `n` that the row states."""
    if value is None:
        return NOTHING
    text = f"{value.mean:.4g}" if value.std is None else f"{value.mean:.4g} ± {value.std:.2g}"
    return text if value.n == n else f"{text} (n={value.n})"


def _by_arm(
    caption: str,
    rows: Sequence[Row],
    columns: dict[str, str],
    direction: Callable[[str], bool | None] = lambda tag: None,
    asked: bool = False,
) -> Table:
    """Return a table of columns (by tag, with their names); `asked` states n as finished of all that have ended."""
    finished = get_values(rows, "step")
    spreads = {tag: {arm: statistics.spread(seen) for arm, seen in get_values(rows, tag).items()} for tag in columns}
    best = {tag: _best(spreads[tag], direction(tag)) for tag in columns}
    body = []
    for arm, seen in finished.items():
        ended = sum(row["arm"] == arm and row["status"] in (*ENDED, "failed") for row in rows)
        n = f"{len(seen)} of {ended}" if asked and ended > len(seen) else str(len(seen))
        fields = [Entry(formatted(spreads[tag][arm], len(seen)), arm in best[tag]) for tag in columns]
        body.append([Entry(arm), Entry(n), *fields])
    return Table(caption, ["arm", "n", *columns.values()], body)


def _best(spreads: dict[str, Spread | None], higher: bool | None) -> set[str]:
    """Return the arms with the best mean; none when no direction is better, or all are alike."""
    means = {arm: value.mean for arm, value in spreads.items() if value is not None}
    if higher is None or len(set(means.values())) < 2:
        return set()
    best = max(means.values()) if higher else min(means.values())
    return {arm for arm, mean in means.items() if mean == best}
