"""Measurements that may fail without an effect on the others."""

import warnings
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def attempt(what: str, measure: Callable[[], T], default: T) -> T:
    """Return measure(), or `default` after an error, which is reported as a warning."""
    try:
        return measure()
    except Exception as error:  # the code of any network may run here
        warnings.warn(f"{what} could not be measured: {describe(error)}", stacklevel=2)
        return default


def describe(error: Exception) -> str:
    """Return type and message of an error in one short line."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}" if line else type(error).__name__
