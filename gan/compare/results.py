"""The numbers of a comparison, small enough for git: results.csv, a curve of each cell, a picture of each arm.

Cells whose run folder is there are read anew; of the others what was kept before stays.
"""

import csv
import io
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from gan.compare.arms import Cell
from gan.compare.description import Description
from gan.compare.experiment_types import get_experiment_type
from gan.compare.folder import GridFolder, read_json, write_text
from gan.compare.outcome import DIVERGED, ENDED, INTERRUPTED, PENDING, Outcome, keep_outcome, read_outcome
from gan.data.grids import COLUMNS
from gan.options.loader import load_config
from gan.run import folder as run_folder
from gan.run.logging import read_lines
from gan.runtime.files import write_atomically

TEXT = ("cell", "arm", "status", "reason", "hardware")  # columns that hold no number
COUNTERS = ("step", "images")
MEASURED = ("metrics/", "lipschitz/")  # tags that a curve has rows for
MAX_ROWS = 200  # of a curve
SAMPLE_ROWS = 4  # of a picture

Row = dict[str, Any]


def collect(folder: GridFolder, description: Description) -> None:
    """Write results.csv, the curves of all cells that have begun, and samples of each arm's first seed."""
    kept = {row["cell"]: row for row in read_table(folder.results)}
    axes = list(dict.fromkeys(key for cell in description.cells.values() for key in cell["axes"]))
    first_seeds = {cell["arm"]: cell["seed"] for cell in reversed(description.cells.values())}
    rows = []
    for name, cell in description.cells.items():
        if not (folder.run(name) / "metrics.jsonl").exists() and name in kept:
            rows.append(kept[name])
            continue
        identity = {"cell": name, "arm": cell["arm"]} | {key: cell["axes"].get(key) for key in axes}
        rows.append(identity | {"seed": cell["seed"]} | _measured(folder, name))
        if cell["seed"] == first_seeds[cell["arm"]]:
            keep_sample(folder.run(name) / "samples", folder.sample(name))
    write_table(folder.results, rows)


def ended(folder: GridFolder, cells: Iterable[Cell]) -> dict[str, Outcome]:
    """Return how those cells ended that need no more training: by their run folder, or by results.csv where neither the
    folder nor a record is there (as in a checkout of what git keeps).
    """
    kept = {row["cell"]: row for row in read_table(folder.results)}
    outcomes = {}
    for cell in cells:
        run, record = folder.run(cell.name), read_json(folder.record(cell.name))
        if run.exists():
            if record.get("status") == DIVERGED:
                outcome = Outcome(DIVERGED, record["reason"])
            else:
                outcome = read_outcome(run, cell.config.train.steps)
            if outcome is not None and outcome.status in ENDED:
                keep_outcome(folder, cell.name, outcome)  # a comparison that was killed has not
                outcomes[cell.name] = outcome
        elif not record and kept.get(cell.name, {}).get("status") in ENDED:
            outcomes[cell.name] = Outcome(kept[cell.name]["status"], kept[cell.name].get("reason", ""))
    return outcomes


def read_table(path: Path) -> list[Row]:
    """Return the rows of a CSV file, numbers as floats, empty fields left out; none when there is no such file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: _value(key, text) for key, text in row.items() if text} for row in csv.DictReader(file)]


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV, with a column for each key that any row has a value of, in the order of first appearance."""
    rows = list(rows)
    file = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if value not in (None, "")))
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)
    write_text(path, file.getvalue())


def _measured(folder: GridFolder, name: str) -> Row:
    """Return status, last numbers and costs of a cell, and keep its curve."""
    run = folder.run(name)
    lines = read_lines(run / "metrics.jsonl")
    record = read_json(folder.record(name))
    row: Row = {
        "status": record.get("status", INTERRUPTED if lines else PENDING),
        "reason": record.get("reason", ""),
        "seconds_per_step": None,
        "peak_memory_mib": record.get("peak_memory_mib"),
        "peak_gpu_memory_mib": record.get("peak_gpu_memory_mib"),
        "hardware": record.get("hardware"),
    }
    if not lines:
        return row
    path = run_folder.config_path(run)
    config = load_config(get_experiment_type(path).schema, path)
    last: Row = {}
    for line in lines:
        last |= line
    row["seconds_per_step"] = seconds_per_step(lines, config.train.images_per_step)
    row |= {tag: last[tag] for tag in last if tag in COUNTERS or tag.startswith(MEASURED)}
    write_table(folder.curve(name), curve(lines))
    return row


def seconds_per_step(lines: list[Row], images_per_step: int) -> float | None:
    """Return the median wall time of a step; the first entry holds the warm-up."""
    speeds = [line["speed/images_per_s"] for line in lines if line.get("speed/images_per_s")]
    return images_per_step / statistics.median(speeds[1:] or speeds) if speeds else None


def curve(lines: list[Row]) -> list[Row]:
    """Return the lines that hold metrics or Lipschitz numbers, at most MAX_ROWS of them, the last included."""
    rows = [
        {tag: value for tag, value in line.items() if tag in COUNTERS or tag.startswith(("loss/", *MEASURED))}
        for line in lines
        if any(tag.startswith(MEASURED) for tag in line)
    ]
    stride = math.ceil(len(rows) / MAX_ROWS)
    return [row for i, row in enumerate(rows) if (len(rows) - 1 - i) % stride == 0]


def keep_sample(pictures: Path, target: Path) -> None:
    """Write the first rows of a run's newest sample grid, in few colors, which is a fraction of its size."""
    for source in sorted(pictures.glob("*.png"), reverse=True):
        if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
            return
        try:
            with Image.open(source) as picture:
                rows = picture.height // COLUMNS * SAMPLE_ROWS
                small = picture.crop((0, 0, picture.width, rows)).quantize(64, dither=Image.Dither.NONE)
        except OSError:  # cut short: the run is writing it, or was killed while it did
            continue
        write_atomically(target, lambda file, small=small: small.save(file, "png", optimize=True))
        return


def _value(key: str, text: str) -> str | float:
    if key in TEXT:
        return text
    try:
        return float(text)
    except ValueError:
        return text  # the value of an axis


def _text(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
