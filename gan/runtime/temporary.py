"""Names of temporary files, which tell the process that writes them, and removal of those of killed processes."""

import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

PATTERN = ".*.tmp"  # of glob, for a first selection of paths
MAX_AGE_S = 24 * 3600  # since the last change; no process writes to a file more rarely

_NAME = re.compile(r"\..*\.(?P<system>[0-9a-f]{8})-(?P<pid>\d{1,7})-[0-9a-f]{8}\.tmp", re.DOTALL)


def name_temporary(path: Path) -> Path:
    """Return a new hidden path next to `path`, for a file or folder that is moved there when it is complete."""
    return path.with_name(f".{path.name[:40]}.{_get_system()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def is_temporary(path: Path) -> bool:
    """Return whether a path was named by `name_temporary`."""
    return _NAME.fullmatch(path.name) is not None


def remove_dead(paths: Iterable[Path]) -> None:
    """Remove the temporary files and folders among `paths` whose process has ended. Other paths are left alone.

    Those of other machines, and of containers with process IDs of their own, are removed a day after the last change.
    """
    named: list[Path] = []
    with suppress(OSError):  # a folder that cannot be read, or that another process removes
        named.extend(path for path in paths if is_temporary(path))
    for path in named:
        with suppress(OSError):
            if not _is_dead(path):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _is_dead(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    if match["system"] == _get_system():
        return not _is_running(int(match["pid"]))
    return time.time() - _get_last_change(path) > MAX_AGE_S


def _get_last_change(path: Path) -> float:
    """Return the time of the last change of a file, or of anything in a folder."""
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
    return max(p.lstat().st_mtime for p in (path, *inside))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def _get_system() -> str:
    """Return a hash of what process IDs belong to: a machine since it was started, and a PID namespace (container)."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        text = platform.node()
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
