"""The handwritten digits that are bundled with scikit-learn, single or stacked. They need no download."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gan.data.base import DATASETS, DatasetConfig, ImageData, Splits
from gan.runtime import rng
from gan.runtime.errors import collect_errors
from gan.runtime.memory import require_memory
from models.ranges import Range

SCANS = 1797
PIXEL_BYTES = 12  # of a pixel of a scan while it is enlarged: several floats
TRIPLE_BYTES = 56  # besides the pixels: the indices of its scans, their labels and its label
SPLIT_SEED = 0  # all runs have the same training and held-out scans, so that they can be compared


@DATASETS.register("digits")
@dataclass(frozen=True, kw_only=True)
class Digits(DatasetConfig):
    """Gray handwritten digits in 10 classes: the 1,797 scans of 8x8 pixels that are bundled with scikit-learn.

    80% of them are for training, the others are held out (stratified by class). Pixel values are scaled from 0..16 to
    0..255, and the images are enlarged by bilinear interpolation.
    """

    shows_digits: ClassVar[bool] = True

    resolution: Annotated[int, Range(min=8, max=1024)] = 16
    """Height and width of the images in pixels"""

    @property
    def image_size(self) -> tuple[int, int]:
        """Channels and height."""
        return 1, self.resolution

    def missing(self) -> list[str]:
        """Return a line if the images do not fit into the memory."""
        return collect_errors(lambda: _require_memory(self.resolution))

    def load(self) -> Splits:
        """Return 1,437 training and 360 held-out digits, (N, 1, H, W). Raises UserError if they do not fit."""
        _require_memory(self.resolution)
        (train, train_labels), (held_out, held_out_labels) = _scans(self.resolution)
        return Splits(ImageData(train, train_labels, 10), ImageData(held_out, held_out_labels, 10))


@DATASETS.register("stacked_digits")
@dataclass(frozen=True, kw_only=True)
class StackedDigits(DatasetConfig):
    """Three random digits as the color channels of an image: 1000 modes, class 100 r + 10 g + b.

    A smaller version of stacked MNIST (Metz et al., ICLR 2017; VEEGAN, NeurIPS 2017). Training and held-out images
    are fixed random triples of the training and held-out scans.
    """

    shows_digits: ClassVar[bool] = True
    stacked: ClassVar[bool] = True

    resolution: Annotated[int, Range(min=8, max=1024)] = 16
    """Height and width of the images in pixels"""
    size: Annotated[int, Range(min=2, max=10**8)] = 50_000
    """Number of training triples"""
    held_out_size: Annotated[int, Range(min=2, max=10**8)] = 10_000
    """Number of held-out triples"""

    @property
    def image_size(self) -> tuple[int, int]:
        """Channels and height."""
        return 3, self.resolution

    def missing(self) -> list[str]:
        """Return a line if the images do not fit into the memory."""
        return collect_errors(lambda: _require_memory(self.resolution, self.size + self.held_out_size))

    def load(self) -> Splits:
        """Return the training and held-out triples, (N, 3, H, W). Raises UserError if they do not fit."""
        _require_memory(self.resolution, self.size + self.held_out_size)
        train, held_out = _scans(self.resolution)
        return Splits(_stack(*train, self.size, "train"), _stack(*held_out, self.held_out_size, "held out"))


def _require_memory(resolution: int, triples: int = 0) -> None:
    """Raise UserError if the scans and this number of triples do not fit into the memory."""
    size = SCANS * PIXEL_BYTES * resolution**2 + triples * (3 * resolution**2 + TRIPLE_BYTES)
    keys = "data.size, data.held_out_size or data.resolution" if triples else "data.resolution"
    require_memory(size, "data: the images", f"choose a smaller {keys}")


def _scans(resolution: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return (images (N, 1, H, W) uint8, labels (N,)) of the training and the held-out scans."""
    scans, labels, train, held_out = _read_scans()
    gray = torch.from_numpy(scans).float()[:, None] * (255 / 16)
    images = F.interpolate(gray, size=(resolution, resolution), mode="bilinear", align_corners=False)
    images = images.round().clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(labels).long()
    return (images[train], labels[train]), (images[held_out], labels[held_out])


@cache  # a run needs them for training and for the features of its metrics
def _read_scans() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the scans (N, 8, 8) with values from 0 to 16, their labels (N,), and the training and held-out rows."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.utils import Bunch

    scans = cast(Bunch, load_digits())  # a tuple only with return_X_y=True
    train, held_out = train_test_split(
        np.arange(len(scans.target)), test_size=360, random_state=SPLIT_SEED, stratify=scans.target
    )
    return scans.images, scans.target, np.asarray(train), np.asarray(held_out)


def _stack(images: Tensor, labels: Tensor, size: int, purpose: str) -> ImageData:
    picks = torch.randint(len(images), (size, 3), generator=rng.generator("cpu", SPLIT_SEED, "stack", purpose))
    planes = images[:, 0][picks]  # (size, 3, H, W)
    return ImageData(planes, (labels[picks] * torch.tensor([100, 10, 1])).sum(dim=1), 1000)
