"""Images in a folder and its subfolders."""

import hashlib
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from gan.data.base import DATASETS, DatasetConfig, ImageData, Splits
from gan.data.decoding import SUFFIXES, CorruptImageError, Filter, parallel_map, read_file, read_image
from gan.data.prepared import Chunk, Source, expand_path, prepare, printable, user_errors
from gan.runtime.errors import UserError
from models.ranges import Range

MAX_FOLDERS = 1_000_000  # symbolic links between a few folders can make any number of paths


@DATASETS.register("folder")
@dataclass(frozen=True, kw_only=True)
class FolderConfig(DatasetConfig):
    """The images in a folder and its subfolders, cropped to their central square and resized.

    The images are found by their suffixes. Symbolic links are followed, and names that begin with a dot are ignored. If
    every image is in a subfolder, the first-level subfolders in sorted order are the classes. See
    `gan.data.decoding.read_image` for how images are decoded.
    """

    root: str = "data"
    """Folder of the images; its subfolders are the classes if every image is in a subfolder"""
    resolution: Annotated[int, Range(min=8, max=1024)] = 64
    """Height and width in pixels"""
    channels: Literal[3, 1] = 3
    """Color channels: 3 (RGB) or 1 (gray)"""
    filter: Filter = "bilinear"
    """Filter of the resizing, antialiased as in Pillow"""
    test_root: str | None = None
    """Folder of the held-out images, if any"""
    test_fraction: Annotated[float, Range(min=0, max=0.9)] = 0.0
    """Fraction of the images to hold out, chosen by a hash of their names, so that new images do not move others"""
    skip_corrupt: bool = False
    """Skip images that cannot be read, and list them"""

    def load(self) -> Splits:
        """Return the training images and the held-out images, if any. Raises UserError for unreadable files."""
        if self.test_root is not None and self.test_fraction > 0:
            raise UserError("data.test_root and data.test_fraction cannot be combined; choose one")
        root = expand_path(self.root)
        names = find_images(root, "data.root")
        classes = sorted({name.split("/")[0] for name in names})
        unclassed = [name for name in names if "/" not in name]
        if unclassed:
            classes = []
            if self.conditional:
                raise UserError(
                    f"data.conditional=true: '{root / unclassed[0]}' has no class; move every image to a subfolder"
                )
        held_out = [name for name in names if hash_to_unit_interval(name) < self.test_fraction]
        if len(held_out) == len(names) or (self.test_fraction > 0 and not held_out):
            raise UserError(
                f"data.test_fraction={self.test_fraction:g} holds out {len(held_out)} of the {len(names)} images"
                f" in '{root}'; choose another fraction"
            )
        train = self._prepare("train", root, sorted(set(names) - set(held_out), key=_split_path), classes)
        if self.test_root is not None:
            return Splits(train, self._load_test_root(expand_path(self.test_root, "data.test_root"), root, classes))
        return Splits(train, self._prepare("held_out", root, held_out, classes) if held_out else None)

    def _load_test_root(self, test_root: Path, root: Path, classes: Sequence[str]) -> ImageData:
        names = find_images(test_root, "data.test_root")
        if test_root.resolve().is_relative_to(root.resolve()):
            raise UserError(f"data.test_root: '{test_root}' is inside data.root; move it, or its images are trained on")
        known = all("/" in name and name.split("/")[0] in classes for name in names)
        return self._prepare("held_out", test_root, names, classes if known else [])

    def _prepare(self, split: str, root: Path, names: Sequence[str], classes: Sequence[str]) -> ImageData:
        labels = {name: label for label, name in enumerate(classes)}

        def decode() -> Iterator[Chunk]:
            no_images = np.empty((0, self.channels, self.resolution, self.resolution), np.uint8)
            for name, result in zip(names, parallel_map(lambda name: self._read(root / name), names), strict=True):
                if isinstance(result, CorruptImageError):
                    failure = f"{printable(name)}: {result}"
                    if not self.skip_corrupt:
                        raise _corrupt_image_error(root, failure)
                    yield Chunk(no_images, np.empty(0, np.int64), (failure,))
                else:
                    label = labels[name.split("/")[0]] if labels else 0
                    yield Chunk(result[None], np.array([label]))

        data = prepare(
            Source(
                name=f"folder-{split}",
                root=root,
                files=names,
                options=("center crop", self.filter, tuple(classes)),
                shape=(self.channels, self.resolution, self.resolution),
                num_classes=len(classes) or 1,
                decode=decode,
                read_class_names=lambda: [printable(name) for name in classes],
            )
        )
        skipped = data.preparation.skipped if data.preparation is not None else ()
        if skipped and not self.skip_corrupt:  # the cache was written with skip_corrupt=true
            raise _corrupt_image_error(root, skipped[0])
        if skipped:
            message = f"skipped {len(skipped)} of {len(names)} images in '{root}' that cannot be read ({skipped[0]}"
            warnings.warn(f"{message}{', ...' if len(skipped) > 1 else ''})", stacklevel=3)
        return data

    def _read(self, path: Path) -> np.ndarray | CorruptImageError:
        try:
            return read_image(read_file(path), self.channels, self.resolution, self.filter)
        except CorruptImageError as error:  # an OSError does not mean that the image is corrupt
            return error


def find_images(root: Path, key: str) -> list[str]:
    """Return the paths of all images in a folder and its subfolders, relative to it and with '/' as the separator.

    They are sorted component by component. Symbolic links are followed, except links to a folder that contains them.
    Raises UserError, which begins with the config key of the folder, if there are no images or if a folder cannot be
    read.
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
                    if _is_image(entry.name) and stat.S_ISREG(entry.stat().st_mode):
                        names.append(prefix + entry.name)
                    elif os.path.isdir(entry.path):  # False for a broken link
                        pending.append((entry.path, f"{prefix}{entry.name}/", above | {identity}))
    if not names:
        raise UserError(f"{key}: no images in '{root}' (suffixes: {', '.join(SUFFIXES)})")
    return sorted(names, key=_split_path)


def hash_to_unit_interval(name: str) -> float:
    """Return a number in [0, 1) that is a function of the name."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest()) / 2**64


def _split_path(name: str) -> list[str]:
    return name.split("/")


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _corrupt_image_error(root: Path, failure: str) -> UserError:
    return UserError(
        f"data: an image in '{root}' cannot be read: {failure}; remove it or set data.skip_corrupt=true to skip it"
    )
