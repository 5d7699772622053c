"""Checks of the space on disks, before a long computation ends because one of them is full."""

import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from gan.runtime.errors import UserError

SLACK = 10**7  # bytes; the numbers are estimates


class Space(NamedTuple):
    """The number of bytes that will be written to a folder, and what for."""

    folder: Path
    size: float
    purpose: str


def find_existing(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if os.path.exists(p))


def get_free_space(folder: Path) -> float:
    """Return the free bytes of the disk of a folder, which may not exist yet; infinity if it has no size."""
    usage = shutil.disk_usage(find_existing(folder))
    return usage.free if usage.total > 0 else math.inf  # a file system such as /proc has no size


def check_space(spaces: Iterable[Space]) -> None:
    """Raise UserError with a line for each disk that has less free space than will be written to it in total."""
    disks: dict[int, list[Space]] = {}
    for space in spaces:
        disks.setdefault(os.stat(find_existing(space.folder)).st_dev, []).append(space)
    lines = []
    for of_disk in disks.values():
        folder = of_disk[0].folder
        free, needed = get_free_space(folder), sum(space.size for space in of_disk)
        if needed > free + SLACK:
            purposes = " and ".join(dict.fromkeys(space.purpose for space in of_disk))
            lines.append(
                f"the disk of '{find_existing(folder)}' has {free / 1e9:.2f} GB free, but {needed / 1e9:.2f} GB are"
                f" needed for {purposes}; free some space, or choose a folder on another disk"
            )
    if lines:
        raise UserError(*lines)
