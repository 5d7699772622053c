"""A table of the logged numbers, for spreadsheets and data frames."""

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gan.run.writers.base import WRITERS, Writer
from gan.runtime.files import append, write_atomically

TABLE = "metrics.csv"


@WRITERS.register("csv")
class CSVTable(Writer):
    """`metrics.csv`: the numbers of `metrics.jsonl`, a row for each step and a column for each tag.

    The columns are in the order in which their tags first appear. A cell is empty if the number was not logged or is
    not finite. The table is made from `metrics.jsonl` whenever a run starts or resumes, so that it has the same steps.
    """

    def __init__(self, folder: Path, start: int, network: str, lines: Sequence[dict[str, Any]]):
        self._path = folder / TABLE
        lines = [line for line in lines if line["step"] <= start]
        self._columns = list(dict.fromkeys(["step", *(tag for line in lines for tag in line)]))
        self._last = dict(lines[-1]) if lines else {}
        rows = [self._format(line) for line in lines]
        self._last_length = len(rows[-1]) if rows else 0
        self._write(rows)

    def scalars(self, counters: Mapping[str, int], numbers: Mapping[str, float]) -> None:
        """Add a row, or add the numbers to the last row if they are of the same step.

        Raises OSError if the table cannot be written, or has been removed.
        """
        finite = {tag: value if math.isfinite(value) else None for tag, value in numbers.items()}
        is_same_step = self._last.get("step") == counters["step"]
        self._last = {**(self._last if is_same_step else {}), **counters, **finite}
        length = self._path.stat().st_size
        if is_same_step:
            os.truncate(self._path, length - self._last_length)
        new = [tag for tag in self._last if tag not in self._columns]
        if new:
            self._add_columns(new)
        row = self._format(self._last)
        append(self._path, row)
        self._last_length = len(row)

    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Do nothing."""

    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Do nothing."""

    def close(self, is_complete: bool) -> None:
        """Do nothing: all rows are in the file."""

    def _format(self, line: Mapping[str, float | None]) -> bytes:
        return format_row(line.get(tag) for tag in self._columns)

    def _add_columns(self, tags: Sequence[str]) -> None:
        """Write the file again with further columns, which are empty in the rows that it has."""
        rows = self._path.read_bytes()[len(format_row(self._columns)) :].splitlines()
        self._columns += tags
        self._write(row + b"," * len(tags) + b"\n" for row in rows)

    def _write(self, rows: Iterable[bytes]) -> None:
        data = b"".join([format_row(self._columns), *rows])
        write_atomically(self._path, lambda file: file.write(data))


def format_row(cells: Iterable[str | float | None]) -> bytes:
    """Return a line of CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")
