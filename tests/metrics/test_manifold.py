import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from metrics.manifold import density_coverage, manifold_metrics, precision_recall
from metrics.neighbors import Pairs, squared_neighbor_distances


def features(count, seed, shift=0.0, scale=1.0, dimension=6):
    random = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, dimension, generator=random) + shift


@pytest.mark.parametrize("neighbors", [1, 3])
def test_precision_and_recall_match_torch_fidelity(neighbors):
    fake, real = features(83, 0, scale=0.7), features(61, 1)
    expected = prc_features_to_metric(fake, real, prc_neighborhood=neighbors, verbose=False)
    precision, recall = precision_recall(fake, real, neighbors)
    assert precision > recall + 0.1
    assert (precision, recall) == pytest.approx((expected["precision"], expected["recall"]), rel=1e-6)


def test_narrow_distribution_has_high_precision_and_low_recall():
    narrow, wide = features(200, 0, scale=0.3), features(200, 1)
    precision, recall = precision_recall(narrow, wide)
    assert precision > 0.95
    assert recall < 0.1
    assert precision_recall(wide, narrow) == (recall, precision)


def brute_force_density_coverage(fake, real, neighbors):
    radii = [sorted((x - y).norm().item() for y in real)[neighbors] for x in real]
    inside = [[(x - y).norm().item() < r for y in fake] for x, r in zip(real, radii, strict=True)]
    return sum(map(sum, inside)) / (neighbors * len(fake)), sum(map(any, inside)) / len(real)


def test_density_and_coverage_match_the_definition():
    fake, real = features(31, 0, shift=0.8).double(), features(23, 1).double()
    expected = brute_force_density_coverage(fake, real, 5)
    assert 0 < expected[1] < 1
    assert density_coverage(fake, real) == pytest.approx(expected, rel=1e-12)


def test_equal_and_disjoint_sets():
    real = features(50, 0)
    assert density_coverage(real, real) == (1.0, 1.0)
    assert density_coverage(real + 100, real) == (0.0, 0.0)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real + 100, real) == (0.0, 0.0)


def test_fakes_at_the_mode_have_high_density_and_low_coverage():
    real = features(200, 0)
    density, coverage = density_coverage(torch.zeros(50, 6) + 1e-3 * features(50, 1), real)
    assert density > 1.5
    assert coverage < 0.5


def test_distances_computed_in_blocks(monkeypatch):
    fake, real = features(50, 0, scale=0.7), features(41, 1)
    expected = precision_recall(fake, real), density_coverage(fake, real)
    sizes = []
    bound = Pairs.bound

    def spy(pairs, rows, *arguments, **options):
        sizes.append(len(rows))
        return bound(pairs, rows, *arguments, **options)

    monkeypatch.setattr(Pairs, "bound", spy)
    monkeypatch.setattr("metrics.neighbors.BLOCK", 7)
    assert (precision_recall(fake, real), density_coverage(fake, real)) == expected
    assert max(sizes) == 7


def test_copies_of_real_features_are_on_the_boundary_of_neighborhoods():
    """Each real feature has two neighbors at equal distances. Single precision alone would decide at random."""
    angle = torch.arange(12) * torch.pi / 6
    real = 1000 + torch.stack([angle.cos(), angle.sin()], dim=1)
    real = torch.cat([real, real])  # the nearest neighbor of each is its copy
    assert precision_recall(real[:12], real, neighbors=1) == (1.0, 0.5 + 0.5)
    assert density_coverage(real[:12], real, neighbors=1) == (0.0, 0.0)


def test_metrics_together_are_those_one_by_one_in_one_pass(monkeypatch):
    fake, real = features(83, 0, scale=0.7), features(61, 1)
    names = "precision", "recall", "density", "coverage"
    distances = squared_neighbor_distances(real, 5)
    expected = {name: manifold_metrics([name], fake, real)[name] for name in names}
    blocks = []
    bound = Pairs.bound
    monkeypatch.setattr(Pairs, "bound", lambda *args, **options: blocks.append(1) or bound(*args, **options))
    assert manifold_metrics(names, fake, real, distances) == expected
    assert len(blocks) == 2  # the distances between fake features, and those between fake and real ones
    assert (expected["precision"], expected["recall"]) == precision_recall(fake, real)


@pytest.mark.parametrize("metric", [precision_recall, density_coverage])
def test_invalid_features_are_rejected(metric):
    with pytest.raises(ValueError, match=r"cannot compare features with \d and \d dimensions"):
        metric(features(9, 0), features(9, 1, dimension=5))
    with pytest.raises(ValueError, match="need more than 4 features, not 4"):
        metric(features(9, 0), features(4, 1), neighbors=4)
