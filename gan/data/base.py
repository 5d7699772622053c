"""Datasets: uint8 images with labels, split into training and held-out images, and the base class of their configs."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from gan.data.labels import Frequencies
from gan.runtime.cache import ContentHash
from gan.runtime.disk import Space
from models.ranges import AT_LEAST_0, Range
from models.registry import Registry

DATASETS: Registry["DatasetConfig"] = Registry("dataset")


@dataclass(frozen=True)
class Preparation:
    """How images were read from files."""

    source: Path  # the folder with the files
    folder: Path | None  # the folder in the cache, or None if the cache cannot be written
    fingerprint: str
    skipped: tuple[str, ...] = ()  # "path: reason" for each file that was skipped


@dataclass(frozen=True)
class ImageData:
    """Images (N, C, H, W) uint8 with labels (N,) int64 in [0, num_classes). Unlabeled images have one class.

    Images from the cache are memory-mapped, so that they use memory only when they are accessed.
    """

    images: Tensor
    labels: Tensor
    num_classes: int
    class_names: tuple[str, ...] = ()  # indexed by label; empty if unknown
    preparation: Preparation | None = None

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the images, their labels and their shape."""
        if self.preparation is not None:
            return self.preparation.fingerprint
        content = ContentHash()
        for part in self.images.split(1024):
            content.add_array(part.cpu().numpy())
        return finish_fingerprint(content, self.labels.cpu().numpy(), tuple(self.images.shape))


def finish_fingerprint(content: ContentHash, labels: np.ndarray, shape: tuple[int, ...]) -> str:
    """Return the fingerprint of images, after they were added to `content`: add their labels (N,) and (N, C, H, W)."""
    content.add_array(labels.astype("<i8"))
    content.add_value(shape)
    return content.hexdigest()


@dataclass(frozen=True)
class Splits:
    """Training and held-out images of a dataset. `held_out` is None if there are none."""

    train: ImageData
    held_out: ImageData | None


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """How training batches are made from the images of a dataset."""

    horizontal_flip: bool = False
    """Mirror each training image with probability 0.5"""
    dequantize: bool = False
    """Add noise from U(0, 1/128) to training images in [-1, 1], as in the code of Miyato and pytorch-gan-collections"""
    device_budget_gb: Annotated[float, AT_LEAST_0] = 4.0
    """Keep the training images on the device if they need at most this many gigabytes (1e9 bytes), else stream them"""
    workers: Annotated[int, Range(min=1, max=1000)] = 2
    """Threads that prepare the next batches of streamed images"""


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(SamplerOptions, ABC):
    """Base class of all datasets. The fields of a subclass are its YAML options."""

    registry: ClassVar[Registry["DatasetConfig"]] = DATASETS
    shows_digits: ClassVar[bool] = False  # whether the digits classifier applies to the images
    stacked: ClassVar[bool] = False  # whether the color channels are separate gray images

    root: str = "data"
    """Folder of downloaded datasets (unused by datasets without a download)"""
    allow_changes: bool = False
    """Go on with a run although its training or held-out images have changed since it began"""
    conditional: bool = False
    """Give the labels to both networks (class-conditional GAN)"""
    label_frequencies: Frequencies = "data"
    """Classes of generated images in training, metrics and samples: as frequent as in the data, or uniform"""
    subset: Annotated[float, Range(min=0.001, max=1)] = 1.0
    """Fraction of the training images of each class to use; a smaller fraction is a subset of a larger one"""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Channels and height (equal to the width) of the images; None if only `load` can tell."""
        return None

    @property
    def classifier(self) -> str | None:
        """Name of the shipped classifier of such images, for metrics in its features; None if there is none."""
        return None

    def missing(self) -> list[str]:
        """Return a line for each file or folder that is missing and may not be downloaded. This takes no time."""
        return []

    def disk_space(self) -> list[Space]:
        """Return the space of the download that `load` will make."""
        return []

    @abstractmethod
    def load(self) -> Splits:
        """Return the training and held-out images."""


def to_float(images: Tensor) -> Tensor:
    """Map uint8 images to floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Map floats in [-1, 1] to uint8 with rounding."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
