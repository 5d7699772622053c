"""Images in a .tar archive, which may be compressed by gzip, xz or bzip2."""

import bz2
import gzip
import lzma
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch
from tqdm import tqdm

from gan.data.decoding import MAX_BYTES
from gan.data.files.archive import ArchiveFiles, Members, archive_errors, check_size
from gan.data.files.base import LABELS_FILE
from gan.runtime.cache import cached, hash_values

FORMAT = 1  # of the cached list of members
MAX_HEADER_BYTES = 2**20  # of a name or of attributes
OPENERS: dict[str, Callable[[Path, str], Any]] = {"": open, "gz": gzip.open, "xz": lzma.open, "bz2": bz2.open}


class Place(NamedTuple):
    """Where a file is in the archive, after its decompression."""

    offset: int
    size: int


class TarFiles(ArchiveFiles):
    """The images in a .tar archive.

    The list of its members is cached, because the whole archive must be read, and decompressed, to find them.

    Args:
        path: the archive.
        key: the config key of its path.
        compression: a key of `OPENERS`.
    """

    def __init__(self, path: Path, key: str, compression: str):
        self._open: Callable[[], IO[bytes]] = partial(OPENERS[compression], path, "rb")
        self._compressed = compression != ""
        with archive_errors(path, key):
            status = os.stat(path)
            identity = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            name = f"archives/{hash_values(FORMAT, os.path.abspath(path), *identity)}"
            content = cached(name, lambda: self._find_members(path, key))
        places = (Place(*place) for place in content["places"].tolist())
        self._images = dict(zip(content["images"], places, strict=True))
        self._labels: dict[str, bytes] = content["labels"]
        super().__init__(path, key, self._images)

    def get_reading_order(self, names: Sequence[str]) -> Sequence[int] | None:
        """Return the indices of the images in the order of a compressed archive, which can only be read forwards."""
        return sorted(range(len(names)), key=lambda i: self._images[names[i]].offset) if self._compressed else None

    def read_images(self, names: Iterable[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each image a function that returns its contents.

        Images of a compressed archive are read by the iterator: only once if they are in the order of the archive.
        """
        places = (self._images[name] for name in names)
        if not self._compressed:
            yield from (partial(self._read_place, place) for place in places)
            return
        with archive_errors(self.path, self.key), self._open() as file:
            for place in places:
                yield partial(_get_contents, place.size, self._read_next(file, place))

    def read_labels(self, folder: str) -> bytes | None:
        """Return the contents of `dataset.json` in a folder, or None if there is none."""
        return self._labels.get(folder + LABELS_FILE)

    def _read_place(self, place: Place) -> bytes:
        with archive_errors(self.path, self.key), self._open() as file:
            return _get_contents(place.size, self._read_next(file, place))

    def _read_next(self, file: IO[bytes], place: Place) -> bytes:
        """Return the contents of a file, or nothing if it is too large."""
        if place.size > MAX_BYTES:
            return b""
        file.seek(place.offset)
        data = file.read(place.size)
        if len(data) < place.size:
            raise EOFError("unexpected end of data")
        return data

    def _find_members(self, path: Path, key: str) -> dict:
        """Return the names and places of all images, and the contents of all files of labels."""
        members: Members[Place] = Members(path, key)
        bar = tqdm(desc=f"listing {path.name}", unit=" files", disable=None, leave=False)
        with bar, self._open() as file:
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
            if headers.last != bytes(tarfile.BLOCKSIZE):
                raise EOFError("it has no end")
        places = torch.tensor([*members.images.values()], dtype=torch.int64).reshape(-1, 2)
        labels = {name: self._read_place(place) for name, place in members.labels.items()}
        return {"images": [*members.images], "places": places, "labels": labels}


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


def _get_contents(size: int, data: bytes) -> bytes:
    check_size(size)
    return data


def _find_problem(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return "is a link"
    return "is a sparse file" if member.issparse() else None
