"""Files that a run writes at some steps, such as `step_00000500.pt`: their names, and how to find them again."""

import re
from pathlib import Path

CHECKPOINTS, SUFFIX = "checkpoints", ".pt"  # the folder of a run with its checkpoints
NAME = re.compile(r"step_([0-9]{8,})\.[a-z]+")


def get_step_file(folder: Path, step: int, suffix: str) -> Path:
    """Return the path of the file of a step."""
    return folder / f"step_{step:08d}{suffix}"


def find_step_files(folder: Path, suffix: str) -> dict[int, Path]:
    """Return the files in a folder that have the name of a step, by step, in ascending order.

    Other files, such as copies that a user has made, do not count.
    """
    found = {}
    for path in folder.glob(f"*{suffix}"):
        match = NAME.fullmatch(path.name)
        if match is not None and path == get_step_file(folder, int(match[1]), suffix) and path.is_file():
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def find_checkpoints(run: Path) -> dict[int, Path]:
    """Return the files of the checkpoints of a run by step, in ascending order. They may be damaged."""
    return find_step_files(run / CHECKPOINTS, SUFFIX)
