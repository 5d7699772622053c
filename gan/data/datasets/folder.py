"""Images in a folder or an archive, and their subfolders."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from gan.data.base import DATASETS, DatasetConfig, ImageData, Splits
from gan.data.datasets.image_list import ImageList, check_exists, list_images
from gan.data.datasets.split_folders import SPLITS, SplitFolders, find_split_folders
from gan.data.decoding import CorruptImageError, Filter, parallel_map, read_image
from gan.data.files.base import LABELS_FILE
from gan.data.prepared import Chunk, Source, prepare
from gan.runtime.errors import UserError, collect_errors
from gan.runtime.text import printable
from models.ranges import Range


@DATASETS.register("folder")
@dataclass(frozen=True, kw_only=True)
class FolderConfig(DatasetConfig):
    """The images in a folder or an archive and its subfolders, cropped to their central square and resized.

    Archives (.zip, .tar, .tar.gz, .tar.xz, .tar.bz2) are read without unpacking them. The images are found by their
    suffixes. Symbolic links are followed, and names that begin with a dot are ignored. If every image is in a
    subfolder, the first-level subfolders in sorted order are the classes. But if these are `train` and `val` or `test`
    (or `training`, `valid`, `validation`, `testing`, in any case), they are splits: the images in `train` are for
    training, those in `val` are held out, or those in `test` if there is no `val`, and the classes are the subfolders
    of `train`. The labels in a file `dataset.json`, as that of StyleGAN and EDM, replace the class folders. Images that
    are also held out, such as those behind a symbolic link, are not trained on.
    See `gan.data.decoding.read_image` for how images are decoded.
    """

    root: str = "data"
    """Folder or archive of the images; its subfolders are splits or classes"""
    resolution: Annotated[int, Range(min=8, max=1024)] = 64
    """Height and width in pixels"""
    channels: Literal[3, 1] = 3
    """Color channels: 3 (RGB) or 1 (gray)"""
    filter: Filter = "bilinear"
    """Filter of the resizing, antialiased as in Pillow"""
    held_out: str | None = field(default=None, metadata={"alias": "test_root"})
    """Folder or archive of the held-out images, never trained on (null: the folder `val` or `test` next to `train`)"""
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
        train, held_out, excluded = list_images(self.root, "data.root", SPLITS), None, None
        if self.held_out is not None:
            held_out = list_images(self.held_out, "data.held_out")
            train, excluded = train.without(held_out, "data.held_out")
        splits = find_split_folders(train.root, train.names, excluded)
        if splits is not None:
            if splits.held_out is not None and self.test_fraction > 0:
                raise UserError(f"data.test_fraction: '{train.root}' has held-out images in '{splits.held_out}'")
            if splits.held_out is not None and held_out is None:
                held_out = train.in_folder(splits.held_out)
            train = train.in_folder(splits.train)
            if held_out is not None:
                train, _ = train.without(held_out, "data.root" if self.held_out is None else "data.held_out")
        classes = self._find_classes(train)
        if held_out is None and self.test_fraction > 0:
            train, held_out = train.hold_out_fraction(self.test_fraction)
        of_splits = splits is not None and self.held_out is None
        held_out_classes = [] if held_out is None else self._find_held_out_classes(held_out, classes, of_splits)
        if splits is not None:
            print(_describe(train, held_out, classes, splits))
        return Splits(
            self._prepare("train", train, classes),
            None if held_out is None else self._prepare("held_out", held_out, held_out_classes),
        )

    def _find_classes(self, train: ImageList) -> list[str]:
        """Return the names of the classes of the training images; none if an image has no class."""
        if (unclassed := train.find_unclassed()) is None:
            return train.find_classes()
        if self.conditional:
            raise UserError(
                f"data.conditional=true: '{train.root / unclassed}' has no class; move every image to a subfolder"
                f" or label them in {LABELS_FILE}"
            )
        return []

    def _find_held_out_classes(self, held_out: ImageList, classes: list[str], of_splits: bool) -> list[str]:
        """Return the training classes if the held-out images have these, and none if the images have no classes.

        The labels of both are thus the same. Subfolders that are no classes are accepted only in another folder, and
        only for an unconditional GAN, if none of them is a training class. Raises UserError for others.
        """
        if not classes or held_out.find_unclassed() is not None:
            return []
        found = held_out.find_classes()
        unknown = [name for name in found if name not in classes]
        if not unknown:
            return classes
        if len(unknown) < len(found) or self.conditional or of_splits:
            raise UserError(
                f"data: '{printable(held_out.root / unknown[0])}' is no class of the training images"
                f" ({', '.join(map(printable, classes[:10]))}{', ...' if len(classes) > 10 else ''});"
                " both need the same class folders"
            )
        return []

    def _prepare(self, split: str, images: ImageList, classes: Sequence[str]) -> ImageData:
        numbers = {name: number for number, name in enumerate(classes)}
        labels = np.array([numbers.get(images.get_class(name), 0) for name in images.names])
        paths = images.paths
        order = images.files.get_reading_order(paths)

        def decode() -> Iterator[Chunk]:
            no_images = np.empty((0, self.channels, self.resolution, self.resolution), np.uint8)
            indices = range(len(paths)) if order is None else order
            results = parallel_map(self._read, images.files.read_images(paths[i] for i in indices))
            for i, result in zip(indices, results, strict=True):
                if isinstance(result, CorruptImageError):
                    failure = printable(f"{images.names[i]}: {result}")
                    if not self.skip_corrupt:
                        raise _corrupt_image_error(images.root, failure)
                    yield Chunk(no_images, np.empty(0, np.int64), (failure,))
                else:
                    yield Chunk(result[None], labels[i : i + 1])

        files, values = images.get_cache_key()
        data = prepare(
            Source(
                name=f"folder-{split}",
                root=images.root,
                files=files,
                options=("center crop", self.filter, tuple(classes), *values),
                shape=(self.channels, self.resolution, self.resolution),
                num_classes=len(classes) or 1,
                decode=decode,
                max_count=len(images.names),
                read_class_names=lambda: [printable(name) for name in classes],
                order=order,
            )
        )
        skipped = data.preparation.skipped if data.preparation is not None else ()
        if skipped and not self.skip_corrupt:  # the cache was written with skip_corrupt=true
            raise _corrupt_image_error(images.root, skipped[0])
        if skipped:
            count = f"skipped {len(skipped)} of {len(images.names)} images in '{images.root}' that cannot be read"
            warnings.warn(f"{count} ({skipped[0]}{', ...' if len(skipped) > 1 else ''})", stacklevel=3)
        return data

    def _read(self, read: Callable[[], bytes]) -> np.ndarray | CorruptImageError:
        try:
            return read_image(read(), self.channels, self.resolution, self.filter)
        except CorruptImageError as error:  # an OSError does not mean that the image is corrupt
            return error


def _describe(train: ImageList, held_out: ImageList | None, classes: Sequence[str], splits: SplitFolders) -> str:
    """Return a line on the splits that are read."""
    text = f"data: {len(train.names)} training images of {len(classes) or 'no'} classes in '{train.root}'"
    if held_out is not None:
        text += f", {len(held_out.names)} held-out images in '{held_out.root}'"
    return printable(text + (f"; '{splits.unused}' is not read" if splits.unused else ""))


def _corrupt_image_error(root: Path, failure: str) -> UserError:
    return UserError(
        f"data: an image in '{root}' cannot be read: {failure}; remove it or set data.skip_corrupt=true to skip it"
    )
