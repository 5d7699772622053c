"""The folder of a comparison: `cells/` and `logs/` are large, the rest is small enough for git and makes the report."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan.runtime.errors import UserError
from gan.runtime.files import write_atomically

IGNORED = "/cells/\n/logs/\n/.lock\n/events.*\n"


@dataclass(frozen=True)
class GridFolder:
    """Where everything of a comparison is."""

    root: Path

    def run(self, cell: str) -> Path:
        """Return the run folder of a cell."""
        return self.root / "cells" / cell

    def log(self, cell: str) -> Path:
        """Return the file of what a cell said on its console."""
        return self.root / "logs" / f"{cell}.log"

    def record(self, cell: str) -> Path:
        """Return the file of how a cell ended and what it took."""
        return self.root / "logs" / f"{cell}.json"

    def curve(self, cell: str) -> Path:
        """Return the table of a cell's numbers over training."""
        return self.root / "curves" / f"{cell}.csv"

    def sample(self, cell: str) -> Path:
        """Return the picture of a cell's last samples."""
        return self.root / "samples" / f"{cell}.png"

    @property
    def description(self) -> Path:
        """The file that says what was compared, and how and where."""
        return self.root / "grid.json"

    @property
    def results(self) -> Path:
        """The table with a row for each cell."""
        return self.root / "results.csv"

    @property
    def plots(self) -> Path:
        """The folder of the report's pictures."""
        return self.root / "plots"

    def make(self) -> None:
        """Create the folder, with a .gitignore of what is large; UserError when that cannot be done."""
        try:
            for folder in ("cells", "logs"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            if not (self.root / ".gitignore").exists():
                write_text(self.root / ".gitignore", IGNORED)
        except OSError as error:
            raise UserError(f"cannot write to --out {self.root}: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON that people can read."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file, an empty one when there is no such file; UserError for one cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
