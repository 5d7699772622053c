"""The last step and the last metric of a log, of which each line is read once, while the run appends to it."""

import os
from pathlib import Path

from gan.compare.tags import METRIC, get_primary_metric
from gan.run.logging import METRICS, parse_line
from gan.runtime.files import only_regular


class LogTail:
    """Reads what a run has added to its log since the last time."""

    def __init__(self, run: Path):
        self._path = run / METRICS
        self._begin(-1)

    def read(self) -> tuple[int, str]:
        """Return the last step that was logged and the last value of the first metric, as text."""
        lines = self._read_lines()
        needed = [text for text in lines[:-1] if METRIC.encode() in text] + lines[-1:]
        for text in needed:
            for line, _ in parse_line(text):
                self._step = max(self._step, line.get("step", 0))
                self._metrics |= {tag: value for tag, value in line.items() if tag.startswith(METRIC)}
        tag = get_primary_metric([self._metrics])
        value = None if tag is None else self._metrics[tag]
        return self._step, "" if tag is None or value is None else f"{tag.removeprefix(METRIC)} {value:.4g}"

    def _begin(self, inode: int) -> None:
        """Begin with another file, as after a resumed run has written its log again."""
        self._inode = inode
        self._offset = 0
        self._step = 0
        self._metrics: dict[str, float | None] = {}

    def _read_lines(self) -> list[bytes]:
        """Return the lines that are new and complete. All lines are new after the file was replaced."""
        try:
            with open(self._path, "rb", opener=only_regular) as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._begin(status.st_ino)
                file.seek(self._offset)
                data = file.read()
        except OSError:  # there is no log yet, or another kind of file
            return []
        complete, newline, _ = data.rpartition(b"\n")
        self._offset += len(complete) + len(newline)
        return complete.splitlines()
