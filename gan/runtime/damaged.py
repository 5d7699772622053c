"""Damaged files: what can be read of them counts, and they are kept under another name before they are replaced."""

import filecmp
import itertools
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gan.runtime.errors import UserError
from gan.runtime.files import check_regular, write_atomically

BAD_CHARACTER = "\ufffd"  # stands for bytes that are not UTF-8
MAX_DEPTH = 100  # of nested JSON, which recursive functions read


def read_file(path: Path) -> bytes | None:
    """Return the contents of a file, or None if there is none. Raises UserError if it cannot be read."""
    check_regular(path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def parse_json(data: bytes, is_valid: Callable[[Any], bool]) -> Any:
    """Return the value of a JSON text, which may begin with a byte order mark, if `is_valid` accepts it.

    Raises ValueError for anything else, including nesting that is too deep and numbers of too many digits.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level if isinstance(item, dict | list) for child in _get_children(item)]
    if level:
        raise ValueError("it is nested too deeply")
    if not is_valid(value):
        raise ValueError("it has other contents than this version writes")
    return value


def _get_children(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def read_json(path: Path, is_valid: Callable[[Any], bool], default: Any) -> Any:
    """Return the value in a JSON file if `is_valid` accepts it, and otherwise `default`.

    A file with other contents is renamed, with a warning, so that writing a new one destroys nothing. Raises UserError
    if the file exists and cannot be read.
    """
    if (data := read_file(path)) is None:
        return default
    try:
        return parse_json(data, is_valid)
    except ValueError as error:
        reason = str(error)
    target = _find_name(path)
    try:
        path.replace(target)
    except OSError:  # in a folder that cannot be written to, nothing is replaced either
        target = path
    warnings.warn(f"{path} is damaged ({reason}); continuing without it, kept as {target.name}", stacklevel=2)
    return default


def describe_damage(path: Path, count: int, unit: str) -> str:
    """Return a line on the parts of a file, such as its lines, that are left out."""
    return f"{path}: {count} {unit}{' is' if count == 1 else 's are'} damaged; continuing with the others"


def keep_copy(path: Path) -> Path:
    """Copy a damaged file, parts of which will be written again, and return the path of the copy.

    There is at most one copy of the same contents.
    """
    target = _find_name(path)
    if not target.exists():
        with path.open("rb") as source:
            write_atomically(target, lambda file: shutil.copyfileobj(source, file))
    return target


def list_copies(path: Path) -> list[Path]:
    """Return the copies of a damaged file, oldest first."""
    return [copy for copy in _list_taken(path) if copy.is_file()]


def _list_taken(path: Path) -> list[Path]:
    """Return the names for copies that are taken, also by something that is no file."""
    return list(itertools.takewhile(os.path.lexists, (_get_copy(path, number) for number in itertools.count(1))))


def _find_name(path: Path) -> Path:
    """Return the copy that has the contents of a file, or else a path for one."""
    equal = (copy for copy in list_copies(path) if filecmp.cmp(path, copy, shallow=False))
    return next(equal, _get_copy(path, len(_list_taken(path)) + 1))


def _get_copy(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.damaged" + (f"-{number}" if number > 1 else ""))
