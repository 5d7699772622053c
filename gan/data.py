"""Datasets as uint8 arrays, and the sampler that keeps one on the device and makes batches there."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gan import rng
from models.ranges import AT_LEAST_1, Range
from models.registry import Registry

DATASETS: Registry["DatasetConfig"] = Registry("dataset")

SPLIT_SEED = 0  # the split into training and held-out scans is the same in every run, so that runs can be compared


@dataclass(frozen=True)
class ImageData:
    """Images (N, C, H, W) uint8 with labels (N,) int64 in [0, num_classes)."""

    images: Tensor
    labels: Tensor
    num_classes: int

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Splits:
    """A dataset in its two parts. Metrics compare with `held_out`, which training never sees.

    `stacked` says that the color planes are gray images of their own.
    """

    train: ImageData
    held_out: ImageData
    stacked: bool = False


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(ABC):
    """Base of all datasets. The fields of a subclass are its YAML options."""

    registry: ClassVar[Registry["DatasetConfig"]] = DATASETS

    root: str = "data"
    """Folder of downloaded data sets (unused by those that need no download)"""
    conditional: bool = False
    """Give the labels to both networks: a class-conditional GAN"""
    horizontal_flip: bool = False
    """Mirror every second training image at random"""
    dequantize: bool = False
    """Add noise from U(0, 1) of a gray level to training images, as in Miyato's code"""

    @abstractmethod
    def load(self) -> Splits:
        """Return the training and held-out images."""


@DATASETS.register("digits")
@dataclass(frozen=True, kw_only=True)
class Digits(DatasetConfig):
    """One gray handwritten digit an image, 10 classes: the 1,797 scans of 8x8 pixels bundled with scikit-learn.

    Four fifths are for training, the rest (stratified by class) is held out; pixels 0..16 become 0..255, enlarged
    by bilinear interpolation.
    """

    resolution: Annotated[int, Range(min=8, max=1024)] = 16
    """Side of the images in pixels"""

    def load(self) -> Splits:
        """Return 1,437 training and 360 held-out digits, (N, 1, H, W)."""
        (train, train_labels), (held_out, held_out_labels) = _scans(self.resolution)
        return Splits(ImageData(train, train_labels, 10), ImageData(held_out, held_out_labels, 10))


@DATASETS.register("stacked_digits")
@dataclass(frozen=True, kw_only=True)
class StackedDigits(DatasetConfig):
    """Three random digits as the R, G and B planes of an image: 1000 modes, class 100 r + 10 g + b.

    The small relative of stacked MNIST (Metz et al., ICLR 2017; VEEGAN, NeurIPS 2017). Training and held-out images
    are fixed random triples of the training and held-out scans.
    """

    resolution: Annotated[int, Range(min=8, max=1024)] = 16
    """Side of the images in pixels"""
    size: Annotated[int, AT_LEAST_1] = 50_000
    """Number of training triples"""
    held_out_size: Annotated[int, AT_LEAST_1] = 10_000
    """Number of held-out triples"""

    def load(self) -> Splits:
        """Return the training and held-out triples, (N, 3, H, W)."""
        train, held_out = _scans(self.resolution)
        return Splits(
            _stack(*train, self.size, "train"), _stack(*held_out, self.held_out_size, "held out"), stacked=True
        )


def _scans(resolution: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return (images (N, 1, H, W) uint8, labels (N,)) of the training and the held-out scans."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans = load_digits()
    train, held_out = train_test_split(
        np.arange(len(scans.target)), test_size=360, random_state=SPLIT_SEED, stratify=scans.target
    )
    gray = torch.from_numpy(scans.images).float()[:, None] * (255 / 16)
    images = F.interpolate(gray, size=(resolution, resolution), mode="bilinear", align_corners=False)
    images = images.round().clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(scans.target).long()
    return (images[train], labels[train]), (images[held_out], labels[held_out])


def _stack(images: Tensor, labels: Tensor, size: int, purpose: str) -> ImageData:
    picks = torch.randint(len(images), (size, 3), generator=rng.generator("cpu", SPLIT_SEED, "stack", purpose))
    planes = images[:, 0][picks]  # (size, 3, H, W)
    return ImageData(planes, (labels[picks] * torch.tensor([100, 10, 1])).sum(dim=1), 1000)


class Sampler:
    """Training images on the device, drawn without replacement within an epoch, each epoch in a new order.

    `batch(position, size)` is a function of the seed and the position in the endless stream alone.
    """

    def __init__(
        self,
        data: ImageData,
        seed: int,
        device: torch.device,
        horizontal_flip: bool = False,
        dequantize: bool = False,
    ):
        self.horizontal_flip = horizontal_flip
        self.dequantize = dequantize
        self.images = data.images.to(device)
        self.labels = data.labels.to(device)
        self.seed = seed
        self._epoch = -1
        self._order = torch.empty(0)

    def batch(self, position: int, size: int) -> tuple[Tensor, Tensor]:
        """Return images (size, C, H, W) in [-1, 1] and labels (size,): the stream from `position` on."""
        index = self._indices(position, size)
        x = to_float(self.images[index])
        random = rng.generator(x.device, self.seed, "batch", position)
        if self.horizontal_flip:
            mirrored = torch.rand(size, generator=random, device=x.device) < 0.5
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        if self.dequantize:
            x = x + torch.rand(x.shape, generator=random, device=x.device) / 127.5
        return x, self.labels[index]

    def _indices(self, position: int, size: int) -> Tensor:
        parts = []
        while size > 0:
            epoch, start = divmod(position, len(self.images))
            parts.append(self._order_of(epoch)[start : start + size])
            position, size = position + len(parts[-1]), size - len(parts[-1])
        return torch.cat(parts)

    def _order_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            # Drawn on the CPU, so that every device sees the same order.
            order = torch.randperm(len(self.images), generator=rng.generator("cpu", self.seed, "epoch", epoch))
            self._epoch, self._order = epoch, order.to(self.images.device)
        return self._order


def to_float(images: Tensor) -> Tensor:
    """Map uint8 images to floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Map floats in [-1, 1] to uint8, rounded as a saved PNG would be."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
