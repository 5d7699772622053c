"""The table that ends a run."""

from collections.abc import Sequence
from pathlib import Path

from gan.run.logging import read_lines


def newest_values(folder: Path) -> dict[str, float]:
    """Return the newest value of every number in a run's metrics.jsonl."""
    values: dict[str, float] = {}
    for line in read_lines(folder / "metrics.jsonl"):
        values |= line
    return values


def results_table(values: dict[str, float], names: Sequence[str], floor: dict[str, float]) -> str:
    """Return a table of the metrics beside those of real images where `floor` has them, and the Lipschitz estimates."""
    rows = [
        (name, _number(values[f"metrics/{name}"]), _number(floor[name]) if name in floor else "")
        for name in names
        if f"metrics/{name}" in values
    ]
    if rows:
        rows.insert(0, ("", "generated", "real" if floor else ""))
    rows += [(name, value, "") for name, value in lipschitz_rows(values, "D")]
    return format_table(rows)


def lipschitz_rows(values: dict[str, float], network: str) -> list[tuple[str, str]]:
    """Return the Lipschitz estimates of a network, by name."""
    names = {
        "certified bound": "certified",
        "product of layer norms": "product",
        "steepest slope found": "slope",
        "largest input gradient": "gradient_max",
    }
    return [(f"{network}: {name}", _number(values.get(f"lipschitz/{network}/{tag}"))) for name, tag in names.items()]


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text in aligned columns, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
