"""Quality of a generator: the same latents each time, features once, every metric asked for."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gan.data import to_uint8
from metrics.catalog import METRICS
from metrics.features import FeatureExtractor, Features
from metrics.frechet import FeatureStatistics

BATCH_SIZE = 250


class Evaluator:
    """Compares samples of a generator with the held-out real images."""

    def __init__(self, extractor: FeatureExtractor, held_out: Tensor, names: Sequence[str], num_samples: int):
        self.extractor = extractor
        self.names = names
        self.num_samples = num_samples
        self.reference = FeatureStatistics.from_features(self._features(held_out).features)

    def __call__(
        self,
        generate: Callable[[Tensor, Tensor | None], Tensor],
        latents: Callable[[int, int], tuple[Tensor, Tensor | None]],
    ) -> dict[str, float]:
        """Return each metric of `num_samples` images by name.

        `latents(count, k)` gives the z (count, z_dim) and labels of the k-th batch, `generate` the images (count, C,
        H, W) in [-1, 1].
        """
        parts = []
        with torch.no_grad():
            for k, start in enumerate(range(0, self.num_samples, BATCH_SIZE)):
                z, y = latents(min(BATCH_SIZE, self.num_samples - start), k)
                parts.append(self.extractor(to_uint8(generate(z, y))))
        return self._scores(Features.concatenate(parts))

    def floor(self, train: Tensor) -> dict[str, float]:
        """Return each metric of real training images (N, C, H, W) uint8: what a perfect generator would reach."""
        return self._scores(self._features(train[: self.num_samples]))

    def is_better(self, value: float, best: float | None) -> bool:
        """Compare two values of the first metric, the one that chooses the best checkpoint."""
        if best is None:
            return True
        return value > best if METRICS[self.names[0]].higher_is_better else value < best

    def _features(self, images: Tensor) -> Features:
        return Features.concatenate([self.extractor(batch) for batch in images.split(BATCH_SIZE)])

    def _scores(self, features: Features) -> dict[str, float]:
        return {name: METRICS[name].compute(features, self.reference) for name in self.names}
