"""Any tree of image files."""

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
from gan.data.decoding import SUFFIXES, CorruptImageError, Filter, in_order, read_file, read_image
from gan.data.prepared import Chunk, Source, prepare, printable, reading, user_path
from gan.runtime.errors import UserError
from models.ranges import Range

MAX_FOLDERS = 1_000_000  # links between a few folders can make any number of paths


@DATASETS.register("folder")
@dataclass(frozen=True, kw_only=True)
class FolderConfig(DatasetConfig):
    """The images below a folder, cropped to the square in their middle and resized.

    Found recursively, through links too, by the suffix of their names; names that begin with a dot are left out. When
    every image lies in a subfolder, the first-level subfolders in sorted order are the classes. `gan.data.decoding`
    says how the kinds of images are read.
    """

    root: str = "data"
    """Folder of the images; its subfolders are classes when every image lies in one"""
    resolution: Annotated[int, Range(min=8, max=1024)] = 64
    """Side in pixels"""
    channels: Literal[3, 1] = 3
    """3: color, 1: gray"""
    filter: Filter = "bilinear"
    """Filter of the resizing, antialiased as Pillow's"""
    test_root: str | None = None
    """Folder of the held-out images, if any"""
    test_fraction: Annotated[float, Range(min=0, max=0.9)] = 0.0
    """Share of the images below root to hold out, chosen by their names: an image that is added moves no other"""
    skip_corrupt: bool = False
    """Leave out, count and name the images that cannot be read"""

    def load(self) -> Splits:
        """Return the training images and the held-out ones, if any; UserError for what cannot be read."""
        if self.test_root is not None and self.test_fraction > 0:
            raise UserError("data.test_root and data.test_fraction are two ways to hold images out; choose one")
        root = user_path(self.root)
        names = image_names(root, "data.root")
        classes = sorted({name.split("/")[0] for name in names})
        unclassed = [name for name in names if "/" not in name]
        if unclassed:
            classes = []
            if self.conditional:
                raise UserError(
                    f"data.conditional=true: '{root / unclassed[0]}' has no class; every image must lie in a subfolder"
                )
        held_out = [name for name in names if self.test_fraction > 0 and place(name) < self.test_fraction]
        if len(held_out) == len(names) or (self.test_fraction > 0 and not held_out):
            raise UserError(
                f"data.test_fraction={self.test_fraction:g} holds out {len(held_out)} of the {len(names)} images"
                f" in '{root}'; choose another"
            )
        train = self._prepare("train", root, sorted(set(names) - set(held_out), key=_parts), classes)
        if self.test_root is not None:
            return Splits(train, self._load_test_root(user_path(self.test_root, "data.test_root"), root, classes))
        return Splits(train, self._prepare("held_out", root, held_out, classes) if held_out else None)

    def _load_test_root(self, test_root: Path, root: Path, classes: Sequence[str]) -> ImageData:
        names = image_names(test_root, "data.test_root")
        if test_root.resolve().is_relative_to(root.resolve()):
            raise UserError(f"data.test_root: '{test_root}' lies in data.root and would be trained on; move it out")
        known = all("/" in name and name.split("/")[0] in classes for name in names)
        return self._prepare("held_out", test_root, names, classes if known else [])

    def _prepare(self, split: str, root: Path, names: Sequence[str], classes: Sequence[str]) -> ImageData:
        labels = {name: label for label, name in enumerate(classes)}

        def decode() -> Iterator[Chunk]:
            nothing = np.empty((0, self.channels, self.resolution, self.resolution), np.uint8)
            for name, result in zip(names, in_order(lambda name: self._read(root / name), names), strict=True):
                if isinstance(result, CorruptImageError):
                    failure = f"{printable(name)}: {result}"
                    if not self.skip_corrupt:
                        raise _corrupt(root, failure)
                    yield Chunk(nothing, np.empty(0, np.int64), (failure,))
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
        if skipped and not self.skip_corrupt:  # prepared when skipping was allowed
            raise _corrupt(root, skipped[0])
        if skipped:
            message = f"left out {len(skipped)} of {len(names)} images in '{root}' that cannot be read ({skipped[0]}"
            warnings.warn(f"{message}{', ...' if len(skipped) > 1 else ''})", stacklevel=3)
        return data

    def _read(self, path: Path) -> np.ndarray | CorruptImageError:
        try:
            return read_image(read_file(path), self.channels, self.resolution, self.filter)
        except CorruptImageError as error:  # but no OSError: for all we know the image is whole
            return error


def image_names(root: Path, key: str) -> list[str]:
    """Return the images below a folder by name, with '/' between the parts, sorted part by part.

    Links are followed but for those into a folder that they lie in. UserError, which begins with the `key` that chose
    the folder, when there is no image, or when a folder cannot be read.
    """
    names = []
    pending: list[tuple[str, str, frozenset]] = [(os.fspath(root), "", frozenset())]  # of a depth without bounds
    entered = 0
    with reading(root, key):
        while pending:
            folder, prefix, above = pending.pop()
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue
            entered += 1
            if entered > MAX_FOLDERS:
                raise UserError(f"{key}: more than {MAX_FOLDERS:,} folders in '{root}'; do links multiply them?")
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if _is_image(entry.name) and stat.S_ISREG(entry.stat().st_mode):
                        names.append(prefix + entry.name)
                    elif os.path.isdir(entry.path):  # False for a link that leads nowhere
                        pending.append((entry.path, f"{prefix}{entry.name}/", above | {identity}))
    if not names:
        raise UserError(f"{key}: no images in '{root}' (names that end in {', '.join(SUFFIXES)})")
    return sorted(names, key=_parts)


def place(name: str) -> float:
    """Return a number in [0, 1) that depends on a name alone."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest()) / 2**64


def _parts(name: str) -> list[str]:
    return name.split("/")


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _corrupt(root: Path, failure: str) -> UserError:
    return UserError(
        f"data: an image in '{root}' cannot be read, {failure}; remove it or set data.skip_corrupt=true to leave it out"
    )
