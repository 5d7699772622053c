"""The report."""

from pathlib import Path

from gan.compare.description import Description
from gan.compare.folder import GridFolder


def write_report(folder: GridFolder, description: Description, latex: bool) -> list[Path]:
    """Write the report."""
    return [folder.results]
