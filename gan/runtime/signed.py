"""Tensors and plain values in files that end with their own SHA-256, and that are loaded without running code."""

import hashlib
import os
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from gan.runtime.files import only_regular

MARK = b"sha256"  # separates the data that torch.save wrote from its digest
CHUNK = 2**20  # bytes hashed at a time


def save(value: Any, file: IO[bytes], name: str = "") -> None:
    """Write a value as torch.save does, followed by its SHA-256. `load` accepts the file only with the same `name`."""
    hashing = _HashingFile(file, name)
    torch.save(value, cast(IO[bytes], hashing))  # torch.save only calls `write` and `flush`
    file.write(MARK + hashing.hash.digest())


def load(path: Path, name: str = "", device: torch.device | str = "cpu") -> Any:
    """Return the value in a file that `save` wrote under a name.

    Raises ValueError if the checksum is wrong, OSError for anything but a regular file, and the exceptions of
    torch.load, which are of many types.
    """
    with open(path, "rb", opener=only_regular) as file:
        _verify_checksum(file, name)
        file.seek(0)
        return torch.load(file, map_location=device, weights_only=True)


def _verify_checksum(file: BinaryIO, name: str) -> None:
    sha256 = hashlib.sha256(name.encode())
    left = os.fstat(file.fileno()).st_size - len(MARK) - sha256.digest_size
    while left > 0:
        data = file.read(min(CHUNK, left))
        sha256.update(data)
        left -= len(data) or left
    if file.read() != MARK + sha256.digest():
        raise ValueError("its checksum is missing or wrong; the file is truncated, modified or of another program")


class _HashingFile:
    """A binary file that hashes the data written to it, after a name."""

    def __init__(self, file: IO[bytes], name: str):
        self._file = file
        self.hash = hashlib.sha256(name.encode())

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()
