"""One process at a time works in a run folder."""

import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gan.runtime.errors import UserError

LOCK = ".lock"
LEFTOVERS = ".*.tmp"  # names of files that a killed process was about to write, see gan.runtime.files


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, made when it is not there; UserError when another process holds it.

    The lock is the system's, and free again however its holder ends; the file says who that is. What a killed holder
    has left half-written is removed.
    """
    path = folder / LOCK
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = _acquire(path)
    with file:
        try:
            with _writing_to(folder):
                if holder := _holder(file):
                    print(f"{folder}: taking over from {holder}, which has ended without a word")
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
                for part in folder.rglob(LEFTOVERS):
                    part.unlink()
            yield
        finally:
            path.unlink(missing_ok=True)


def _acquire(path: Path) -> BinaryIO:
    while True:
        file = path.open("ab+", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise UserError(f"{path.parent} is in use by {_holder(file)}; end that first") from None
        except OSError as error:  # a network file system without locks
            warnings.warn(f"{path.parent} cannot be locked ({error.strerror}): run nothing else there", stacklevel=4)
        if _is_still(path, file):
            return file
        file.close()  # its holder has ended, and removed it, since it was opened


def _is_still(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _holder(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to --out {folder}: {error.strerror}") from None
