"""What all archives of images have in common: which members are images, and which are refused."""

import errno
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Generic, TypeVar

from gan.data.files.base import LABELS_FILE, MAX_LABELS_BYTES, ImageFiles, is_image, split_path
from gan.runtime.cache import hash_values
from gan.runtime.errors import UserError
from gan.runtime.text import printable

T = TypeVar("T")

MAX_NAME = 4096  # characters in the name of an image, as in the paths of Linux

# Of damaged or malicious archives; see `is_damaged` for an OSError.
ERRORS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, ValueError, NotImplementedError, RecursionError, OverflowError),
)


class Members(Generic[T]):
    """The images and the files of labels in an archive. Other members are ignored.

    Args:
        path: the archive.
        key: the config key of its path, with which error messages begin.
    """

    def __init__(self, path: Path, key: str):
        self._path, self._key = path, key
        self.images: dict[str, T] = {}
        self.labels: dict[str, T] = {}

    def add(self, stored_name: str, member: T, size: int, problem: str | None) -> None:
        """Add a file or link, if it is an image or a file of labels.

        Raises UserError for a name outside of the archive, a duplicate name, and a problem such as encryption.
        """
        parts = [part for part in stored_name.split("/") if part not in ("", ".")]
        if not parts or any(part.startswith(".") and part != ".." for part in parts):
            return
        name = "/".join(parts)
        of_labels = parts[-1] == LABELS_FILE
        if not of_labels and not is_image(name):
            return
        if stored_name.startswith("/") or ".." in parts:
            problem = "has a path outside of the archive"
        elif name in self.images or name in self.labels:
            problem = "is contained twice"
        elif len(name) > MAX_NAME:
            problem = f"has a name of more than {MAX_NAME:,} characters"
            stored_name = f"{name[:50]}..."
        elif of_labels and size > MAX_LABELS_BYTES:
            problem = f"is larger than {MAX_LABELS_BYTES:,} bytes"
        if problem is not None:
            where = f"{self._key}: '{printable(stored_name)}' in the archive '{printable(self._path)}'"
            raise UserError(f"{where} {problem}; unpack it and pack it again, or use the folder")
        (self.labels if of_labels else self.images)[name] = member


class ArchiveFiles(ImageFiles):
    """The images in an archive, which is read without unpacking it: nothing is ever written outside of the cache."""

    def find_paths(self, names: Sequence[str]) -> Iterator[str]:
        """Yield the path of each image, as if the archive were a folder."""
        path = os.path.realpath(self.path)
        return (f"{path}/{name}" for name in names)

    def find_wrapper(self, splits: Collection[str]) -> str:
        """Return the folder that wraps all images, such as the name of the archive: 'name/', or '' if there is none.

        A folder is a wrapper if all images are in its subfolders. A folder with a name in `splits` or labels is none.
        """
        first, last = (split_path(self.names[i])[:-1] for i in (0, -1))  # the names are sorted
        folders = [part for part, _ in takewhile(lambda parts: parts[0] == parts[1], zip(first, last, strict=False))]
        if any(name.count("/") <= len(folders) for name in self.names):
            folders = folders[:-1]  # the last one contains images
        wrapper = ""
        for folder in folders:
            if folder.lower() in splits or self.read_labels(wrapper) is not None:
                break
            wrapper += f"{folder}/"
        return wrapper

    def get_cache_key(self, folder: str, names: Sequence[str]) -> tuple[Sequence[str], tuple[str, ...]]:
        """Return the archive, and a hash of the names."""
        return [os.path.abspath(self.path)], (hash_values(folder, *names),)


@contextmanager
def archive_errors(path: Path, key: str) -> Iterator[None]:
    """Raise a UserError instead of the errors of a damaged archive."""
    try:
        yield
    except ERRORS as error:
        if isinstance(error, OSError) and not is_damaged(error):
            raise UserError(f"{key}: cannot read '{printable(path)}': {error.strerror}") from None
        reason = f"is damaged or incomplete ({printable(str(error) or type(error).__name__)}); replace it"
        raise UserError(f"{key}: the archive '{printable(path)}' {reason}") from None


def is_damaged(error: Exception) -> bool:
    """Return whether one of `ERRORS` means that the archive is damaged, not that the file system failed."""
    return not isinstance(error, OSError) or error.errno in (None, errno.EINVAL)  # EINVAL: a negative position
