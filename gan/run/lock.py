"""Lock files: at most one process at a time works in a run folder.

This uses `flock` directly and not the package filelock. A lock file here contains the name of its holder, and it is
removed on release. Depending on its version, filelock empties the file before it acquires the lock, or keeps the file.
"""

import errno
import fcntl
import os
import re
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gan.runtime.errors import UserError
from gan.runtime.files import only_regular
from gan.runtime.temporary import PATTERN, remove_dead
from gan.runtime.text import printable

LOCK = ".lock"
POLL_S = 0.1
MAX_HOLDER = 300  # bytes of the name of the holder
HOLDER = re.compile(r"process [0-9]+ on .*")

_held: dict[Path, BinaryIO] = {}  # the lock files that this process holds


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder and remove temporary files that a killed process has left there.

    Creates the folder if it does not exist. Raises UserError if another process holds the lock.
    """
    with hold_lock(folder / LOCK):
        with _writing_to(folder):
            remove_dead(folder.rglob(PATTERN))
        yield


@contextmanager
def hold_lock(path: Path, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`. Wait up to `timeout_s` seconds if another process holds it, then raise UserError.

    The operating system releases the lock when the process ends, even if it is killed. The file contains the process ID
    and the host of the holder.
    """
    folder = path.parent
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = _acquire(path, timeout_s)
    with file:
        if (holder := _read_holder(file)) is None:
            raise UserError(f"{path} is a file of another program; move it, or choose another folder")
        try:
            with _writing_to(folder):
                if holder:
                    print(
                        f"{_get_subject(path)}: {holder} did not end normally, or this is a copy of a folder that it"
                        " was using; continuing"
                    )
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            _held[path] = file
            yield
        finally:
            _held.pop(path, None)
            # An error here, as on a disk that is now read-only, must not replace the one that ended the process.
            with suppress(OSError):
                if _is_current(path, file):
                    path.unlink()


def is_locked(folder: Path) -> bool:
    """Return whether a process holds the lock of a run folder."""
    try:
        with open(folder / LOCK, "rb", opener=only_regular) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no lock file, or it cannot be locked
        return False
    return False


def check_lock(folder: Path, name: str = LOCK) -> None:
    """Raise UserError if this process has lost the lock of a folder that it held.

    Call this before every write: the folder may have been moved, and another run may have begun in its place. Nothing
    is checked if this process has never held the lock.
    """
    path = folder / name
    if (file := _held.get(path)) is None or _is_current(path, file):
        return
    subject = _get_subject(path)
    if not folder.exists():
        raise UserError(
            f"{subject} was moved or removed while this process was using it: nothing more is written; continue in its"
            " new place"
        )
    raise UserError(
        f"the lock file of {subject} was removed while this process was using it: nothing more is written, because"
        " another process may be using it now; continue when none does"
    )


def _acquire(path: Path, timeout_s: float) -> BinaryIO:
    deadline = time.monotonic() + max(timeout_s, POLL_S)  # `is_locked` holds the lock for a moment
    while True:
        file = _open(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                holder = _read_holder(file)
            if time.monotonic() >= deadline:
                holder = holder or "another process"  # which has not written its name yet
                raise UserError(f"{_get_subject(path)} is in use by {holder}; stop that process first") from None
            time.sleep(POLL_S)
            continue
        except OSError as error:  # some network file systems do not support locks
            reason = f"{_get_subject(path)} cannot be locked ({error.strerror})"
            warnings.warn(f"{reason}: make sure that no other process uses it", stacklevel=2)
        if _is_current(path, file):
            return file
        file.close()  # the previous holder has removed this file since it was opened


def _open(path: Path) -> BinaryIO:
    """Open a lock file. Raises UserError for a link, whose target would be overwritten, and for a pipe."""
    try:
        descriptor = only_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EINVAL):
            raise
        raise UserError(f"{path} is a link or no regular file; remove it") from None
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise UserError(f"{path} is a link; remove it")
    return os.fdopen(descriptor, "ab+", buffering=0)


def _is_current(path: Path, file: BinaryIO) -> bool:
    """Return whether `path` still names the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _read_holder(file: BinaryIO) -> str | None:
    """Return what a process has written into its lock file, which may be nothing yet; None for any other contents."""
    file.seek(0)
    text = file.read(MAX_HOLDER).decode(errors="replace")
    return printable(text) if not text or HOLDER.fullmatch(text) else None


def _get_subject(path: Path) -> str:
    """Return what the lock protects, for messages: `run` for `run/.lock`, `logs/cell` for `logs/cell.lock`."""
    return printable(path.parent / path.name.removesuffix(LOCK))


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to --out {folder}: {error.strerror}") from None
