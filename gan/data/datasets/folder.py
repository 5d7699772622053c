"""Images in a folder and its subfolders."""

import hashlib
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np

from gan.data.base import DATASETS, DatasetConfig, ImageData, Splits
from gan.data.datasets.split_folders import (
    SplitFolders,
    find_first_folders,
    find_split_folders,
    find_unclassed,
)
from gan.data.decoding import SUFFIXES, CorruptImageError, Filter, parallel_map, read_file, read_image
from gan.data.prepared import Chunk, Source, expand_path, prepare, printable, user_errors
from gan.runtime.errors import UserError, collect_errors
from models.ranges import Range

MAX_FOLDERS = 1_000_000  # symbolic links between a few folders can make any number of paths


@DATASETS.register("folder")
@dataclass(frozen=True, kw_only=True)
class FolderConfig(DatasetConfig):
    """The images in a folder and its subfolders, cropped to their central square and resized.

    The images are found by their suffixes. Symbolic links are followed, and names that begin with a dot are ignored. If
    every image is in a subfolder, the first-level subfolders in sorted order are the classes. But if these are `train`
    and `val` or `test` (or `training`, `valid`, `validation`, `testing`, in any case), they are splits: the images in
    `train` are for training, those in `val` are held out, or those in `test` if there is no `val`, and the classes are
    the subfolders of `train`. Images that are also held out, such as those behind a symbolic link, are not trained on.
    See `gan.data.decoding.read_image` for how images are decoded.
    """

    root: str = "data"
    """Folder of the images; its subfolders are splits or classes"""
    resolution: Annotated[int, Range(min=8, max=1024)] = 64
    """Height and width in pixels"""
    channels: Literal[3, 1] = 3
    """Color channels: 3 (RGB) or 1 (gray)"""
    filter: Filter = "bilinear"
    """Filter of the resizing, antialiased as in Pillow"""
    held_out: str | None = field(default=None, metadata={"alias": "test_root"})
    """Folder of the held-out images, which are not trained on (null: the folder `val` or `test` next to `train`)"""
    test_fraction: Annotated[float, Range(min=0, max=0.9)] = 0.0
    """Fraction of the images to hold out, chosen by a hash of their names, so that new images do not move others"""
    skip_corrupt: bool = False
    """Skip images that cannot be read, and list them"""

    @property
    def image_size(self) -> tuple[int, int]:
        """Channels and height."""
        return self.channels, self.resolution

    def missing(self) -> list[str]:
        """Return a line for each of `root` and `held_out` that does not exist."""
        paths = {"data.root": self.root, "data.held_out": self.held_out}
        return [
            line
            for key, path in paths.items()
            if path is not None
            for line in collect_errors(lambda key=key, path=path: check_exists(path, key))
        ]

    def load(self) -> Splits:
        """Return the training images and the held-out images, if any. Raises UserError for unreadable files.

        Prints a line if the folders in `root` are splits.
        """
        if self.held_out is not None and self.test_fraction > 0:
            raise UserError("data.held_out and data.test_fraction cannot be combined; choose one")
        train, held_out, excluded = list_images(self.root, "data.root"), None, None
        if self.held_out is not None:
            held_out = list_images(self.held_out, "data.held_out")
            train, excluded = _without(train, held_out, "data.held_out")
        splits = find_split_folders(*train, excluded)
        if splits is not None:
            if splits.held_out is not None and self.test_fraction > 0:
                raise UserError(f"data.test_fraction: '{train.root}' has held-out images in '{splits.held_out}'")
            if splits.held_out is not None and held_out is None:
                held_out = train.in_folder(splits.held_out)
            train = train.in_folder(splits.train)
            if held_out is not None:
                train, _ = _without(train, held_out, "data.root" if self.held_out is None else "data.held_out")
        classes = self._find_classes(train)
        if held_out is None and self.test_fraction > 0:
            train, held_out = self._hold_out_fraction(train)
        of_splits = splits is not None and self.held_out is None
        held_out_classes = [] if held_out is None else self._find_held_out_classes(held_out, classes, of_splits)
        if splits is not None:
            print(_describe(train, held_out, classes, splits))
        return Splits(
            self._prepare("train", *train, classes),
            None if held_out is None else self._prepare("held_out", *held_out, held_out_classes),
        )

    def _find_classes(self, train: "ImageList") -> list[str]:
        """Return the names of the classes of the training images; none if an image has no class."""
        if (unclassed := train.find_unclassed()) is None:
            return train.first_folders()
        if self.conditional:
            raise UserError(
                f"data.conditional=true: '{train.root / unclassed}' has no class; move every image to a subfolder"
            )
        return []

    def _find_held_out_classes(self, held_out: "ImageList", classes: list[str], of_splits: bool) -> list[str]:
        """Return the training classes if the held-out images have these, and none if the images have no classes.

        The labels of both are thus the same. Subfolders that are no classes are accepted only in another folder, and
        only for an unconditional GAN, if none of them is a training class. Raises UserError for others.
        """
        if not classes or held_out.find_unclassed() is not None:
            return []
        unknown = [name for name in held_out.first_folders() if name not in classes]
        if not unknown:
            return classes
        if len(unknown) < len(held_out.first_folders()) or self.conditional or of_splits:
            raise UserError(
                f"data: '{printable(held_out.root / unknown[0])}' is no class of the training images"
                f" ({', '.join(map(printable, classes[:10]))}{', ...' if len(classes) > 10 else ''});"
                " both need the same class folders"
            )
        return []

    def _hold_out_fraction(self, images: "ImageList") -> tuple["ImageList", "ImageList"]:
        """Return the training images and the held-out images."""
        held_out = [name for name in images.names if hash_to_unit_interval(name) < self.test_fraction]
        if len(held_out) in (0, len(images.names)):
            raise UserError(
                f"data.test_fraction={self.test_fraction:g} holds out {len(held_out)} of the {len(images.names)} images"
                f" in '{images.root}'; choose another fraction"
            )
        train = sorted(set(images.names) - set(held_out), key=_split_path)
        held_out_images = ImageList(images.root, held_out)
        return _without(ImageList(images.root, train), held_out_images, "data.test_fraction")[0], held_out_images

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
                max_count=len(names),
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


