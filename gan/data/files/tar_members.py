"""Finds the images in a .tar archive, which may be damaged or malicious."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch
from tqdm import tqdm

from gan.data.files.archive import Members
from gan.runtime.cache import check_tensor

MAX_HEADER_BYTES = 2**20  # of a name or of attributes


class Place(NamedTuple):
    """Where a file is in the archive, after its decompression."""

    offset: int
    size: int

    def read(self, file: IO[bytes]) -> bytes:
        """Return the contents of the file. Raises EOFError if the archive ends before."""
        file.seek(self.offset)
        data = file.read(self.size)
        if len(data) < self.size:
            raise EOFError("unexpected end of data")
        return data


def find_members(path: Path, key: str, open_archive: Callable[[], IO[bytes]]) -> dict[str, Any]:
    """Return the names of all images, their places (N, 2), and the contents of the files of labels by name.

    Args:
        path: the archive.
        key: the config key of its path, with which error messages begin.
        open_archive: returns the decompressed archive.

    Raises:
        UserError: If the archive has members that are refused.
        OSError, ValueError, EOFError, tarfile.TarError, ...: If it is damaged, see `gan.data.files.archive.ERRORS`.
    """
    members: Members[Place] = Members(path, key)
    bar = tqdm(desc=f"listing {path.name}", unit=" files", disable=None, leave=False)
    with bar, open_archive() as file:
        headers = _Headers(file)
        with tarfile.open(fileobj=cast(IO[bytes], headers), mode="r:") as archive:
            while (member := archive.next()) is not None:
                cast(Any, archive).members.clear()  # they would use much memory
                bar.update()
                if member.size < 0:
                    raise tarfile.ReadError("negative size")
                if member.isreg() or member.issym() or member.islnk():
                    place = Place(member.offset_data, member.size)
                    members.add(member.name, place, member.size, _find_problem(member))
        if headers.last != bytes(tarfile.BLOCKSIZE):  # `tarfile` also stops at a damaged header
            raise EOFError("it has no end")
        labels = {name: place.read(file) for name, place in members.labels.items()}
    places = torch.tensor([*members.images.values()], dtype=torch.int64).reshape(-1, 2)
    return {"images": [*members.images], "places": places, "labels": labels}


def check_members(contents: Any) -> None:
    """Raise an error unless these are members as `find_members` returns them."""
    check_tensor(contents["places"], torch.int64, len(contents["images"]), 2)
    names, texts = [*contents["images"], *contents["labels"]], contents["labels"].values()
    if not all(type(name) is str for name in names) or not all(type(text) is bytes for text in texts):
        raise ValueError("not names and contents of files")
    if (contents["places"] < 0).any():
        raise ValueError("places outside of the archive")


class _Headers:
    """A file for `tarfile`, which reads the headers of the members. It only moves forward, also in malicious files."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.last = b""  # what was read last

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header with {size:,} bytes")
        self.last = self._file.read(size)
        return self.last

    def seek(self, offset: int) -> int:
        if offset < self._file.tell():
            raise tarfile.ReadError("headers in a circle")
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()


def _find_problem(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return "is a link"
    return "is a sparse file" if member.issparse() else None
