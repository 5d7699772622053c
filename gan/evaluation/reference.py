"""The real images that metrics compare with: features and statistics of a dataset split, a file or a folder."""

from collections.abc import Collection, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan.data import ImageData
from gan.evaluation.real_features import (
    check_features,
    extract_real_features,
    get_example,
    load_or_compute,
    remove_parts,
)
from gan.runtime import rng
from gan.runtime.cache import check_tensor, hash_values
from gan.runtime.errors import UserError
from gan.runtime.paths import expand_path
from metrics.checks import check_distances
from metrics.extractors.base import FeatureExtractor
from metrics.frechet import FeatureStatistics
from metrics.manifold import MAX_NEIGHBORS
from metrics.neighbors import squared_neighbor_distances


class Reference:
    """Features (M, d) of real images and their statistics, as defined by `metrics.catalog.Reference`.

    Statistics and distances that are not given are computed from the features when they are first used.
    """

    def __init__(
        self,
        features: Tensor | None = None,
        statistics: FeatureStatistics | None = None,
        neighbor_distances: Tensor | None = None,
        labels: Tensor | None = None,
    ):
        self._features = features
        self._statistics = statistics
        self._neighbor_distances = neighbor_distances
        self._labels = labels

    @property
    def features(self) -> Tensor:
        """Features (M, d). Raises ValueError if there are only statistics."""
        if self._features is None:
            raise ValueError("the features of the real images are not available, only their statistics")
        return self._features

    @property
    def statistics(self) -> FeatureStatistics:
        """Mean and covariance of the features."""
        if self._statistics is None:
            self._statistics = FeatureStatistics.from_features(self.features)
        return self._statistics

    @property
    def neighbor_distances(self) -> Tensor:
        """Squared distances (M, min(5, M - 1)) of the features to their nearest neighbors, sorted."""
        if self._neighbor_distances is None:
            self._neighbor_distances = _get_neighbor_distances(self.features)
        return self._neighbor_distances

    @property
    def labels(self) -> Tensor:
        """Classes (M,) of the images. Raises ValueError if there are none."""
        if self._labels is None:
            raise ValueError("the real images have no labels")
        return self._labels


def load_reference(
    extractor: FeatureExtractor, data: ImageData, count: int | None, device: torch.device, required: Collection[str]
) -> Reference:
    """Return the reference of `count` images of a dataset split, or of all images if `count` is None.

    `required` names what the metrics read, as in `Metric.required_reference`. Nothing else is loaded. What is not in
    the cache is computed and stored there. The cache key is a hash of the images, their number and the extractor with
    its weights. With several processes, all of them must call this function together; only the cache of rank 0 is used.
    """
    index = None
    if count is not None and count < len(data):  # the same images for every seed of a run
        index = torch.randperm(len(data), generator=rng.generator("cpu", 0, "reference"))[:count]
    size = len(data) if index is None else len(index)
    key = hash_values(data.fingerprint, len(data) if count is None else count, extractor.fingerprint, "version 1")

    example = get_example(extractor, data, device)

    def extract() -> Tensor:
        return extract_real_features(extractor, data, index, key, device, example)

    features = statistics = distances = labels = None
    stored = []
    if not {"features", "neighbors", "labels"}.isdisjoint(required):
        check = partial(check_features, count=size, example=example)
        tensors, is_stored = load_or_compute(f"features-{key}", lambda: {"features": extract().cpu()}, check)
        features = tensors["features"].to(device)
        stored.append(is_stored)
    if "statistics" in required:
        tensors, is_stored = load_or_compute(
            f"statistics-{key}",
            lambda: FeatureStatistics.from_features(extract() if features is None else features).to_dict(),
            lambda state: _check_statistics(state, size, example.shape[1]),
        )
        statistics = FeatureStatistics.from_dict(tensors)
        stored.append(is_stored)
    if all(stored):  # a full disk may have the parts, but no space for what was computed from them
        remove_parts(key)
    if "neighbors" in required and features is not None:
        tensors, _ = load_or_compute(
            f"neighbors-{key}",
            lambda: {"squared": _get_neighbor_distances(features).cpu()},
            partial(_check_distances, count=size),
        )
        distances = tensors["squared"].to(device)
    if "labels" in required:
        labels = (data.labels if index is None else data.labels[index]).to(device)
    return Reference(features, statistics, distances, labels)


def _get_neighbor_distances(features: Tensor) -> Tensor:
    return squared_neighbor_distances(features, _get_num_neighbors(len(features)))


def _get_num_neighbors(count: int) -> int:
    return min(MAX_NEIGHBORS, count - 1)


def _check_statistics(state: Mapping[str, Any], count: int, dimension: int) -> None:
    """Raise an error unless these are the statistics of `count` features (d,) from a cache."""
    shapes = {"mean": (dimension,), "covariance": (dimension, dimension), "factor": (dimension, None)}
    for name, shape in shapes.items():
        check_tensor(state[name], torch.float64, *shape)
    check_tensor(state["count"], torch.int64)
    if state["count"] != count or not state["factor"].isfinite().all():
        raise ValueError("statistics of other features")
    FeatureStatistics.from_dict(state)


def _check_distances(contents: Any, count: int) -> None:
    """Raise an error unless these are the distances of `count` features from a cache."""
    check_tensor(contents["squared"], torch.float64, count, _get_num_neighbors(count))
    check_distances(contents["squared"], count, 0)


def load_statistics(path: str | None, preprocessing: str | None = None) -> FeatureStatistics:
    """Return the statistics in an .npz file. Raises UserError if there is no such file, or if it is invalid.

    `preprocessing` declares what a file of another program does not record, see `FeatureStatistics.load`.
    """
    if path is None:
        raise UserError("eval.metrics: a metric that ends in _file needs metrics.statistics=FILE.npz")
    file = expand_path(path, "metrics.statistics")
    try:
        status = file.stat()
        return _load_statistics(file, preprocessing, (status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    except (OSError, ValueError) as error:
        raise UserError(f"metrics.statistics: cannot read {path}: {error}") from None


@lru_cache(maxsize=1)  # it takes seconds, for the checks before a run and for the run
def _load_statistics(file: Path, preprocessing: str | None, identity: tuple[int, ...]) -> FeatureStatistics:
    return FeatureStatistics.load(file, preprocessing)
