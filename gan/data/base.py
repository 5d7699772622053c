"""What a dataset is: uint8 arrays with labels, in two parts, chosen and described by a config."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from models.ranges import AT_LEAST_0, Range
from models.registry import Registry

DATASETS: Registry["DatasetConfig"] = Registry("dataset")


class Fingerprint:
    """The hash of images and labels, taken piece by piece: how the images were cut into pieces does not matter."""

    def __init__(self):
        self._digest = hashlib.blake2b(digest_size=16)

    def update(self, images: np.ndarray) -> None:
        """Add the next images (n, C, H, W) uint8."""
        self._digest.update(np.ascontiguousarray(images).reshape(-1).data)

    def finish(self, shape: Sequence[int], labels: np.ndarray) -> str:
        """Return the hash of all images, their shape (N, C, H, W) and their labels (N,) int64."""
        self._digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
        self._digest.update(repr(tuple(map(int, shape))).encode())
        return self._digest.hexdigest()


@dataclass(frozen=True)
class Preparation:
    """How images read from files came about."""

    source: Path  # the folder that they were read from
    folder: Path | None  # the folder that caches them, or None when it cannot be written
    fingerprint: str
    skipped: tuple[str, ...] = ()  # "path: reason" of each file that was left out


@dataclass(frozen=True)
class ImageData:
    """Images (N, C, H, W) uint8 with labels (N,) int64 in [0, num_classes): one class where there are no labels.

    Prepared images are mapped from a file, so that they need no memory before they are looked at.
    """

    images: Tensor
    labels: Tensor
    num_classes: int
    class_names: tuple[str, ...] = ()  # by label, where they are known
    preparation: Preparation | None = None

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """The hash of images, labels and shape: equal for equal content, wherever it comes from."""
        if self.preparation is not None:
            return self.preparation.fingerprint
        fingerprint = Fingerprint()
        for part in self.images.split(1024):
            fingerprint.update(part.cpu().numpy())
        return fingerprint.finish(self.images.shape, self.labels.cpu().numpy())


@dataclass(frozen=True)
class Splits:
    """A dataset in its two parts; training never sees `held_out`, which may be None."""

    train: ImageData
    held_out: ImageData | None


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(ABC):
    """Base of all datasets. The fields of a subclass are its YAML options."""

    registry: ClassVar[Registry["DatasetConfig"]] = DATASETS
    shows_digits: ClassVar[bool] = False  # whether the digits classifier can judge such images
    stacked: ClassVar[bool] = False  # whether the color planes are gray images of their own

    root: str = "data"
    """Folder of downloaded data sets (unused by those that need no download)"""
    conditional: bool = False
    """Give the labels to both networks: a class-conditional GAN"""
    horizontal_flip: bool = False
    """Mirror every second training image at random"""
    dequantize: bool = False
    """Add noise from U(0, 1) of a gray level to training images, as in Miyato's code"""
    subset: Annotated[float, Range(min=0.001, max=1)] = 1.0
    """Share of the training images, of each class, that is trained on; a smaller share is part of a larger one"""
    device_budget_gb: Annotated[float, AT_LEAST_0] = 4.0
    """Training images of up to so many gigabytes (1e9 bytes) lie on the device; more are streamed from the disk"""
    workers: Annotated[int, Range(min=1, max=1000)] = 2
    """Threads that gather the next batches while images are streamed"""

    @abstractmethod
    def load(self) -> Splits:
        """Return the training and held-out images."""


def to_float(images: Tensor) -> Tensor:
    """Map uint8 images to floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Map floats in [-1, 1] to uint8, rounded as a saved PNG would be."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
