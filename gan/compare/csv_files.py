"""The CSV files of a comparison: results.csv, with a row for each cell, and the curve of each cell."""

import csv
import io
import math
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gan.compare.folder import STATES
from gan.run.logging import METRIC, is_number
from gan.runtime.damaged import BAD_CHARACTER, describe_damage, keep_copy, read_file
from gan.runtime.files import write_text

TEXT_COLUMNS = ("cell", "arm", "status", "reason", "hardware", "precision")
NUMBER_COLUMNS = ("seed", "step", "images", "seconds_per_step", "peak_memory_mib", "peak_gpu_memory_mib")
RESULTS = (METRIC, "lipschitz/")  # prefixes of the tags in results.csv
CURVES = (*RESULTS, "loss/")  # and in the curves

Row = dict[str, Any]


def read_table(path: Path, key: str | None = None, is_valid: Callable[[Row], bool] = lambda row: True) -> list[Row]:
    """Return the rows of a CSV file, numbers as floats and without empty fields. A missing file has no rows.

    `key` is a column that differs in all rows. Rows that are damaged, that `is_valid` refuses, or that have the key of
    an earlier one and other values, are left out, with a warning. Raises UserError if the file cannot be read.
    """
    rows, damaged = _read(path, key, is_valid)
    if damaged:
        warnings.warn(describe_damage(path, damaged, "row"), stacklevel=2)
    return rows


def read_results(path: Path, repair: bool = False) -> dict[str, Row]:
    """Return the rows of results.csv by cell, as `read_table` does, with whole numbers as seeds.

    With `repair`, which is for a caller that will write the file again, a copy of a damaged file is kept.
    """
    rows, damaged = _read(path, "cell", _is_result)
    if damaged:
        kept = f"; kept as {keep_copy(path).name}" if repair else ""
        warnings.warn(f"{describe_damage(path, damaged, 'row')}{kept}", stacklevel=2)
    return {row["cell"]: row for row in rows}


def read_curve(path: Path) -> list[Row]:
    """Return the rows of the curve of a cell, as `read_table` does."""
    return read_table(path, "step", lambda row: "images" in row and all(map(_is_finite, row.values())))


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV, one in each line: line breaks in texts become spaces.

    The columns are all keys that have a value in any row, in the order of their appearance.
    """
    rows = list(rows)
    file = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if value not in (None, "")))
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _format_field(value) for key, value in row.items()} for row in rows)
    write_text(path, file.getvalue())


def _read(path: Path, key: str | None, is_valid: Callable[[Row], bool]) -> tuple[list[Row], int]:
    """Return the valid rows of a CSV file, and the number of others, which is 1 for a damaged file without rows.

    Each line is parsed on its own: a stray quote must not join it with the next ones.
    """
    if (data := read_file(path)) is None:
        return [], 0
    text = data.decode("utf-8-sig", errors="replace").replace("\0", BAD_CHARACTER)
    lines = [fields for line in io.StringIO(text, newline=None) if (fields := _split(line))]
    if not lines:
        return [], int(not data)  # a table without columns is an empty line
    columns, *table = lines
    if len(set(columns)) < len(columns) or (key is not None and key not in columns):
        return [], max(1, len(table))
    rows: dict[Any, Row] = {}
    damaged = 0
    for fields in table:
        is_whole = len(fields) == len(columns) and not any(BAD_CHARACTER in text for text in (*columns, *fields))
        row = {name: _parse_field(name, text) for name, text in zip(columns, fields, strict=False) if text}
        if not is_whole or (key is not None and key not in row) or not is_valid(row):
            damaged += 1
        else:
            damaged += rows.setdefault(row[key] if key else len(rows), row) != row
    return list(rows.values()), damaged


def _split(line: str) -> list[str]:
    """Return the fields of a line, or BAD_CHARACTER if it has a quote too many or a field of a megabyte."""
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return [BAD_CHARACTER]


def _is_result(row: Row) -> bool:
    """Return whether a row has what every row of results.csv has, and numbers where all rows have numbers."""
    return (
        row.keys() >= {"cell", "arm", "seed", "status"}
        and row["cell"] == f"{row['arm']}-seed{row['seed']}"
        and row["status"] in STATES
        and all(_is_finite(row[name]) for name in row if name in NUMBER_COLUMNS or name.startswith(CURVES))
    )


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _parse_field(key: str, text: str) -> str | float:
    if key in TEXT_COLUMNS:
        return text
    try:
        return int(text) if key == "seed" else float(text)
    except ValueError:
        return text  # the value of an axis


def _format_field(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 2**53 else f"{value:.6g}"
    return " ".join(value.splitlines()) if isinstance(value, str) else value
