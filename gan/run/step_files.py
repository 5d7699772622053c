"""Files that a run writes at some steps, such as `step_00000500.pt`: their names, and how to find them again."""

import re
from pathlib import Path

CHECKPOINTS, SUFFIX = "checkpoints", ".pt"  # the folder of a run with its checkpoints
BEST = f"best{SUFFIX}"  # the best one
SAMPLES = "samples"  # the folder with its sample images
REAL, LATEST = "real.png", "latest.png"  # the real images there, and a copy of the newest sample image
NAME = re.compile(r"step_([0-9]{8,})\.[a-z]+")


def get_step_file(folder: Path, step: int, suffix: str) -> Path:
    """Return the path of the file of a step."""
    return folder / f"step_{step:08d}{suffix}"


def find_step_entries(folder: Path, suffix: str) -> dict[int, Path]:
    """Return what has the name of the file of a step in a folder, by step, in ascending order. It may be no file.

    Other files, such as copies that a user has made, do not count.
    """
    found = {}
    for path in folder.glob(f"*{suffix}"):
        match = NAME.fullmatch(path.name)
        if match is not None and path == get_step_file(folder, int(match[1]), suffix):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def find_step_files(folder: Path, suffix: str) -> dict[int, Path]:
    """Return the files among the entries of `find_step_entries`."""
    return {step: path for step, path in find_step_entries(folder, suffix).items() if path.is_file()}


def find_checkpoints(run: Path) -> dict[int, Path]:
    """Return the files of the checkpoints of a run by step, in ascending order. They may be damaged."""
    return find_step_files(run / CHECKPOINTS, SUFFIX)


def find_checkpoint_entries(run: Path) -> dict[int, Path]:
    """Return what has the name of a checkpoint of a run by step, in ascending order, such as a pipe in its place."""
    return find_step_entries(run / CHECKPOINTS, SUFFIX)
