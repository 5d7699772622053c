"""Quality of a generator: the same latents each time, features once, every metric asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gan.data import ImageData, to_uint8
from gan.evaluation.extractors import EXTRACTORS, FeatureSpace
from gan.runtime import cache, rng
from gan.runtime.cache import hash_values
from gan.runtime.distributed import broadcast_object, gather_shards, rank, world_size
from gan.runtime.errors import UserError
from metrics.catalog import MetricProtocol
from metrics.extractors.base import FeatureExtractor, Features
from metrics.frechet import FeatureStatistics
from models.registry import UnknownNameError

BATCH_SIZE = 250


def extract_features(extractor: FeatureExtractor, count: int, batch: Callable[[int, int], Tensor]) -> Features:
    """Return the features of `count` images, on every process; the batches are shared out between the processes.

    `batch(k, size)` gives the uint8 images (size, C, H, W) of the k-th batch.
    """
    sizes = [min(BATCH_SIZE, count - start) for start in range(0, count, BATCH_SIZE)]
    mine = range(rank(), len(sizes), world_size())
    # A process with no batch of its own makes one all the same, to learn what features look like.
    parts = [extractor(batch(k, sizes[k])) for k in mine] or [extractor(batch(0, sizes[0]))]
    local = Features.concatenate(parts)
    numbers = torch.arange(count).split(BATCH_SIZE)
    rows = [torch.cat([*numbers[r :: world_size()], torch.empty(0, dtype=torch.long)]) for r in range(world_size())]
    return local.map(lambda part: gather_shards(part[: len(rows[rank()])], rows, count))


class RealFeatures:
    """Features of the real images of a split and their statistics, computed when first asked for and then cached.

    The cache's key is a hash of the images, their number, and the extractor with its weights. Of several processes all
    must ask; the first one's cache is the one that counts.
    """

    def __init__(self, extractor: FeatureExtractor, data: ImageData, count: int | None, device: torch.device):
        self.extractor = extractor
        self.data = data
        self.count = len(data) if count is None else count
        self.device = device
        self._key = hash_values(data.fingerprint, self.count, extractor.fingerprint, "version 1")

    @cached_property
    def features(self) -> Tensor:
        """(count, d)"""
        return self._cached("features", lambda features: {"features": features.cpu()})["features"].to(self.device)

    @cached_property
    def statistics(self) -> FeatureStatistics:
        """Mean and covariance of the features."""
        tensors = self._cached("statistics", lambda features: FeatureStatistics.from_features(features).to_dict())
        return FeatureStatistics.from_dict(tensors)

    def _cached(self, what: str, of: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
        name = f"{what}-{self._key}"
        found = broadcast_object(cache.read(name) if rank() == 0 else None)
        if found is None:
            features = vars(self).get("features")
            found = of(self._extract() if features is None else features)
            if rank() == 0:
                cache.keep(name, found)
        return found  # on the CPU, where statistics belong

    def _extract(self) -> Tensor:
        index = torch.arange(len(self.data))
        if self.count < len(self.data):  # the same ones whatever the run's seed
            index = torch.randperm(len(self.data), generator=rng.generator("cpu", 0, "reference"))[: self.count]
        parts = index.split(BATCH_SIZE)
        images = self.data.images
        return extract_features(self.extractor, self.count, lambda k, size: images[parts[k]].to(self.device)).features


@dataclass(frozen=True)
class RealStatistics:
    """Statistics of real images that came without the images."""

    statistics: FeatureStatistics


class Evaluator:
    """The metrics of a run: their protocols, one extractor kept alive per feature space, and the real images."""

    def __init__(
        self,
        protocols: Sequence[MetricProtocol],
        extractors: dict[str, FeatureExtractor],
        real: Mapping[str, ImageData | FeatureStatistics],
        device: torch.device,
    ):
        """`real` has the images of each split that a protocol names, and the statistics of its file."""
        self.protocols = protocols
        self.extractors = extractors
        self.references: dict[tuple, RealFeatures | RealStatistics] = {}
        for protocol in protocols:
            if protocol.reference is None:
                continue
            key, source = _reference_key(protocol), real[protocol.reference]
            if isinstance(source, FeatureStatistics):
                self.references[key] = RealStatistics(source)
            elif key not in self.references:
                self.references[key] = RealFeatures(
                    extractors[protocol.features], source, protocol.reference_count, device
                )
            # Now, and not at the first evaluation: what fails had better fail at the start.
            getattr(self.references[key], protocol.spec.required_reference)

    def __call__(
        self,
        generate: Callable[[Tensor, Tensor | None], Tensor],
        latents: Callable[[int, int], tuple[Tensor, Tensor | None]],
    ) -> dict[str, float]:
        """Return each metric by the name of its protocol.

        `latents(count, k)` gives the z (count, z_dim) and labels of the k-th batch, `generate` the images (count, C,
        H, W) in [-1, 1]. A metric of fewer images than another looks at the first of them.
        """

        @torch.no_grad()
        def batch(k: int, size: int) -> Tensor:
            return to_uint8(generate(*latents(size, k)))

        return self._scores(lambda name, count: extract_features(self.extractors[name], count, batch))

    def score_images(self, images: Tensor, device: torch.device) -> dict[str, float]:
        """Return each metric of the first images (N, C, H, W) uint8 instead of generated ones, as far as they reach."""
        parts = images.split(BATCH_SIZE)
        return self._scores(
            lambda name, count: extract_features(
                self.extractors[name], min(count, len(images)), lambda k, size: parts[k][:size].to(device)
            )
        )

    def is_better(self, value: float, best: float | None) -> bool:
        """Compare two values of the first metric, the one that chooses the best checkpoint."""
        if best is None:
            return True
        return value > best if self.protocols[0].spec.higher_is_better else value < best

    def _scores(self, features: Callable[[str, int], Features]) -> dict[str, float]:
        counts = {name: max(p.count for p in self.protocols if p.features == name) for name in self.extractors}
        fakes = {name: features(name, count) for name, count in counts.items()}
        scores = {}
        if rank() == 0:
            for protocol in self.protocols:
                fake = fakes[protocol.features].map(lambda part, count=protocol.count: part[:count])
                scores[str(protocol)] = protocol.spec.compute(fake, self.references.get(_reference_key(protocol)))
        return broadcast_object(scores)


def _reference_key(protocol: MetricProtocol) -> tuple[str, str | None, int | None]:
    return protocol.features, protocol.reference, protocol.reference_count


def check_protocol(protocol: MetricProtocol) -> type[FeatureSpace]:
    """Return the feature space of a metric; UserError when there is none, or it cannot serve the metric."""
    try:
        space = EXTRACTORS.get(protocol.features)
    except UnknownNameError as error:
        raise UserError(f"{protocol}: {error}") from None
    if protocol.spec.needs_logits and not space.classifies:
        raise UserError(f"{protocol}: {protocol.features} has no classes, which {protocol.metric} needs")
    return space


def load_statistics(path: str | None) -> FeatureStatistics:
    """Return the statistics in a pytorch-fid .npz file; UserError when there are none."""
    if path is None:
        raise UserError("eval.metrics: a metric that ends in _file needs metrics.statistics=FILE.npz")
    try:
        return FeatureStatistics.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"metrics.statistics: cannot read {path}: {error}") from None
