"""Feature extraction in batches that are distributed over the processes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gan.runtime.distributed import gather_shards, rank, world_size
from gan.runtime.errors import UserError
from metrics.extractors.base import FeatureExtractor, Features

BATCH_SIZE = 250


def get_origin(extractor: FeatureExtractor, size: Sequence[int]) -> dict[str, str]:
    """Return what the features of images with this height and width depend on, for files of statistics."""
    return {**extractor.origin, "image_size": "x".join(map(str, size))}


def get_batch_sizes(count: int) -> list[int]:
    """Return the number of images in each batch."""
    return [min(BATCH_SIZE, count - start) for start in range(0, count, BATCH_SIZE)]


def extract_features(extractor: FeatureExtractor, count: int, get_batch: Callable[[int, int], Tensor]) -> Features:
    """Return the features of `count` images on every process. Each process extracts some of the batches.

    `get_batch(k, size)` returns the k-th batch as uint8 images (size, C, H, W). Raises UserError for images that the
    extractor does not support.
    """

    def extract(k: int) -> Features:
        images = get_batch(k, sizes[k])
        try:
            return extractor(images)
        except ValueError as error:
            raise UserError(f"these images have no features: {error}") from None

    sizes = get_batch_sizes(count)
    local_batches = range(rank(), len(sizes), world_size())
    # A process without a batch extracts the first one, because `gather_shards` needs the shape of the features.
    parts = [extract(k) for k in local_batches] or [extract(0)]
    local = Features.concatenate(parts)
    indices = torch.arange(count).split(BATCH_SIZE)
    rows = [torch.cat([*indices[r :: world_size()], torch.empty(0, dtype=torch.long)]) for r in range(world_size())]
    return local.map(lambda part: gather_shards(part[: len(rows[rank()])], rows, count))


def extract_image_features(extractor: FeatureExtractor, images: Tensor, device: torch.device) -> Features:
    """Return the features of uint8 images (N, C, H, W) on every process.

    One batch at a time is copied to `device`, so `images` may be larger than its memory.
    """
    parts = images.split(BATCH_SIZE)
    return extract_features(extractor, len(images), lambda k, size: parts[k].to(device))
