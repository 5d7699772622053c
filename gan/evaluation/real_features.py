"""Features of real images. What is extracted is kept in the cache part by part, because it may take hours."""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gan.data import ImageData
from gan.evaluation.features import BATCH_SIZE, extract_features
from gan.evaluation.progress import ExtractionProgress
from gan.runtime import cache
from gan.runtime.distributed import broadcast_object, rank
from metrics.extractors.base import FeatureExtractor

PART = 10 * BATCH_SIZE  # images; a process that is killed loses the features of at most this number


def extract_real_features(
    extractor: FeatureExtractor, data: ImageData, index: Tensor | None, key: str, device: torch.device, example: Tensor
) -> Tensor:
    """Return the features (M, d) of the images of a split, or of those at the positions `index` (M,).

    `key` names the parts in the cache, and `example` (1, d) are features that they must be like. With several
    processes, all of them must call this together.
    """
    count = len(data) if index is None else len(index)
    with closing(ExtractionProgress(count, "real images")) as progress:

        def extract(start: int) -> Tensor:
            def get_batch(k: int, size: int) -> Tensor:
                first = start + k * BATCH_SIZE
                progress.show(first)
                rows = slice(first, first + size)
                return data.images[rows if index is None else index[rows]].to(device)

            return extract_features(extractor, min(PART, count - start), get_batch).features

        def load_or_extract(start: int) -> Tensor:
            check = partial(check_features, count=min(PART, count - start), example=example)
            name = f"{get_parts_folder(key)}/{start:08d}"
            part, _ = load_or_compute(name, lambda: {"features": extract(start).cpu()}, check)
            return part["features"].to(device)

        return extract(0) if count <= PART else torch.cat([load_or_extract(start) for start in range(0, count, PART)])


def remove_parts(key: str) -> None:
    """Remove the parts from the cache, when what was computed from them is there."""
    if rank() == 0:
        cache.remove_folder(get_parts_folder(key))


def load_or_compute(
    name: str, compute: Callable[[], dict[str, Tensor]], check: Callable[[Any], object]
) -> tuple[dict[str, Tensor], bool]:
    """Return the CPU tensors that rank 0 has in its cache, or compute them on all processes and store them.

    Rank 0 alone calls `check`, which raises an error for contents that it does not accept. Also returns, on rank 0,
    whether the tensors are in its cache now.
    """
    cached = broadcast_object(cache.read(name, check) if rank() == 0 else None)
    if cached is not None:
        return cached, True
    tensors = compute()
    return tensors, rank() == 0 and cache.keep(name, tensors)


def get_example(extractor: FeatureExtractor, data: ImageData, device: torch.device) -> Tensor:
    """Return the features (1, d) of one image, without other processes.

    Not while a file is checked, where an error, such as a lack of memory, would count as one of its contents.
    """
    return extractor(data.images[:1].to(device)).features


def check_features(contents: Any, count: int, example: Tensor) -> None:
    """Raise an error unless these are the features of `count` images from a cache, finite and like those of another."""
    features = contents["features"]
    cache.check_tensor(features, example.dtype, count, example.shape[1])
    if not features.isfinite().all():
        raise ValueError("features that are not finite")


def get_parts_folder(key: str) -> str:
    """Return the folder of the parts in the cache."""
    return f"parts/{key}"
