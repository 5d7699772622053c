"""The images of a split: which files they are, and their classes."""

import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from gan.data.datasets.labels_file import parse_labels
from gan.data.datasets.split_folders import find_first_folders
from gan.data.files import ImageFiles, find_archive, open_files
from gan.data.files.base import LABELS_FILE
from gan.runtime.cache import hash_values
from gan.runtime.errors import UserError
from gan.runtime.paths import expand_path, user_errors
from gan.runtime.text import printable


class ImageList(NamedTuple):
    """Images in a folder of `files`, and their paths relative to this folder, sorted and with '/' as the separator.

    `labels` are those in `dataset.json` by name, empty if it has none. They are None without this file: then the
    first-level folders are the classes.
    """

    files: ImageFiles
    folder: str  # '' or 'train/'
    names: list[str]
    labels: dict[str, int] | None

    @property
    def root(self) -> Path:
        """The path of the folder or archive that contains the images, for messages."""
        return self.files.path / self.folder

    @property
    def paths(self) -> list[str]:
        """The paths of the images in `files`."""
        return [self.folder + name for name in self.names]

    def find_classes(self) -> list[str]:
        """Return the names of the classes of images that all have one: folders, or '0', '1', ... for `dataset.json`."""
        if self.labels is None:
            return sorted(find_first_folders(self.names))
        return [str(label) for label in range(1 + max(self.labels[name] for name in self.names))]

    def get_class(self, name: str) -> str:
        """Return the name of the class of an image; '' if it has none."""
        if self.labels is None:
            folder, separator, _ = name.partition("/")
            return folder if separator else ""
        return str(self.labels[name]) if self.labels else ""

    def find_unclassed(self) -> str | None:
        """Return an image that has no class, or None."""
        return next((name for name in self.names if not self.get_class(name)), None)

    def get_cache_key(self) -> tuple[Sequence[str], tuple[str, ...]]:
        """Return what pixels and labels depend on: files, absolute or relative to `root`, and other values."""
        files, values = self.files.get_cache_key(self.folder, self.names)
        if self.labels:
            values = (*values, hash_values(*(self.labels[name] for name in self.names)))
        return files, values

    def in_folder(self, folder: str) -> "ImageList":
        """Return the images in a first-level folder."""
        prefix = f"{folder}/"
        names = [name.removeprefix(prefix) for name in self.names if name.startswith(prefix)]
        if self.labels is None:
            return ImageList(self.files, self.folder + prefix, names, _read_labels(self.files, self.folder + prefix))
        labels = {name.removeprefix(prefix): label for name, label in self.labels.items() if name.startswith(prefix)}
        return ImageList(self.files, self.folder + prefix, names, labels)

    def without(self, held_out: "ImageList", key: str) -> tuple["ImageList", list[str]]:
        """Return the images whose files are not also held out, and the names of the others, of which it prints a line.

        Files are the same if they are after all symbolic links, of themselves or of their folders. Raises UserError if
        no image is left; `key` is the config key that holds out the images.
        """
        held_out_files = set(held_out.files.find_paths(held_out.paths))
        names: list[str] = []
        excluded: list[str] = []
        for name, file in zip(self.names, self.files.find_paths(self.paths), strict=True):
            (excluded if file in held_out_files else names).append(name)
        if not names:
            raise UserError(
                f"{key}: '{printable(held_out.root)}' contains all images of data.root that are to be trained on"
                f" ('{printable(self.root)}'); choose another folder"
            )
        if excluded:
            text = f"data: {len(excluded)} images in '{self.root}' are held-out images and are not trained on"
            print(printable(f"{text} ({excluded[0]}{', ...' if len(excluded) > 1 else ''})"))
        return self._replace(names=names), excluded

    def hold_out_fraction(self, fraction: float) -> tuple["ImageList", "ImageList"]:
        """Return the images without those that are held out by a hash of their names, and the latter."""
        held_out = [name for name in self.names if hash_to_unit_interval(name) < fraction]
        if len(held_out) in (0, len(self.names)):
            raise UserError(
                f"data.test_fraction={fraction:g} holds out {len(held_out)} of the {len(self.names)} images"
                f" in '{self.root}'; choose another fraction"
            )
        held_out_images = self._replace(names=held_out)
        chosen = set(held_out)
        train = self._replace(names=[name for name in self.names if name not in chosen])
        return train.without(held_out_images, "data.test_fraction")[0], held_out_images


def list_images(path: str, key: str, splits: Collection[str] = ()) -> ImageList:
    """Return the images in the folder, archive, or folder in an archive that a config key names.

    In an archive, a folder that wraps all others is read instead, unless its name is one of `splits`. Raises UserError
    if there are no images or if they cannot be read.
    """
    files, folder = open_files(expand_path(path, key), key)
    folder = folder or files.find_wrapper(splits)
    names = [name.removeprefix(folder) for name in files.names if name.startswith(folder)]
    return ImageList(files, folder, names, _read_labels(files, folder))


def check_exists(path: str, key: str) -> None:
    """Raise UserError if the path in a config key does not exist. A path in an archive exists if the archive does."""
    with user_errors(root := expand_path(path, key), key):
        os.stat(find_archive(root) or root)


def hash_to_unit_interval(name: str) -> float:
    """Return a number in [0, 1) that is a function of the name."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest()) / 2**64


def _read_labels(files: ImageFiles, folder: str) -> dict[str, int] | None:
    """Return the labels in the `dataset.json` of a folder, or None if there is none; see `ImageList.labels`."""
    content = files.read_labels(folder)
    if content is None:
        return None
    file = f"{files.key}: '{printable(files.path / folder / LABELS_FILE)}'"
    labels = parse_labels(content, file)
    images = (name.removeprefix(folder) for name in files.names if name.startswith(folder))
    missing = next((name for name in images if name not in labels), None)
    if labels and missing is not None:
        raise UserError(
            f"{file} has no label for '{printable(missing)}'; add it, or write null for images without labels"
        )
    return labels
