"""What is in the place of the files and folders that a process is going to write: found before hours of computing."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from gan.run.divergence import DIVERGENCES
from gan.run.folder import CONFIG
from gan.run.logging import METRICS
from gan.run.step_files import BEST, CHECKPOINTS, LATEST, REAL, SAMPLES, SUFFIX, find_checkpoints, find_step_entries
from gan.runtime.errors import collect_errors
from gan.runtime.files import check_regular


def find_obstacles(run: Path, steps: int, network: str) -> list[str]:
    """Return a line for each path in a run folder, which may not exist yet, that the run cannot write.

    It writes files of the steps from its newest checkpoint to `steps`, and its `network` at the end.
    """
    checkpoints, samples = run / CHECKPOINTS, run / SAMPLES
    start = max(find_checkpoints(run), default=0)
    entries = [*find_step_entries(checkpoints, SUFFIX).items(), *find_step_entries(samples, ".png").items()]
    images = [samples / LATEST, samples / REAL]
    replaced = [run / network, checkpoints / BEST, *images, *(path for step, path in entries if start <= step <= steps)]
    read = [run / name for name in (CONFIG, METRICS, DIVERGENCES)]
    return list(describe_obstacles(folders=[checkpoints, samples], read=read, replaced=replaced))


def describe_obstacles(folders: Iterable[Path], read: Iterable[Path], replaced: Iterable[Path]) -> Iterator[str]:
    """Yield a line for each path that is not what will be written there.

    Files that are also `read` must be regular ones. Files that are only `replaced` must not be folders.
    """
    for path in folders:
        if os.path.lexists(path) and not path.is_dir():
            yield f"{path} is not a folder, and files will be written into it; remove it"
    for path in read:
        yield from collect_errors(lambda path=path: check_regular(path))
    for path in replaced:
        if path.is_dir() and not path.is_symlink():
            yield f"{path} is a folder, and a file will be written in its place; remove it"
