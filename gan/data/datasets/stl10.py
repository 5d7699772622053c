"""STL-10 (Coates, Ng, Lee, AISTATS 2011)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from PIL import Image

from gan.data.base import DATASETS, Splits
from gan.data.datasets.downloaded import DownloadedConfig
from gan.data.decoding import Filter, parallel_map, resize, to_array
from gan.data.prepared import Chunk, Source
from gan.runtime.errors import UserError
from models.ranges import Range

NATIVE = 96  # height and width of the images in pixels
IMAGE_BYTES = 3 * NATIVE * NATIVE
CHUNK = 256  # images per read

# Files of the images and labels of each split. An image is 96 columns of 96 red values, then green, then blue ones.
FILES: dict[str, list[tuple[str, str | None]]] = {
    "unlabeled": [("unlabeled_X.bin", None)],
    "train": [("train_X.bin", "train_y.bin")],
    "train+unlabeled": [("train_X.bin", None), ("unlabeled_X.bin", None)],
    "test": [("test_X.bin", "test_y.bin")],
}

COUNTS = {"unlabeled_X.bin": 100_000, "train_X.bin": 5_000, "test_X.bin": 8_000}  # of images


@DATASETS.register("stl10")
@dataclass(frozen=True, kw_only=True)
class STL10Config(DownloadedConfig):
    """STL-10: 96x96 pixels, 10 classes, 100,000 unlabeled and 5,000 labeled training images, 8,000 test images.

    The default is that of Miyato et al. (ICLR 2018): the unlabeled images, resized to 48x48.
    """

    archive_class: ClassVar = "STL10"
    download_gb: ClassVar[float] = 5.8

    split: Literal["unlabeled", "train", "train+unlabeled"] = "unlabeled"
    """Training images; a conditional GAN requires `train`"""
    resolution: Annotated[int, Range(min=8, max=NATIVE)] = 48
    """Height and width in pixels (native: 96)"""
    filter: Filter = "bilinear"
    """Filter of the resizing, antialiased as in Pillow"""

    @property
    def image_size(self) -> tuple[int, int]:
        """Channels and height."""
        return 3, self.resolution

    @property
    def classifier(self) -> str | None:
        """Name of the shipped classifier, which is for 48 x 48 pixels."""
        return "stl10_48" if self.resolution == 48 else None

    def load(self) -> Splits:
        """Return the images of the split and the test images. Raises UserError if files are missing or damaged."""
        if self.conditional and self.split != "train":
            raise UserError(f"data.split={self.split}: data.conditional=true requires labels; use data.split=train")
        return super().load()

    def training_source(self) -> Source:
        """Return the images of the split, (3, resolution, resolution)."""
        return self._source(self.split)

    def test_source(self) -> Source:
        """Return the test images, (3, resolution, resolution)."""
        return self._source("test")

    def _source(self, split: str) -> Source:
        names = [name for pair in FILES[split] for name in pair if name is not None]

        def decode() -> Iterator[Chunk]:
            self.verify(names)
            for images_file, labels_file in FILES[split]:
                path = self.folder / images_file
                starts = range(0, path.stat().st_size // IMAGE_BYTES, CHUNK)
                labels = None if labels_file is None else np.fromfile(self.folder / labels_file, np.uint8) - 1
                for start, images in zip(starts, parallel_map(partial(self._read, path), starts), strict=True):
                    y = np.zeros(len(images)) if labels is None else labels[start : start + CHUNK]
                    yield Chunk(images, y.astype(np.int64))

        labeled = all(labels_file for _, labels_file in FILES[split])
        return Source(
            name=f"{self.name}-{split}",
            root=self.folder,
            files=names,
            options=(self.resolution, self.filter if self.resolution < NATIVE else None),
            shape=(3, self.resolution, self.resolution),
            num_classes=10 if labeled else 1,
            decode=decode,
            max_count=sum(COUNTS[images_file] for images_file, _ in FILES[split]),
            read_class_names=self._class_names if labeled else tuple,
        )

    def _read(self, path: Path, start: int) -> np.ndarray:
        """Return at most CHUNK images that start at index `start`, (n, 3, resolution, resolution)."""
        columns = np.fromfile(path, np.uint8, CHUNK * IMAGE_BYTES, offset=start * IMAGE_BYTES)
        images = columns.reshape(-1, 3, NATIVE, NATIVE).transpose(0, 1, 3, 2)
        if self.resolution == NATIVE:
            return images
        pil_images = (Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))) for pixels in images)
        return np.stack([to_array(resize(image, self.resolution, self.filter)) for image in pil_images])

    def _class_names(self) -> list[str]:
        try:
            return (self.folder / self.archive.class_names_file).read_text().split()
        except OSError:
            return []
