"""The CSV files of a comparison: results.csv, with a row for each cell, and the curve of each cell."""

import csv
import io
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gan.runtime.damaged import BAD_CHARACTER, keep_copy, read_file
from gan.runtime.files import write_text

TEXT_COLUMNS = ("cell", "arm", "status", "reason", "hardware", "precision")

Row = dict[str, Any]


def read_table(path: Path, is_valid: Callable[[Row], bool] = lambda row: True) -> list[Row]:
    """Return the rows of a CSV file, numbers as floats and without empty fields. A missing file has no rows.

    Rows that are damaged, or that `is_valid` refuses, are left out, with a warning. Raises UserError if the file cannot
    be read.
    """
    rows, damaged = _read(path, is_valid)
    if damaged:
        warnings.warn(_describe_damage(path, damaged), stacklevel=2)
    return rows


def read_results(path: Path, repair: bool = False) -> dict[str, Row]:
    """Return the rows of results.csv by cell, as `read_table` does.

    With `repair`, which is for a caller that will write the file again, a copy of a damaged file is kept.
    """
    rows, damaged = _read(path, _is_result)
    if damaged:
        kept = f"; kept as {keep_copy(path).name}" if repair else ""
        warnings.warn(f"{_describe_damage(path, damaged)}{kept}", stacklevel=2)
    return {row["cell"]: row for row in rows}


def read_curve(path: Path) -> list[Row]:
    """Return the rows of the curve of a cell, as `read_table` does."""
    return read_table(path, lambda row: all(isinstance(row.get(key), float) for key in ("step", "images")))


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV. The columns are all keys that have a value in any row, in the order of their appearance."""
    rows = list(rows)
    file = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if value not in (None, "")))
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _format_field(value) for key, value in row.items()} for row in rows)
    write_text(path, file.getvalue())


def _read(path: Path, is_valid: Callable[[Row], bool]) -> tuple[list[Row], int]:
    """Return the valid rows of a CSV file, and the number of others."""
    text = (read_file(path) or b"").decode("utf-8-sig", errors="replace").replace("\0", BAD_CHARACTER)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows, damaged = [], 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return rows, damaged
        except csv.Error:  # such as a field of a megabyte
            damaged += 1
            continue
        # A row with more or fewer fields than the header has the key or a value None.
        is_whole = not any(text is None or BAD_CHARACTER in text for item in fields.items() for text in item)
        row = {key: _parse_field(key, text) for key, text in fields.items() if text} if is_whole else {}
        if is_whole and is_valid(row):
            rows.append(row)
        else:
            damaged += 1


def _describe_damage(path: Path, damaged: int) -> str:
    what = "1 row is damaged" if damaged == 1 else f"{damaged} rows are damaged"
    return f"{path}: {what}; continuing with the others"


def _is_result(row: Row) -> bool:
    """Return whether a row has what every row of results.csv has."""
    numbers = (row.get("seed"), row.get("step", 0.0))
    return row.keys() >= {"cell", "arm", "status"} and all(isinstance(number, float) for number in numbers)


def _parse_field(key: str, text: str) -> str | float:
    if key in TEXT_COLUMNS:
        return text
    try:
        return float(text)
    except ValueError:
        return text  # the value of an axis


def _format_field(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
