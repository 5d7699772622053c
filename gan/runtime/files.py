"""Files that are whole or not there."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class WriteError(OSError):
    """A file that cannot be written: `filename`, `strerror` and, as text, one line of both."""

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError, which names no file when a disk is full, into a WriteError that names `path`."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while isinstance(cause, RuntimeError):
            cause = cause.__context__  # torch.save raises an error of its own after the file's
        if not isinstance(cause, OSError):
            raise
        raise WriteError(cause.errno, cause.strerror or str(cause), str(path)) from error


def write_atomically(path: Path, write: Callable[[Any], None]) -> None:
    """Call `write(binary file)` so that `path` is either the old file or the whole new one, whatever happens.

    WriteError when it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8. Raises WriteError if it cannot be written."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write a value atomically as indented JSON. Raises WriteError if it cannot be written."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def append(path: Path, data: bytes) -> None:
    """Write `data` at the end of a file, all of it or nothing; WriteError when it cannot be written."""
    with writing(path), path.open("ab", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        rest = memoryview(data)
        try:
            while rest:  # a disk that is nearly full takes a part
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(length)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
