"""A trivial feature extractor, and random images for it."""

import torch

from gan.data import ImageData
from metrics.extractors.base import Features


class PixelExtractor:
    """Returns the pixels as features and as logits. Counts the images in batches of more than one."""

    def __init__(self, fingerprint: str = "pixels"):
        self.fingerprint = fingerprint
        self.num_images = 0

    def __call__(self, images: torch.Tensor) -> Features:
        self.num_images += len(images) if len(images) > 1 else 0  # a single image is an example of the features
        pixels = images.flatten(1).float()
        return Features(pixels, pixels)


def random_data(count: int, seed: int = 0, side: int = 2) -> ImageData:
    """Return random gray images without labels."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 1, side, side), generator=random, dtype=torch.uint8)
    return ImageData(images, torch.zeros(count, dtype=torch.long), 1)
