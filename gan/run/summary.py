"""The table printed at the end of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from gan.run.logging import METRIC, read_metrics
from metrics.estimate import Estimate, format_estimate

LIPSCHITZ = {
    "certified": "certified bound",
    "product": "product of layer norms",
    "slope": "steepest slope found",
    "gradient_max": "largest input gradient",
}


def read_last_values(folder: Path) -> dict[str, float]:
    """Return the last logged value of every number of a run, by tag."""
    values: dict[str, float] = {}
    for line in read_metrics(folder):
        values |= line
    return values


def format_results(values: Mapping[str, float], metrics: Sequence[str], real: Mapping[str, float]) -> str:
    """Return a table of the metrics of generated images, next to those of real images where known, and of D's
    Lipschitz estimates.
    """
    rows = [
        (name, _metric(values, name), format_estimate(real[name], 4) if name in real else "")
        for name in metrics
        if f"{METRIC}{name}" in values
    ]
    if rows:
        rows.insert(0, ("", "generated", "real" if real else ""))
    rows += [(name, value, "") for name, value in lipschitz_rows(values, "D")]
    return format_table(rows)


def lipschitz_rows(values: Mapping[str, float], network: str) -> list[tuple[str, str]]:
    """Return the names and values of the Lipschitz estimates of a network."""
    tag = f"lipschitz/{network}"
    return [(f"{network}: {name}", _number(values.get(f"{tag}/{key}"))) for key, name in LIPSCHITZ.items()]


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text in columns: the first column is left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
    return "\n".join(lines)


def _metric(values: Mapping[str, float], name: str) -> str:
    value, std = values[f"{METRIC}{name}"], values.get(f"metrics_std/{name}")
    return format_estimate(value if std is None else Estimate(value, std), 4)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
