"""Images in a .tar archive, which may be compressed by gzip, xz or bzip2."""

import bz2
import gzip
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from threading import Semaphore
from typing import IO, Any

from gan.data.decoding import MAX_BYTES, check_size
from gan.data.files.archive import ArchiveFiles, archive_errors
from gan.data.files.base import LABELS_FILE
from gan.data.files.tar_members import Place, check_members, find_members
from gan.data.files.xz import open_xz
from gan.runtime.cache import cached, hash_values

FORMAT = 1  # of the cached list of members
LARGE_BYTES = 2**24  # of an image
LARGE_IN_MEMORY = 2  # large images of a compressed archive that have been read, but not yet used
OPENERS: dict[str, Callable[[Path, str], Any]] = {"": open, "gz": gzip.open, "xz": open_xz, "bz2": bz2.open}


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
            members = cached(name, lambda: find_members(path, key, self._open), check_members)
        places = (Place(*place) for place in members["places"].tolist())
        self._images = dict(zip(members["images"], places, strict=True))
        self._labels: dict[str, bytes] = members["labels"]
        super().__init__(path, key, self._images)

    def get_reading_order(self, names: Sequence[str]) -> Sequence[int] | None:
        """Return the indices of the images in the order of a compressed archive, which can only be read forwards."""
        return sorted(range(len(names)), key=lambda i: self._images[names[i]].offset) if self._compressed else None

    def read_images(self, names: Iterable[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each image a function that returns its contents.

        The contents of a compressed archive are read by the iterator, without going back if they are in its order. So
        that few large images are in memory at the same time, it waits until the functions of earlier ones are called.
        """
        places = (self._images[name] for name in names)
        if not self._compressed:
            yield from (partial(self._read_place, place) for place in places)
            return
        large = Semaphore(LARGE_IN_MEMORY)
        for place in places:
            if place.size > MAX_BYTES:
                yield partial(self._read_place, place)  # raises CorruptImageError
            elif place.size > LARGE_BYTES:
                large.acquire()
                yield partial(_release, large, self._read_next(place))
            else:
                yield partial(bytes, self._read_next(place))

    def read_labels(self, folder: str) -> bytes | None:
        """Return the contents of `dataset.json` in a folder, or None if there is none."""
        return self._labels.get(folder + LABELS_FILE)

    def _read_place(self, place: Place) -> bytes:
        check_size(place.size)
        with archive_errors(self.path, self.key), self._open() as file:
            return place.read(file)

    @cached_property
    def _stream(self) -> IO[bytes]:
        """The decompressed archive. It stays open, because the images of the next split may follow."""
        return self._open()

    def _read_next(self, place: Place) -> bytes:
        with archive_errors(self.path, self.key):
            return place.read(self._stream)


def _release(large: Semaphore, data: bytes) -> bytes:
    large.release()
    return data