class ImageList(NamedTuple):
    """A folder, and the paths of its images relative to it, with '/' as the separator."""

    root: Path
    names: list[str]

    def first_folders(self) -> list[str]:
        """Return the first-level folders of the images, sorted."""
        return sorted(find_first_folders(self.names))

    def find_unclassed(self) -> str | None:
        """Return an image that is in no subfolder, or None."""
        return find_unclassed(self.names)

    def find_files(self) -> Iterator[str]:
        """Yield the real path of each image, after all symbolic links."""
        folders: dict[str, str] = {}  # most images are no links, so that one lookup of their folder is enough
        for name in self.names:
            parent, _, base = name.rpartition("/")
            if parent not in folders:
                folders[parent] = os.path.realpath(self.root / parent)
            path = os.path.join(folders[parent], base)
            yield os.path.realpath(path) if os.path.islink(path) else path

    def in_folder(self, folder: str) -> "ImageList":
        """Return the images in a first-level folder."""
        prefix = f"{folder}/"
        return ImageList(self.root / folder, [name[len(prefix) :] for name in self.names if name.startswith(prefix)])


def check_exists(path: str, key: str) -> None:
    """Raise UserError if the path in a config key does not exist."""
    with user_errors(root := expand_path(path, key), key):
        os.stat(root)


def list_images(folder: str, key: str) -> ImageList:
    """Return the images in the folder of a config key. Raises UserError like `find_images`."""
    root = expand_path(folder, key)
    return ImageList(root, find_images(root, key))


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


def _without(train: ImageList, held_out: ImageList, key: str) -> tuple[ImageList, list[str]]:
    """Return the images whose files are not also held out, and the names of the others, of which it prints a line.

    Files are the same if they are after all symbolic links, of themselves or of their folders. Raises UserError if no
    training image is left; `key` is the config key that holds out the images.
    """
    held_out_files = set(held_out.find_files())
    names: list[str] = []
    excluded: list[str] = []
    for name, file in zip(train.names, train.find_files(), strict=True):
        (excluded if file in held_out_files else names).append(name)
    if not names:
        raise UserError(
            f"{key}: '{printable(held_out.root)}' contains all images of data.root that are to be trained on"
            f" ('{printable(train.root)}'); choose another folder"
        )
    if excluded:
        text = f"data: {len(excluded)} images in '{train.root}' are held-out images and are not trained on"
        print(printable(f"{text} ({excluded[0]}{', ...' if len(excluded) > 1 else ''})"))
    return ImageList(train.root, names), excluded


def _describe(train: ImageList, held_out: ImageList | None, classes: Sequence[str], splits: SplitFolders) -> str:
    """Return a line on the splits that are read."""
    text = f"data: {len(train.names)} training images of {len(classes) or 'no'} classes in '{train.root}'"
    if held_out is not None:
        text += f", {len(held_out.names)} held-out images in '{held_out.root}'"
    return printable(text + (f"; '{splits.unused}' is not read" if splits.unused else ""))


def _split_path(name: str) -> list[str]:
    return name.split("/")


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _corrupt_image_error(root: Path, failure: str) -> UserError:
    return UserError(
        f"data: an image in '{root}' cannot be read: {failure}; remove it or set data.skip_corrupt=true to skip it"
    )
