"""The log of a run: `metrics.jsonl` for programs, and writers such as TensorBoard for people."""

import itertools
import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from gan.data.grids import save_png
from gan.run.lock import check_lock
from gan.run.step_files import LATEST, REAL, SAMPLES, find_checkpoint_entries, get_step_file
from gan.run.writers import WRITERS, Writer
from gan.runtime.damaged import BAD_CHARACTER, describe_damage, keep_copy, list_copies, read_file
from gan.runtime.files import append, name_in_errors, write_text
from gan.runtime.text import printable

METRICS = "metrics.jsonl"
METRIC = "metrics/"  # what the tags of metrics begin with
MAX_INTEGER = 2**63  # of TensorBoard
ENTRY = re.compile(rb'(?=\{"step":)')  # where an entry begins
MAX_BYTES = 1_000_000  # of an entry, which has a few thousand

Line = dict[str, Any]
"""Numbers by tag that were logged after `step`; None for a number that was not finite"""


class RunLogger:
    """Appends JSON lines to `metrics.jsonl`, and sends the same numbers under the same tags to the writers in `to`.

    Entries after step `start` are dropped, so that a resumed run logs no step twice. A copy of the file is kept if
    something in it is not an entry, or if the run has a later checkpoint, which was skipped. `network` is the network
    whose Lipschitz constant is logged, as it is named in the tags.

    The first error of a writer is a warning, and the log continues without this writer.
    """

    def __init__(self, folder: Path, start: int = 0, network: str = "D", to: Sequence[str] = ("tensorboard",)):
        self._folder = folder
        self._path = folder / METRICS
        check_lock(folder)
        log = read_log(folder)
        if log.damaged:
            warnings.warn(
                f"{describe_damage(self._path, log.damaged, 'line')}; kept as {keep_copy(self._path).name}",
                stacklevel=2,
            )
        elif max(find_checkpoint_entries(folder), default=0) > start and not _are_kept(folder, log.lines, start):
            kept = keep_copy(self._path).name
            print(f"{printable(self._path)}: dropping the entries after step {start}; kept as {kept}")
        self._writers: dict[str, Writer] = {}
        for name in dict.fromkeys(to):
            with self._without(name):
                self._writers[name] = WRITERS.get(name)(folder, start, network, log.lines)
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in log.lines if line["step"] <= start))

    def scalars(self, counters: Mapping[str, int], numbers: Mapping[str, float]) -> None:
        """Log numbers by tag. `counters` are written with them: `step`, `images` (training images seen), and so on."""
        finite = {tag: value if math.isfinite(value) else None for tag, value in numbers.items()}  # JSON has no NaN
        check_lock(self._folder)
        append(self._path, f"{json.dumps({**counters, **finite})}\n".encode())
        self._send("scalars", counters, numbers)

    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Log an image (C, H, W) uint8, and write it to `TAG/step_00000500.png` and `TAG/latest.png`."""
        check_lock(self._folder)
        save_png(self.get_image_path(tag, step), image, self._folder / tag / LATEST)
        self._send("image", tag, step, image)

    def real_images(self, image: Tensor) -> None:
        """Log a grid of real images (C, H, W) uint8, as one of step 0, and write it to `samples/real.png`."""
        check_lock(self._folder)
        save_png(self._folder / SAMPLES / REAL, image)
        self._send("image", f"{SAMPLES}/real", 0, image)

    def get_image_path(self, tag: str, step: int) -> Path:
        """Return the path of an image in the run folder."""
        return get_step_file(self._folder / tag, step, ".png")

    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Log the distribution of each tensor by tag; `metrics.jsonl` does not contain it."""
        self._send("histograms", step, values)

    def sync(self) -> None:
        """Return when the disk has all lines of `metrics.jsonl`, which otherwise a power failure could lose."""
        check_lock(self._folder)
        with name_in_errors(self._path), self._path.open("rb") as file:
            os.fsync(file.fileno())

    def close(self, is_complete: bool = True) -> None:
        """Close the writers. The lines of `metrics.jsonl` are already on disk.

        `is_complete` is whether the run has reached its last step.
        """
        self._send("close", is_complete)

    def _send(self, method: str, *args: Any) -> None:
        """Call a method of each writer."""
        for name, writer in list(self._writers.items()):
            with self._without(name):
                getattr(writer, method)(*args)

    @contextmanager
    def _without(self, name: str) -> Iterator[None]:
        """Continue without a writer after an error."""
        try:
            yield
        except Exception as error:
            self._writers.pop(name, None)
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            warnings.warn(f"cannot log to {name} ({reason}); continuing without it", stacklevel=4)


