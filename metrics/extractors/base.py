"""The interface of feature extractors, which map images to features and, if they classify, logits."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Features(NamedTuple):
    """The output of an extractor for N images."""

    features: Tensor
    """Features (N, d)"""
    logits: Tensor | None = None
    """Logits (N, K), up to an additive constant per image; None if the extractor does not classify"""

    @staticmethod
    def concatenate(parts: "Sequence[Features]") -> "Features":
        """Concatenate batches from the same extractor."""
        logits = [part.logits for part in parts if part.logits is not None]
        return Features(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Features":
        """Apply `function` to the features and, if there are any, to the logits."""
        return Features(function(self.features), None if self.logits is None else function(self.logits))


class LabeledFeatures(Features):
    """Features of images together with the classes (N,) that they were generated for."""

    labels: Tensor

    def __new__(cls, features: Tensor, logits: Tensor | None, labels: Tensor) -> "LabeledFeatures":
        """Create features with the attribute `labels`."""
        labeled = super().__new__(cls, features, logits)
        labeled.labels = labels
        return labeled


class FeatureExtractor(Protocol):
    """A function from uint8 images (B, C, H, W) to features on the extractor's device."""

    def __call__(self, images: Tensor) -> Features:
        """Return the features of a batch of images."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything except the images that the features depend on. Caches use it as a key."""
        ...

    @property
    def origin(self) -> Mapping[str, str]:
        """The same in words, for files of statistics: "extractor", "layer", "preprocessing" and "weights" (a hash).

        The first is required. Features with different values of an entry are not comparable.
        """
        ...


def compute_fingerprint(weights: Mapping[str, Tensor], *parts: str | int) -> str:
    """Return a hash of the names, shapes, dtypes and values of weights, and of any other `parts`."""
    digest = hashlib.sha256(repr(parts).encode())
    for name, tensor in weights.items():
        digest.update(repr((name, tuple(tensor.shape), str(tensor.dtype))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def to_rgb(images: Tensor) -> Tensor:
    """Convert uint8 images (B, 1 or 3, H, W) to RGB (B, 3, H, W). Raises ValueError for any other dtype or shape."""
    check_images(images)
    return images.expand(-1, 3, -1, -1)


def check_images(images: Tensor) -> None:
    """Raise ValueError unless these are uint8 images (B, 1 or 3, H, W)."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"expected uint8 images (B, 1 or 3, H, W), not {images.dtype} of shape {tuple(images.shape)}")
