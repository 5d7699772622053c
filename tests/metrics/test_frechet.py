import math

import pytest
import scipy.linalg
import torch

from metrics.frechet import FeatureStatistics, frechet_distance


def gaussian(mean, covariance):
    return FeatureStatistics(torch.as_tensor(mean).double(), torch.as_tensor(covariance).double(), 1000)


def random_features(count, dimension, seed):
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(dimension, dimension, generator=random, dtype=torch.float64)
    return torch.randn(count, dimension, generator=random, dtype=torch.float64) @ mix


def test_distance_of_commuting_gaussians_has_a_closed_form():
    a = gaussian([0.0, 0.0, 0.0], torch.diag(torch.tensor([1.0, 4.0, 9.0])))
    b = gaussian([1.0, 2.0, 2.0], torch.diag(torch.tensor([4.0, 4.0, 1.0])))
    assert frechet_distance(a, b) == pytest.approx(9 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2, rel=1e-12)


def test_distance_equals_the_matrix_root_of_the_definition():
    a, b = (FeatureStatistics.from_features(random_features(200, 12, seed)) for seed in (0, 1))
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * root.real.trace()
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-10)


def test_distance_to_itself_is_zero_and_symmetric_otherwise():
    a, b = (FeatureStatistics.from_features(random_features(50, 8, seed)) for seed in (0, 1))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


def test_fewer_features_than_dimensions_give_a_finite_distance():
    a, b = (FeatureStatistics.from_features(random_features(5, 16, seed)) for seed in (0, 1))
    distance = frechet_distance(a, b)
    assert math.isfinite(distance)
    assert distance > 0


def test_statistics_are_those_of_torch():
    features = random_features(40, 6, 0)
    statistics = FeatureStatistics.from_features(features.float())
    torch.testing.assert_close(statistics.covariance, torch.cov(features.float().double().T))
    assert statistics.count == 40


def test_one_feature_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2"):
        FeatureStatistics.from_features(torch.zeros(1, 4))
