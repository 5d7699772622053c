"""The folder of a comparison.

`cells/` and `logs/` are large and ignored by git. The other files are small and sufficient for the report.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan.run.lock import LOCK
from gan.run.logging import is_number
from gan.run.obstacles import describe_obstacles
from gan.run.step_files import REAL
from gan.runtime.damaged import read_json
from gan.runtime.errors import UserError
from gan.runtime.files import write_text

STATES = ("pending", "running", "finished", "diverged", "failed", "interrupted")
PEAKS = ("peak_memory_mib", "peak_gpu_memory_mib")
IGNORED = f"/cells/\n/logs/\n/{LOCK}\n/events.*\n"


@dataclass(frozen=True)
class GridFolder:
    """The paths in the folder of a comparison."""

    root: Path

    def run_folder(self, cell: str) -> Path:
        """Return the run folder of a cell."""
        return self.root / "cells" / cell

    def log_file(self, cell: str) -> Path:
        """Return the file with the console output of a cell."""
        return self.root / "logs" / f"{cell}.log"

    def record_file(self, cell: str) -> Path:
        """Return the JSON file with the status and the peak memory of a cell."""
        return self.root / "logs" / f"{cell}.json"

    def cell_lock_file(self, cell: str) -> Path:
        """Return the lock file of the process of a cell, which exists while that runs."""
        return self.root / "logs" / f"{cell}{LOCK}"

    def curve_file(self, cell: str) -> Path:
        """Return the CSV file with the metrics of a cell over training."""
        return self.root / "curves" / f"{cell}.csv"

    def sample_file(self, cell: str) -> Path:
        """Return the image file with the last samples of a cell."""
        return self.root / "samples" / f"{cell}.png"

    @property
    def real_file(self) -> Path:
        """The image file with real images of the baseline's data."""
        return self.root / "samples" / REAL

    @property
    def job_folder(self) -> Path:
        """The folder of the files of Slurm's jobs."""
        return self.root / "logs" / "slurm"

    @property
    def lock_file(self) -> Path:
        """The lock file of the comparison."""
        return self.root / LOCK

    @property
    def description_file(self) -> Path:
        """The JSON file that describes the comparison."""
        return self.root / "grid.json"

    @property
    def results_file(self) -> Path:
        """The CSV file with a row for each cell."""
        return self.root / "results.csv"

    @property
    def plot_folder(self) -> Path:
        """The folder of the report's plots."""
        return self.root / "plots"

    def find_obstacles(self, cell: str) -> list[str]:
        """Return a line for each path that cannot be written for a cell, besides its run folder."""
        folders = [self.root / name for name in ("cells", "logs", "curves", "samples", "plots")]
        read = [self.log_file(cell), self.record_file(cell), self.curve_file(cell), self.results_file]
        reports = [self.root / name for name in (".gitignore", "report.md", "report.html", "tables.tex")]
        return list(describe_obstacles(folders, read, [self.sample_file(cell), self.real_file, *reports]))

    def create(self) -> None:
        """Create the folder and its .gitignore. Raises UserError if it cannot be written to."""
        try:
            for folder in ("cells", "logs"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            if not (self.root / ".gitignore").exists():
                write_text(self.root / ".gitignore", IGNORED)
        except OSError as error:
            raise UserError(f"cannot write to --out {self.root}: {error.strerror}") from None


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of a cell, or an empty one, with a warning, if its file is damaged."""
    return read_json(path, _is_record, {})


def _is_record(value: Any) -> bool:
    """Return whether a value has the form of a record: the status and the costs of a cell."""
    if not isinstance(value, dict):
        return False
    texts = (value.get(key, "") for key in ("reason", "hardware"))
    costs = (value.get(key, 0) for key in PEAKS)
    is_known = value.get("status", STATES[0]) in STATES
    return is_known and all(isinstance(text, str) for text in texts) and all(map(is_number, costs))
