"""Computation of the metrics of a run."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing

import torch
from torch import Tensor

from gan.data import ImageData, to_uint8
from gan.evaluation.features import BATCH_SIZE, extract_features, extract_image_features, get_batch_sizes
from gan.evaluation.progress import ExtractionProgress
from gan.evaluation.reference import Reference, load_reference
from gan.runtime.cache import hash_values
from gan.runtime.distributed import broadcast_object, rank
from gan.runtime.errors import UserError
from metrics.catalog import compute_metrics
from metrics.extractors.base import FeatureExtractor, Features, LabeledFeatures
from metrics.frechet import FeatureStatistics
from metrics.protocols import MetricProtocol


class Evaluator:
    """Computes the metrics of a run. Each feature space has one extractor, which all its metrics share.

    The references of the real images are loaded by the constructor, so that an error comes before training starts.

    Args:
        protocols: The metrics. The first one chooses the best checkpoint.
        extractors: The extractor of each feature space that a protocol names.
        real: The images of each split that a protocol names, and the statistics under "file".
        device: Where the features of the real images are extracted and stored.
    """

    def __init__(
        self,
        protocols: Sequence[MetricProtocol],
        extractors: dict[str, FeatureExtractor],
        real: Mapping[str, ImageData | FeatureStatistics],
        device: torch.device,
    ):
        self.protocols = protocols
        self.extractors = extractors
        self._references: dict[tuple, Reference] = {}
        required: dict[tuple, set[str]] = {}
        for protocol in protocols:
            required.setdefault(_reference_key(protocol), set()).add(protocol.spec.required_reference)
        for key in required:
            space, split, count = key
            if split is None:
                continue
            source = real[split]
            if isinstance(source, FeatureStatistics):
                self._references[key] = Reference(statistics=source)
            else:
                self._references[key] = load_reference(extractors[space], source, count, device, required[key])

    def __call__(
        self,
        generate: Callable[[Tensor, Tensor | None], Tensor],
        get_latents: Callable[[int, int], tuple[Tensor, Tensor | None]],
    ) -> dict[str, float]:
        """Return the value of each metric of a generator by the name of its protocol.

        `get_latents(count, k)` returns z (count, z_dim) and the labels (count,) of the k-th batch. `generate(z, y)`
        returns images (count, C, H, W) in [-1, 1]. All metrics of a feature space use the same images; a metric of
        fewer images uses the first ones. Raises UserError for images or features that the metrics cannot judge.
        """

        @torch.no_grad()
        def get_images(k: int, size: int) -> Tensor:
            images = generate(*get_latents(size, k))
            if not images.isfinite().all():  # NaN would become black
                raise UserError("the generator returns images with NaN or infinite pixels, which no metric can judge")
            return to_uint8(images)

        def extract(extractor: FeatureExtractor, count: int) -> Features:
            with closing(ExtractionProgress(count, "generated images")) as progress:

                def get_batch(k: int, size: int) -> Tensor:
                    progress.show(k * BATCH_SIZE)
                    return get_images(k, size)

                return extract_features(extractor, count, get_batch)

        def get_labels(count: int) -> Tensor | None:
            sizes = get_batch_sizes(count)
            labels = [get_latents(size, k)[1] for k, size in enumerate(sizes)]
            return torch.cat([part for part in labels if part is not None]) if labels[0] is not None else None

        return self._compute(extract, get_labels)

    def select(self, names: Collection[str]) -> "Evaluator":
        """Return an evaluator of some of the metrics, which shares the extractors and the references."""
        selected = copy.copy(self)
        selected.protocols = [protocol for protocol in self.protocols if str(protocol) in names]
        spaces = {protocol.features for protocol in selected.protocols}
        selected.extractors = {space: self.extractors[space] for space in self.extractors if space in spaces}
        return selected

    def get_fingerprint(self, protocol: MetricProtocol) -> str:
        """Return a hash of what a metric depends on besides the images of the splits and the generated ones."""
        statistics = self._references[_reference_key(protocol)].statistics if protocol.reference == "file" else None
        of_file = () if statistics is None else (statistics.mean, statistics.covariance)
        return hash_values(self.extractors[protocol.features].fingerprint, *of_file)

    def score_images(self, images: Tensor, device: torch.device, labels: Tensor | None = None) -> dict[str, float]:
        """Return the value of each metric of the first uint8 images (N, C, H, W) instead of generated ones.

        A metric of more than N images uses all of them. `labels` (N,) are their classes.
        """

        return self._compute(
            lambda extractor, count: extract_image_features(extractor, images[:count], device), lambda count: labels
        )

    def _compute(
        self,
        extract: Callable[[FeatureExtractor, int], Features],
        get_labels: Callable[[int], Tensor | None],
    ) -> dict[str, float]:
        counts = {space: max(p.count for p in self.protocols if p.features == space) for space in self.extractors}
        fakes = {space: extract(self.extractors[space], count) for space, count in counts.items()}
        return broadcast_object(self._score(fakes, get_labels) if rank() == 0 else {})

    def _score(self, fakes: Mapping[str, Features], get_labels: Callable[[int], Tensor | None]) -> dict[str, float]:
        groups: dict[tuple, list[MetricProtocol]] = {}  # metrics of the same images
        for protocol in self.protocols:
            groups.setdefault((protocol.count, _reference_key(protocol)), []).append(protocol)
        scores = {}
        for (count, key), protocols in groups.items():
            fake = fakes[protocols[0].features].map(lambda part, count=count: part[:count])
            labels = get_labels(count) if any(protocol.spec.needs_labels for protocol in protocols) else None
            if labels is not None:
                fake = LabeledFeatures(*fake, labels[:count].to(fake.features.device))
            try:
                values = compute_metrics([p.metric for p in protocols], fake, self._references.get(key))
            except ValueError as error:
                raise UserError(f"{', '.join(map(str, protocols))}: {error}") from None
            scores |= {str(p): values[p.metric] for p in protocols}
        return {str(protocol): scores[str(protocol)] for protocol in self.protocols}


def _reference_key(protocol: MetricProtocol) -> tuple[str, str | None, int | None]:
    return protocol.features, protocol.reference, protocol.reference_count
