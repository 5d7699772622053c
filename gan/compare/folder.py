"""The folder of a comparison.

`cells/` and `logs/` are large and ignored by git. The other files are small and sufficient for the report.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan.run.lock import LOCK
from gan.runtime.errors import UserError
from gan.runtime.files import write_text

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

    def curve_file(self, cell: str) -> Path:
        """Return the CSV file with the metrics of a cell over training."""
        return self.root / "curves" / f"{cell}.csv"

    def sample_file(self, cell: str) -> Path:
        """Return the image file with the last samples of a cell."""
        return self.root / "samples" / f"{cell}.png"

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

    def create(self) -> None:
        """Create the folder and its .gitignore. Raises UserError if it cannot be written to."""
        try:
            for folder in ("cells", "logs"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            if not (self.root / ".gitignore").exists():
                write_text(self.root / ".gitignore", IGNORED)
        except OSError as error:
            raise UserError(f"cannot write to --out {self.root}: {error.strerror}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file, or an empty one if the file does not exist.

    Raises UserError if the file cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
