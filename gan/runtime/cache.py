"""Files computed once and kept between runs, in `$XDG_CACHE_HOME/convnorm-gan` (default `~/.cache/convnorm-gan`)."""

import errno
import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan.runtime.files import write_atomically


def cache_dir() -> Path:
    """Return the folder of the cache; it need not exist. OSError when there is no home to put it in."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "convnorm-gan"
    except RuntimeError:
        raise OSError(errno.ENOENT, "there is no home folder; set XDG_CACHE_HOME") from None


def warn_unwritable(error: OSError) -> None:
    """Warn that the cache cannot be written. Text and place are always the same, so that Python shows it once."""
    try:
        where = f" {cache_dir()}"
    except OSError:
        where = ""
    reason = error.strerror or error
    warnings.warn(f"the cache{where} cannot be written ({reason}); going on without it", stacklevel=1)


def hash_values(*parts: Tensor | str | int) -> str:
    """Return a hash of tensors (their bytes, shape and type), strings and numbers."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(repr((part.shape, part.dtype)).encode())
            digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


def cached(name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the tensors kept under `name`, or compute and keep them."""
    value = read(name)
    if value is None:
        value = compute()
        keep(name, value)
    return value


def read(name: str) -> dict[str, Any] | None:
    """Return the tensors kept under `name`; None when there are none, or their file cannot be read."""
    try:
        return torch.load(_path(name), weights_only=True)
    except Exception:  # absent, cut short, of another version: torch.load raises many kinds
        return None


def keep(name: str, value: dict[str, Any]) -> None:
    """Keep the tensors under `name`; a cache that cannot be written costs time and a warning, no more."""
    try:
        write_atomically(_path(name), lambda file: torch.save(value, file))
    except OSError as error:
        warn_unwritable(error)


def _path(name: str) -> Path:
    return cache_dir() / f"{name}.pt"
