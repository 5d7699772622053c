"""What a dataset is: uint8 arrays; and the sampler that keeps one on the device and makes batches there."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gan import rng
from models.registry import Registry

DATASETS: Registry["DatasetConfig"] = Registry("dataset")


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
    of_digits: ClassVar[bool] = False  # whether the digits classifier can judge such images

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
