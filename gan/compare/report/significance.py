"""The section of the report on differences: which arms are tested against the baseline, and what the tests can show."""

from collections.abc import Mapping, Sequence

from gan.compare.csv_files import Row
from gan.compare.report import statistics, tables
from gan.compare.report.document import Block, Paragraph

MAX_NAMES = 8  # of arms in a sentence
TEST = (
    "Exact two-sided two-sample permutation test of the difference of means, each arm against the baseline, for the "
    "first metric of the config alone (the one chosen before the runs); Holm's correction for all arms of the table "
    "above, tested or not. The interval is a percentile bootstrap, which is too short for few seeds; Hedges' g is the "
    "difference in units of the pooled standard deviation."
)


def build_test_blocks(rows: Sequence[Row], tag: str, baseline: str) -> list[Block]:
    """Return the tests of a metric against the baseline, and a caution about the arms that are not tested."""
    counts = {arm: len(values) for arm, values in tables.get_testable_values(rows, tag).items()}
    table = tables.build_test_table(rows, tag, baseline)
    tested = [row[0].text for row in table.rows]
    untested = [arm for arm in counts if arm not in (*tested, baseline)]
    blocks: list[Block] = [Paragraph(_describe_tests(counts, baseline, tested)), table] if tested else []
    return [*blocks, *([Paragraph(_get_caution(counts, baseline, untested))] if untested else [])]


def _describe_tests(counts: Mapping[str, int], baseline: str, tested: Sequence[str]) -> str:
    """Return which test this is, and a warning if no difference could pass Holm's correction."""
    family = len(counts) - 1
    limit = family * min(statistics.smallest_p(counts[arm], counts[baseline]) for arm in tested)
    if limit < statistics.ALPHA:
        return TEST
    return (
        f"{TEST} With {family} arms, these numbers of seeds cannot reach p < {min(1.0, limit):.2g} after the "
        "correction: a significant difference needs more seeds or fewer arms."
    )


def _get_caution(counts: Mapping[str, int], baseline: str, untested: Sequence[str]) -> str:
    """Return why some arms are not tested. An arm with a cell that did not finish has a count of 0."""
    n = counts.get(baseline, 0)
    seeds = sorted({counts[arm] for arm in untested if n and counts[arm]})
    reasons = [f"{m} against {n} seeds cannot reach p < {statistics.smallest_p(m, n):.2g}" for m in seeds]
    if not n or not all(counts[arm] for arm in untested):
        reasons.append("an arm with a cell that diverged, failed or is missing is not tested, and not tested against")
    names = ", ".join(untested) if len(untested) <= MAX_NAMES else f"{len(untested)} of {len(counts) - 1} arms"
    return (
        f"No significance is claimed for {names}: {'; '.join(reasons)}. Of these the tables show the spread alone; a "
        "difference within it may be chance."
    )
