"""A cache of tensors in `$XDG_CACHE_HOME/convnorm-gan` (default `~/.cache/convnorm-gan`), and hashes for its keys."""

import errno
import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan.runtime.files import write_atomically


class ContentHash:
    """The 128-bit BLAKE2b hash of a stream of arrays and plain values."""

    def __init__(self):
        self._digest = hashlib.blake2b(digest_size=16)

    def add_array(self, array: np.ndarray) -> None:
        """Add the values of an array in C order, without its shape and type.

        An array gives the same hash whether it is added as a whole or in parts along its first axis.
        """
        self._digest.update(np.ascontiguousarray(array).reshape(-1).data)

    def add_value(self, value: object) -> None:
        """Add a value by its `repr`: a number, a string, or a tuple of such values."""
        self._digest.update(repr(value).encode())

    def hexdigest(self) -> str:
        """Return the hash of everything that was added, as 32 hexadecimal digits."""
        return self._digest.hexdigest()


def hash_values(*parts: Tensor | str | int | tuple) -> str:
    """Return a hash of tensors (values, shape and type) and plain values."""
    content = ContentHash()
    for part in parts:
        if isinstance(part, Tensor):
            content.add_value((part.shape, part.dtype))
            content.add_array(part.detach().cpu().flatten().view(torch.uint8).numpy())
        else:
            content.add_value(part)
    return content.hexdigest()


def cache_dir() -> Path:
    """Return the folder of the cache, which may not exist yet. Raises OSError if the user has no home folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "convnorm-gan"
    except RuntimeError:
        raise OSError(errno.ENOENT, "there is no home folder; set XDG_CACHE_HOME") from None


def warn_unwritable(error: OSError) -> None:
    """Warn that the cache cannot be written. The text is the same for every file, so that Python shows it once."""
    try:
        where = f" {cache_dir()}"
    except OSError:
        where = ""
    reason = error.strerror or error
    warnings.warn(f"the cache{where} cannot be written ({reason}); continuing without it", stacklevel=1)


def cached(name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the tensors in the cache under `name`; compute and store them if they are not there."""
    value = read(name)
    if value is None:
        value = compute()
        keep(name, value)
    return value


def read(name: str) -> dict[str, Any] | None:
    """Return the tensors in the cache under `name`, or None if there are none or their file cannot be read."""
    try:
        return torch.load(_get_path(name), weights_only=True)
    except Exception:  # torch.load raises many types of errors for missing, truncated and incompatible files
        return None


def keep(name: str, value: dict[str, Any]) -> None:
    """Store tensors in the cache under `name`; warn if the cache cannot be written."""
    try:
        write_atomically(_get_path(name), lambda file: torch.save(value, file))
    except OSError as error:
        warn_unwritable(error)


def _get_path(name: str) -> Path:
    return cache_dir() / f"{name}.pt"
