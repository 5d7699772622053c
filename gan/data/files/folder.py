"""Images in a folder."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from gan.data.decoding import read_file
from gan.data.files.base import LABELS_FILE, MAX_LABELS_BYTES, ImageFiles, is_image, split_path
from gan.runtime.errors import UserError
from gan.runtime.paths import user_errors

MAX_FOLDERS = 1_000_000  # symbolic links between a few folders can make any number of paths


class FolderFiles(ImageFiles):
    """The images in a folder and its subfolders. Symbolic links are followed, except to a folder that contains them."""

    def __init__(self, path: Path, key: str):
        super().__init__(path, key, find_images(path, key))

    def read_images(self, names: Iterable[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each image a function that reads it."""
        return (partial(read_file, self.path / name) for name in names)

    def read_labels(self, folder: str) -> bytes | None:
        """Return the contents of `dataset.json` in a folder, or None if there is none."""
        path = self.path / folder / LABELS_FILE
        with user_errors(path, self.key):
            if not path.is_file():
                return None
            if path.stat().st_size > MAX_LABELS_BYTES:
                raise UserError(f"{self.key}: '{path}' is larger than {MAX_LABELS_BYTES:,} bytes")
            return path.read_bytes()

    def find_paths(self, names: Sequence[str]) -> Iterator[str]:
        """Yield the real path of each image, after all symbolic links."""
        folders: dict[str, str] = {}  # most images are no links, so that one lookup of their folder is enough
        for name in names:
            parent, _, base = name.rpartition("/")
            if parent not in folders:
                folders[parent] = os.path.realpath(self.path / parent)
            path = os.path.join(folders[parent], base)
            yield os.path.realpath(path) if os.path.islink(path) else path

    def get_cache_key(self, folder: str, names: Sequence[str]) -> tuple[Sequence[str], tuple[str, ...]]:
        """Return the files of the images."""
        return names, ()


def find_images(root: Path, key: str) -> list[str]:
    """Return the paths of all images in a folder and its subfolders, relative to it and with '/' as the separator.

    They are sorted component by component. Symbolic links are followed, except links to a folder that contains them.
    Raises UserError, which begins with the config key of the folder, if a folder cannot be read.
    """
    names = []
    # A list instead of recursion, because folders may be nested more deeply than Python's recursion limit.
    pending: list[tuple[str, str, frozenset]] = [(os.fspath(root), "", frozenset())]
    num_folders = 0
    with user_errors(root, key):
        while pending:
            folder, prefix, above = pending.pop()
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue
            num_folders += 1
            if num_folders > MAX_FOLDERS:
                raise UserError(f"{key}: more than {MAX_FOLDERS:,} folders in '{root}'; check its symbolic links")
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if is_image(entry.name) and stat.S_ISREG(entry.stat().st_mode):
                        names.append(prefix + entry.name)
                    elif os.path.isdir(entry.path):  # False for a broken link
                        pending.append((entry.path, f"{prefix}{entry.name}/", above | {identity}))
    return sorted(names, key=split_path)
