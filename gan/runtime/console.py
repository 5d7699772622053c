"""The console is a service that a command can lose: a terminal closes, a pipe loses its reader, a disk is full."""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class Stream:
    """Standard output or standard error, whose failure is reported on the `other` one, once, and not raised.

    After a failure, all output to its file descriptor is discarded, also that of other libraries. Each line is flushed,
    so that it is visible at once. Characters that the encoding does not have, such as those of a file name that is not
    UTF-8, are escaped.
    """

    def __init__(self, stream: TextIO, name: str):
        self._stream = stream
        self._name = name
        self.other: Stream | None = None
        self.is_lost = False

    def write(self, text: str) -> int:
        """Write text, and flush the stream after a line."""
        encoding = self._stream.encoding or "utf-8"
        self._try(self._stream.write, text.encode(encoding, "backslashreplace").decode(encoding))
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, method: Any, *args: str) -> None:
        if self.is_lost:
            return
        try:
            method(*args)
        except OSError as error:
            self.is_lost = True
            with suppress(OSError):  # a stream in memory has no descriptor
                _discard_output(self._stream.fileno())
            if self.other is not None:
                reason = error.strerror or error
                self.other.write(f"error: cannot write to {self._name} ({reason}); continuing without it\n")


@contextmanager
def open_console() -> Iterator[Stream]:
    """Replace `sys.stdout` and `sys.stderr` by streams that do not raise. Yields the standard output."""
    _open_missing_descriptors()
    original = sys.stdout, sys.stderr
    with open(os.devnull) as closed:  # cannot be written to, like a stream that was closed when the process started
        output = Stream(sys.stdout or closed, "standard output")
        errors = Stream(sys.stderr or closed, "standard error")
        output.other, errors.other = errors, output
        sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, errors)
        try:
            yield output
        finally:
            output.flush()
            errors.flush()
            sys.stdout, sys.stderr = original


def get_columns() -> int:
    """Return the width of the terminal of stderr, where progress is shown."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return shutil.get_terminal_size().columns


def _open_missing_descriptors() -> None:
    """Open the null device for a closed descriptor 0, 1 or 2, so that no other file gets its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.open(os.devnull, os.O_RDWR)  # the lowest free number


def _discard_output(descriptor: int) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, descriptor)
    os.close(devnull)
