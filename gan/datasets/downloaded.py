"""CIFAR-10, CIFAR-100 and STL-10 through torchvision. Nothing is downloaded unless `data.download=true` asks for it."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import datasets

from gan.data import DATASETS, DatasetConfig, ImageData, Splits
from gan.errors import UserError
from models.ranges import Range


@dataclass(frozen=True, kw_only=True)
class DownloadedConfig(DatasetConfig):
    """Base of the data sets that torchvision reads from `root`."""

    download: bool = False
    """Download the data set to `root` if it is not there"""

    def load(self) -> Splits:
        """Return the training and the test images; UserError when they are not in `root`."""
        try:
            return self._load()
        except RuntimeError as error:  # torchvision's word for a missing or damaged file
            name = DATASETS.name_of(type(self))
            raise UserError(
                f"data.root: no whole {name} in '{self.root}' ({str(error).split('.')[0]});"
                " add data.download=true to download it, or set data.root to where it is"
            ) from None
        except OSError as error:
            raise UserError(f"data.root: cannot read or download to '{self.root}': {error}") from None

    @abstractmethod
    def _load(self) -> Splits:
        """Read both splits with torchvision."""


@DATASETS.register("cifar10")
@dataclass(frozen=True, kw_only=True)
class CIFAR10Config(DownloadedConfig):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in 10 classes."""

    def _load(self) -> Splits:
        return _cifar(datasets.CIFAR10, self, 10)


@DATASETS.register("cifar100")
@dataclass(frozen=True, kw_only=True)
class CIFAR100Config(DownloadedConfig):
    """CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels in 100 classes."""

    def _load(self) -> Splits:
        return _cifar(datasets.CIFAR100, self, 100)


@DATASETS.register("stl10")
@dataclass(frozen=True, kw_only=True)
class STL10Config(DownloadedConfig):
    """STL-10: 100,000 unlabeled training images of 96x96 pixels, 5,000 labeled ones, 8,000 test images, 10 classes.

    The default, the unlabeled images resized to 48x48, is Miyato et al.'s (ICLR 2018).
    """

    split: Literal["unlabeled", "train", "train+unlabeled"] = "unlabeled"
    """Images to train on; a conditional GAN needs `train`"""
    resolution: Annotated[int, Range(min=8, max=96)] = 48
    """Side in pixels; below 96 the images are resized with the antialiased bilinear filter"""

    def _load(self) -> Splits:
        if self.conditional and self.split != "train":
            raise UserError(f"data.split={self.split}: unlabeled images cannot make a conditional GAN; use split=train")
        train = datasets.STL10(self.root, self.split, download=self.download)
        test = datasets.STL10(self.root, "test", download=self.download)
        return Splits(*(self._resized(torch.from_numpy(part.data), part.labels) for part in (train, test)))

    def _resized(self, images: Tensor, labels: np.ndarray) -> ImageData:
        if self.resolution < 96:
            size = (self.resolution, self.resolution)
            images = torch.cat(
                [
                    F.interpolate(part.float(), size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
                    for part in images.split(1000)
                ]
            )
        # torchvision labels the unlabeled images -1.
        return ImageData(images, torch.as_tensor(labels).long().clamp(min=0), 10)


def _cifar(dataset: type[datasets.CIFAR10], config: DownloadedConfig, classes: int) -> Splits:
    parts = (dataset(config.root, train, download=config.download) for train in (True, False))
    return Splits(
        *(
            ImageData(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets), classes)
            for part in parts
        )
    )
