"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009)."""

import pickle
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gan.data.base import DATASETS
from gan.data.datasets.downloaded import DownloadedConfig
from gan.data.prepared import Chunk, Source


@dataclass(frozen=True, kw_only=True)
class CIFARConfig(DownloadedConfig):
    """Base class of both datasets.

    Each file is a pickled dict with labels and rows of 1024 red, 1024 green and 1024 blue values.
    """

    download_gb: ClassVar[float] = 0.36
    labels_key: ClassVar[str]
    num_classes: ClassVar[int]

    @property
    def image_size(self) -> tuple[int, int]:
        """Channels and height."""
        return 3, 32

    def training_source(self) -> Source:
        """Return the 50,000 training images, (3, 32, 32)."""
        return self._source("train", [name for name, _ in self.archive.train_list])

    def test_source(self) -> Source:
        """Return the 10,000 test images, (3, 32, 32)."""
        return self._source("test", [name for name, _ in self.archive.test_list])

    def _source(self, split: str, batches: Sequence[str]) -> Source:
        meta = self.archive.meta

        def decode() -> Iterator[Chunk]:
            # Unpickling can run code from the file, so its checksum is verified first.
            self.verify([*batches, meta["filename"]])
            for name in batches:
                batch = _unpickle(self.folder / name)
                yield Chunk(batch["data"].reshape(-1, 3, 32, 32), np.array(batch[self.labels_key]))

        return Source(
            name=f"{self.name}-{split}",
            root=self.folder,
            files=[*batches, meta["filename"]],
            options=(),
            shape=(3, 32, 32),
            num_classes=self.num_classes,
            decode=decode,
            read_class_names=lambda: _unpickle(self.folder / meta["filename"])[meta["key"]],
        )


@DATASETS.register("cifar10")
@dataclass(frozen=True, kw_only=True)
class CIFAR10Config(CIFARConfig):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in 10 classes."""

    archive_class: ClassVar = "CIFAR10"
    labels_key: ClassVar = "labels"
    num_classes: ClassVar = 10

    @property
    def classifier(self) -> str:
        """Name of the shipped classifier."""
        return "cifar10_jpeg"


@DATASETS.register("cifar100")
@dataclass(frozen=True, kw_only=True)
class CIFAR100Config(CIFARConfig):
    """CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels in 100 (fine) classes."""

    archive_class: ClassVar = "CIFAR100"
    labels_key: ClassVar = "fine_labels"
    num_classes: ClassVar = 100


def _unpickle(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2.4.0 warns about dtypes that were pickled by Python 2
        return pickle.load(file, encoding="latin1")
