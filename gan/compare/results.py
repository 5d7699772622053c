"""The results of a comparison in small files: results.csv, a curve of each cell, and a sample image of each arm.

They are read from the run folders. The saved results of a cell without a run folder are kept.
"""

import math
import statistics
import warnings
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from gan.compare.arms import Cell
from gan.compare.csv_files import CURVES, RESULTS, Row, read_results, write_table
from gan.compare.description import Description
from gan.compare.folder import PEAKS, GridFolder, read_record
from gan.compare.status import COMPLETED, DIVERGED, INTERRUPTED, PENDING, Status, read_status, save_status
from gan.data.grids import COLUMNS
from gan.options.loader import load_config
from gan.run import folder as run_folder
from gan.run.lock import check_lock
from gan.run.logging import METRICS, Log, read_log
from gan.run.step_files import REAL, SAMPLES, find_step_files
from gan.runtime.damaged import describe_damage, keep_copy
from gan.runtime.errors import UserError
from gan.runtime.files import only_regular, write_atomically

COUNTERS = ("step", "images")
MAX_CURVE_ROWS = 200
SAMPLE_ROWS = 4


class Results:
    """Writes the results of all cells. The run folder of each is read once, after the cell has ended.

    A save after each cell therefore takes as long with many other cells as with few. Rows of cells that are not in the
    description are not written again; a copy of the file with them is kept. Raises UserError if the base config cannot
    be read, for example because its plugins have not been imported.
    """

    def __init__(self, folder: GridFolder, description: Description):
        check_lock(folder.root)
        self.folder = folder
        self.description = description
        self._schema = type(description.base_config)
        cells = description.cells
        axes = list(dict.fromkeys(key for cell in cells.values() for key in cell["axes"]))
        self._identities: dict[str, Row] = {
            name: {
                "cell": name,
                "arm": cell["arm"],
                **{key: cell["axes"].get(key) for key in axes},
                "seed": cell["seed"],
            }
            for name, cell in cells.items()
        }
        self._first_seeds = {cell["arm"]: cell["seed"] for cell in reversed(cells.values())}
        pending = {name: identity | {"status": PENDING} for name, identity in self._identities.items()}
        saved = read_results(folder.results_file, repair=True)
        if others := [name for name in saved if name not in cells]:
            message = f"{folder.results_file} has rows of cells that {folder.description_file.name} does not have"
            kept = keep_copy(folder.results_file).name
            warnings.warn(f"{message} ({', '.join(others)}); kept as {kept}", stacklevel=2)
        self._rows = pending | saved
        self._ended: set[str] = set()

    @property
    def rows(self) -> list[Row]:
        """The rows of results.csv."""
        return [self._rows[name] for name in self._identities]

    def save(self, ended: Iterable[str] | None = None) -> None:
        """Write results.csv, and the curves and samples of the cells that have `ended` since, by default of all others.

        The other cells keep their rows.
        """
        check_lock(self.folder.root)
        names = self._identities.keys() - self._ended if ended is None else set(ended)
        self._ended |= names
        for name in names:
            self._rows[name] = self._read(name)
        write_table(self.folder.results_file, self.rows)

    def _read(self, name: str) -> Row:
        """Return the row of a cell, and save its curve and, if it has the first seed of its arm, its sample."""
        run, identity, saved = self.folder.run_folder(name), self._identities[name], self._rows[name]
        try:
            log = read_log(run)
        except UserError as error:  # such as a pipe
            warnings.warn(str(error), stacklevel=2)
            log = Log([], 0)
        if log.damaged:
            warnings.warn(describe_damage(run / METRICS, log.damaged, "line"), stacklevel=2)
        has_run = (run / METRICS).exists() or self.folder.record_file(name).exists()
        if not has_run or _has_lost(log, saved):
            return saved
        if identity["seed"] == self._first_seeds[identity["arm"]]:
            save_sample(run / SAMPLES, self.folder.sample_file(name))
            if identity["arm"] == self.description.baseline:
                save_small_grid(run / SAMPLES / REAL, self.folder.real_file)
        row = identity | self._read_results(name, log.lines, saved)
        return {key: value for key, value in row.items() if value not in (None, "")}

    def _read_results(self, name: str, lines: list[Row], saved: Row) -> Row:
        """Return the status, final results and costs of a cell, and save its curve.

        `saved` are earlier results. Costs that are no longer in the record of the cell are taken from there.
        """
        costs = {key: saved[key] for key in (*PEAKS, "hardware") if key in saved}
        record = costs | read_record(self.folder.record_file(name))
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
        last: Row = {}
        for line in lines:
            last |= line
        try:
            path = run_folder.config_path(self.folder.run_folder(name))
            train = load_config(self._schema, path).train
        except UserError as error:  # this cell alone is damaged
            warnings.warn(str(error), stacklevel=2)
            row |= {key: saved.get(key) for key in ("precision", "seconds_per_step")}
        else:
            row["precision"] = train.precision
            row["seconds_per_step"] = get_seconds_per_step(lines, train.images_per_step)
        row |= {tag: last[tag] for tag in last if tag in COUNTERS or tag.startswith(RESULTS)}
        write_table(self.folder.curve_file(name), get_curve(lines))
        return row


