"""Paths that a user has written in a config key or an option: what is wrong with them is a user error."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gan.runtime.errors import UserError
from gan.runtime.text import printable


@contextmanager
def user_errors(root: Path, key: str = "data.root") -> Iterator[None]:
    """Raise a UserError instead of an OSError. Its message names the config key of `root`, and the file or `root`."""
    try:
        yield
    except OSError as error:
        name = printable(error.filename or root)
        raise UserError(f"{key}: cannot read '{name}': {error.strerror or error}") from None


def expand_path(text: str, key: str = "data.root") -> Path:
    """Return the path in a config key with `~` expanded.

    Raises UserError if there is no such home folder, and for an empty path, which would be the working folder.
    """
    if not text:
        raise UserError(f"{key}: the path is empty; write '.' for the working folder")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{key}: the home folder in '{text}' is unknown; write the full path") from None
