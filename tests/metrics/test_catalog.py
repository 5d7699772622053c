import pytest
import torch

from metrics.catalog import METRICS
from metrics.extractors.base import LabeledFeatures
from metrics.frechet import FeatureStatistics
from metrics.neighbors import squared_neighbor_distances


class RealImages:
    def __init__(self, features):
        self.features = features
        self.labels = torch.arange(len(features)) % 4
        self.neighbor_distances = squared_neighbor_distances(features, 5)
        self.statistics = FeatureStatistics.from_features(features)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_prefers_real_images_to_noise(name):
    """The features form four well separated classes. The noise lies between them."""
    random = torch.Generator().manual_seed(0)
    centers = 20 * torch.eye(4)

    def draw(count):
        classes = torch.arange(count) % 4
        return centers[classes] + torch.randn(count, 4, generator=random)

    real = RealImages(draw(400))
    good, bad = draw(400), 5 + torch.randn(400, 4, generator=random)
    metric = METRICS[name]
    a, b = (
        metric.compute(LabeledFeatures(x, x, real.labels), real if metric.required_reference != "none" else None)
        for x in (good, bad)
    )
    if name in ("modes", "authpct"):  # noise can capture all modes, too, and is no copy
        assert (a >= b) == (name == "modes")
    else:
        assert a > b if metric.higher_is_better else a < b