def find_completed(folder: GridFolder, cells: Iterable[Cell]) -> dict[str, Status]:
    """Return the status of each cell that needs no more training.

    The status is read from the run folder. Without a run folder and a record, as in a checkout of the files that git
    tracks, it is read from results.csv.
    """
    saved = read_results(folder.results_file)
    completed = {}
    for cell in cells:
        run, record = folder.run_folder(cell.name), read_record(folder.record_file(cell.name))
        if run.exists():
            if record.get("status") == DIVERGED:
                status = Status(DIVERGED, record.get("reason", ""))
            else:
                status = read_status(run, cell.config.train.steps)
            if status is not None and status.state in COMPLETED:
                save_status(folder, cell.name, status)  # a comparison that was killed has not saved it
                completed[cell.name] = status
        elif not record and saved.get(cell.name, {}).get("status") in COMPLETED:
            completed[cell.name] = Status(saved[cell.name]["status"], saved[cell.name].get("reason", ""))
    return completed


def _has_lost(log: Log, saved: Row) -> bool:
    """Return whether a log has less than the saved results of a cell that was completed."""
    last_step = log.lines[-1]["step"] if log.lines else 0
    return saved["status"] in COMPLETED and (log.damaged > 0 or last_step < saved.get("step", 0))


def get_seconds_per_step(lines: list[Row], images_per_step: int) -> float | None:
    """Return the median time of a step from the lines of a log. The first value is ignored: it includes the warm-up."""
    speeds = [line["speed/images_per_s"] for line in lines if line.get("speed/images_per_s")]
    return images_per_step / statistics.median(speeds[1:] or speeds) if speeds else None


def get_curve(lines: list[Row]) -> list[Row]:
    """Return the lines with metrics or Lipschitz estimates, at most MAX_CURVE_ROWS of them, including the last."""
    rows = [
        {tag: value for tag, value in line.items() if tag in COUNTERS or tag.startswith(CURVES)}
        for line in lines
        if "images" in line and any(tag.startswith(RESULTS) for tag in line)
    ]
    stride = math.ceil(len(rows) / MAX_CURVE_ROWS)
    return [row for i, row in enumerate(rows) if (len(rows) - 1 - i) % stride == 0]


def save_sample(source_folder: Path, target: Path) -> None:
    """Write the first rows of the newest sample grid of a run that is complete."""
    for source in reversed(find_step_files(source_folder, ".png").values()):
        if save_small_grid(source, target):
            return


def save_small_grid(source: Path, target: Path) -> bool:
    """Write the first rows of a grid of images, with a palette of 64 colors to reduce the file size.

    Return whether `target` has them: not if the grid is missing or incomplete.
    """
    try:
        if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
            return True
        with open(source, "rb", opener=only_regular) as file, Image.open(file, formats=["PNG"]) as image:
            height = image.height // COLUMNS * SAMPLE_ROWS
            small = image.crop((0, 0, image.width, height)).quantize(64, dither=Image.Dither.NONE)
    except OSError:  # the run is still writing it, or was killed
        return False
    write_atomically(target, lambda file: small.save(file, "png", optimize=True))
    return True