class Log(NamedTuple):
    """The contents of a log."""

    lines: list[Line]
    """One for each step, in the order of the steps"""
    damaged: int
    """Number of lines in the file that are not entries, or not completely, or have a step out of order"""


def read_log(folder: Path, name: str = METRICS) -> Log:
    """Return the log of the run in `folder`, or a copy with another name; empty without a file.

    The lines of one step are merged. What is no entry is left out: other text, and other values than numbers, also
    values of a tag that occurs twice in an entry. An incomplete last line, which a killed run leaves, is no damage.
    """
    data = read_file(folder / name) or b""
    texts = [parse_line(text) for text in data.splitlines()]
    if texts and not data.endswith(b"\n") and not texts[-1][-1][0]:
        texts[-1].pop()
    steps: dict[int, Line] = {}
    for line, _ in itertools.chain(*texts):
        if line:
            steps.setdefault(line["step"], {}).update(line)
    damaged, next_step = 0, math.inf
    for entries in reversed(texts):
        is_whole = True
        for line, has_all in reversed(entries):
            step = line.get("step", next_step)
            same_images = "images" not in line or line["images"] == steps[step]["images"]  # else a step is wrong
            is_whole &= has_all and step <= next_step and same_images
            next_step = min(step, next_step)
        damaged += not is_whole
    return Log([steps[step] for step in sorted(steps)], damaged)


def _are_kept(folder: Path, lines: Sequence[Line], start: int) -> bool:
    """Return whether a copy of the log has the lines after step `start`. A repeated step has another speed only."""
    needed = _get_results(lines, start)
    copies = (read_log(folder, path.name).lines for path in list_copies(folder / METRICS))
    return not needed or any(needed.items() <= _get_results(copy, start).items() for copy in copies)


def _get_results(lines: Sequence[Line], start: int) -> dict[int, Line]:
    """Return the numbers after step `start` by step, without the speed."""
    later = (line for line in lines if line["step"] > start)
    return {line["step"]: {tag: line[tag] for tag in line if not tag.startswith("speed/")} for line in later}


def parse_line(text: bytes) -> list[tuple[Line, bool]]:
    """Return the entries in a line of a log, which has several if line breaks are damaged.

    Each is empty if there is none, and has the information whether it is undamaged.
    """
    return [_parse_entry(part) for part in ENTRY.split(text)]


def _parse_entry(data: bytes) -> tuple[Line, bool]:
    text = data.decode("utf-8-sig", errors="replace").strip()
    if not text:
        return {}, True
    if len(text) > MAX_BYTES:
        return {}, False
    try:
        value, end = DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return {}, False
    step = value.get("step") if isinstance(value, dict) else None
    if type(step) is not int or not 0 <= step < MAX_INTEGER:
        return {}, False
    line = {tag: _clean(number) for tag, number in value.items() if is_number(number) and BAD_CHARACTER not in tag}
    return line, len(line) == len(value) and end == len(text)


def _to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict, with an empty list, which is no number, for each key that occurs twice."""
    counts = Counter(key for key, _ in pairs)
    return {key: value if counts[key] == 1 else [] for key, value in pairs}


DECODER = json.JSONDecoder(object_pairs_hook=_to_dict)


def read_metrics(folder: Path) -> list[Line]:
    """Return the logged numbers of the run in `folder`, one dict by tag for each step, see `read_log`.

    Warns of lines that are left out.
    """
    log = read_log(folder)
    if log.damaged:
        warnings.warn(describe_damage(folder / METRICS, log.damaged, "line"), stacklevel=2)
    return log.lines


def _clean(number: float | None) -> float | None:
    return number if number is None or math.isfinite(number) else None


def is_number(value: Any) -> bool:
    """Return whether a value is None or a number that a float can represent."""
    return value is None or type(value) is float or (type(value) is int and abs(value) < MAX_INTEGER)
