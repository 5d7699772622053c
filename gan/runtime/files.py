"""Writes files so that each of them is complete or unchanged, even after a crash."""

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from gan.runtime.errors import UserError
from gan.runtime.temporary import PATTERN, name_temporary, remove_dead
from gan.runtime.text import printable

IRREGULAR = "not a regular file"
UNOPENED = (errno.EISDIR, errno.ELOOP, errno.ENODEV, errno.ENXIO)
"""Errors of folders, of links in a circle or that must not be followed, and of devices and sockets"""


class WriteError(OSError):
    """A file cannot be written. The attributes are `filename` and `strerror`, the message is one line with both."""

    def __str__(self) -> str:
        return printable(f"cannot write {self.filename}: {self.strerror}")


@contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Raise a WriteError that names `path` instead of an OSError, which has no file name when the disk is full."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while isinstance(cause, RuntimeError):
            cause = cause.__context__  # torch.save raises a RuntimeError while it handles the OSError
        if not isinstance(cause, OSError):
            raise
        raise WriteError(cause.errno, cause.strerror or str(cause), str(path)) from error


def write_atomically(path: Path, write: Callable[[Any], None]) -> None:
    """Call `write(file)` with a binary file and move the result to `path`, which is complete or unchanged.

    Missing parent folders are created. Temporary files that killed processes have left in the folder are removed when a
    process first writes into it. Raises WriteError if the file cannot be written.
    """
    with name_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent.absolute())
        temporary = name_temporary(path)
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@cache
def _sweep(folder: Path) -> None:
    remove_dead(folder.glob(PATTERN))  # once for each folder, which may have many files


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; raises WriteError if it cannot be written."""
    # A file name in the text may contain bytes that are not UTF-8. Their escapes are valid in JSON.
    content = text.encode("utf-8", "backslashreplace")
    write_atomically(path, lambda file: file.write(content))


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON atomically; raises WriteError if the file cannot be written."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def append(path: Path, data: bytes) -> None:
    """Append all of `data` to a file, or raise WriteError and leave the file unchanged."""
    with name_in_errors(path), open(path, "ab", buffering=0, opener=only_regular) as file:
        length = os.fstat(file.fileno()).st_size
        rest = memoryview(data)
        try:
            while rest:  # a disk that is almost full may accept only a part
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(length)
            raise


def only_regular(path: str | Path, flags: int) -> int:
    """Open a regular file, as an `opener` of `open`.

    Raises OSError with EINVAL for anything else, such as a pipe, which would block, or a link to itself.
    """
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in UNOPENED:
            raise
    else:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    raise OSError(errno.EINVAL, IRREGULAR, str(path))


def check_regular(path: Path) -> None:
    """Raise UserError unless a path is that of a regular file, or there is nothing. Opening a pipe would block.

    The file may be one to read or to write.
    """
    try:
        is_regular = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise UserError(f"cannot use {path}: {error.strerror}") from None
        is_regular = False
    if not is_regular:
        raise UserError(f"cannot use {path}: it is {IRREGULAR}; move it away, or choose another name")
