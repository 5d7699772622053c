"""What a feature extractor is: images -> features and, where it classifies, logits."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Features(NamedTuple):
    """What an extractor says of N images."""

    features: Tensor
    """(N, d)"""
    logits: Tensor | None = None
    """(N, K), of any shift: metrics take their log-softmax in double precision; None where nothing classifies"""

    @staticmethod
    def concatenate(parts: "Sequence[Features]") -> "Features":
        """Join batches of one extractor."""
        logits = [part.logits for part in parts if part.logits is not None]
        return Features(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Features":
        """Return what `function` makes of the features, and of the logits where there are any."""
        return Features(function(self.features), None if self.logits is None else function(self.logits))


class FeatureExtractor(Protocol):
    """Maps uint8 images (B, C, H, W) to their features, on the extractor's device."""

    def __call__(self, images: Tensor) -> Features:
        """Return the features of a batch."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of all that the features depend on beside the images: the key of cached statistics."""
        ...


def fingerprint(weights: Mapping[str, Tensor], *parts: str | int) -> str:
    """Return a hash of named weights (their bytes, shapes and types) and of whatever else makes the features."""
    digest = hashlib.sha256(repr(parts).encode())
    for name, tensor in weights.items():
        digest.update(repr((name, tuple(tensor.shape), str(tensor.dtype))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def to_rgb(images: Tensor) -> Tensor:
    """Return uint8 images (B, 1 or 3, H, W) with three channels, gray ones repeated; ValueError for others."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"expected uint8 images (B, 1 or 3, H, W), not {images.dtype} of shape {tuple(images.shape)}")
    return images.expand(-1, 3, -1, -1)
