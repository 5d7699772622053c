"""What every run needs before it starts: its data, its device, a folder that can be written to, space on the disks."""

import math
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gan.data import DatasetConfig
from gan.run.checkpoint import Checkpoints
from gan.run.obstacles import find_obstacles
from gan.run.writers.base import find_missing_packages
from gan.runtime.device import check_device
from gan.runtime.disk import Space, check_space, find_existing
from gan.runtime.errors import UserError, collect_errors

BYTES = 4  # of a number in a checkpoint


class Start(NamedTuple):
    """The result of the checks before a run starts."""

    config: Any
    """The config that the run will have"""
    notes: list[str]
    """Lines on what the run does without"""
    missing: list[str]
    """Lines on what it cannot do without"""
    spaces: list[Space]
    """What it will write"""


def check_start(config: Any, folder: Path | None, device: str, network: str, spaces: Sequence[Space] = ()) -> Start:
    """Return everything that is missing for a run in a folder, but for space on disks. This takes no time.

    `network` is the name of the file with its network, and `spaces` is what it writes besides its downloads. A process
    that writes nothing has no folder.
    """
    data: DatasetConfig = config.data
    taken, packages = [], []
    if folder is not None:
        taken = collect_errors(lambda: check_writable(folder)) or find_obstacles(folder, config.train.steps, network)
        packages = find_missing_packages(config.log.to)
    missing = [
        *collect_errors(lambda: check_device(device)),
        *packages,
        *data.missing(),
        *taken,
    ]
    return Start(config, [], missing, [*data.disk_space(), *spaces])


def require_all(starts: Sequence[Start]) -> None:
    """Raise UserError with a line for everything that is missing for one of the runs. Warn of what they do without.

    There are no warnings of runs that do not start.
    """
    missing = [line for start in starts for line in start.missing]
    missing += collect_errors(lambda: check_space(dict.fromkeys(space for start in starts for space in start.spaces)))
    if missing:
        raise UserError(*dict.fromkeys(missing))
    for note in dict.fromkeys(note for start in starts for note in start.notes):
        warnings.warn(note, stacklevel=2)


def check_writable(folder: Path, option: str = "--out") -> None:
    """Raise UserError if no files can be created in a folder, which may not exist yet. `option` names it in errors."""
    existing = find_existing(folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {option} {existing}: {error.strerror}; choose another {option}") from None


def get_checkpoint_space(config: Any, folder: Path, numbers: int) -> Space:
    """Return the space of the checkpoints of a run, each with this many numbers.

    These are the ones to keep, the best one, and the next one, which is written before the oldest one is removed.
    """
    count = min(config.checkpoint.keep, math.ceil(config.train.steps / config.checkpoint.every)) + 2
    existing = sum(path.stat().st_size for path in Checkpoints(folder, config).find_files())
    return Space(folder, max(0, count * numbers * BYTES - existing), "checkpoints")
