"""A cache of tensors in `$XDG_CACHE_HOME/convnorm-gan` (default `~/.cache/convnorm-gan`), and hashes for its keys.

Each file ends with a checksum of its contents and of its name. What was changed, or copied to another name, is made
again, and so is what the reader of the file does not accept: another version of the program may have written it.
"""

import errno
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan.runtime import signed
from gan.runtime.files import write_atomically
from gan.runtime.temporary import PATTERN, remove_dead


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


def cached(name: str, compute: Callable[[], dict[str, Any]], check: Callable[[Any], object]) -> dict[str, Any]:
    """Return the tensors in the cache under `name`; compute and store them if they are not there, see `read`."""
    value = read(name, check)
    if value is None:
        value = compute()
        keep(name, value)
    return value


def read(name: str, check: Callable[[Any], object]) -> dict[str, Any] | None:
    """Return the tensors in the cache under `name`, or None if there are none.

    A file that is damaged, that belongs to another name, or for whose contents `check` raises any exception, counts as
    none, with a warning.
    """
    path = None
    try:
        path = get_path(name)
        contents = signed.load(path, name)
        try:
            if isinstance(contents, dict):
                check(contents)
                return contents
        except Exception:  # contents that no version has written can raise errors of many types
            pass
        raise ValueError("it has other contents than this version writes")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # torch.load raises many types of errors
        warn_unusable(path, error)
        return None


def check_tensor(tensor: Any, dtype: torch.dtype, *shape: int | None) -> None:
    """Raise ValueError unless this is a tensor on the CPU with this type and shape, in which None is any size."""
    if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ValueError("not a tensor on the CPU")
    sizes = zip(tensor.shape, shape, strict=True)
    if tensor.dtype != dtype or any(expected not in (size, None) for size, expected in sizes):
        raise ValueError(f"not a tensor of type {dtype} and shape {shape}")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("its entries share their memory")  # it may be of any size


def keep(name: str, value: dict[str, Any]) -> bool:
    """Store tensors in the cache under `name`, and return whether this was possible; warn if it was not."""
    try:
        write(name, value)
    except OSError as error:
        warn_unwritable(error)
        return False
    return True


def write(name: str, value: dict[str, Any]) -> None:
    """Store tensors in the cache under `name`. Raises OSError if the cache cannot be written."""
    remove_leftovers()
    write_atomically(get_path(name), lambda file: signed.save(value, file, name))


def remove_folder(name: str) -> None:
    """Remove the folder `name` of the cache, if there is one."""
    with suppress(OSError):  # a missing home folder
        shutil.rmtree(cache_dir() / name, ignore_errors=True)


def remove_leftovers() -> None:
    """Remove the temporary files that killed processes have left anywhere in the cache, once for each process."""
    _sweep(cache_dir())


@cache
def _sweep(folder: Path) -> None:
    remove_dead(folder.rglob(PATTERN))  # the cache may have many files


def warn_unusable(path: Path | None, error: Exception) -> None:
    """Warn that a file in the cache cannot be read and is made again."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]
    warnings.warn(
        f"{path} in the cache cannot be used ({reason or type(error).__name__}); making it again", stacklevel=1
    )


def get_path(name: str) -> Path:
    """Return the path of the file with the tensors that are stored under `name`."""
    return cache_dir() / f"{name}.pt"
