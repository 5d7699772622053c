import math
import warnings

import numpy as np
import pytest
import torch

from metrics.frechet import FeatureStatistics, frechet_distance
from metrics.frechet_infinity import frechet_distance_infinity


def features(count, seed, shift=0.0, dimension=8):
    return shift + torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def standard_normal(dimension=8):
    return FeatureStatistics(torch.zeros(dimension).double(), torch.eye(dimension).double(), None)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_bias_is_removed(shift):
    """The distance between N(shift, I) and N(0, I) is 8 shift²."""
    exact, real = 8 * shift**2, standard_normal()
    biased, extrapolated = [], []
    for seed in range(8):
        fake = features(600, seed, shift)
        biased.append(frechet_distance(FeatureStatistics.from_features(fake), real) - exact)
        extrapolated.append(frechet_distance_infinity(fake, real) - exact)
    assert np.mean(biased) > 0.03
    assert abs(np.mean(extrapolated)) < 0.02
    assert abs(np.mean(extrapolated)) < np.mean(biased) / 2


def test_matches_a_regression_of_each_subset():
    fake, real = features(97, 0, 0.2), standard_normal()
    random = np.random.RandomState(2020)
    x, y = [], []
    for count in np.linspace(9, 97, 15).astype(int):
        part = fake[random.permutation(97)[:count]].numpy()
        root = np.linalg.eigvalsh(np.cov(part.T)).clip(min=0)
        y.append((part.mean(0) ** 2).sum() + root.sum() + 8 - 2 * np.sqrt(root).sum())
        x.append([1.0, 1 / count])
    expected = np.linalg.lstsq(np.array(x), np.array(y), rcond=None)[0][0]
    assert frechet_distance_infinity(fake, real) == pytest.approx(expected, rel=1e-9)


def test_distances_on_a_line_give_its_limit(monkeypatch):
    monkeypatch.setattr("metrics.frechet_infinity.frechet_distance", lambda a, b: 3 - 7 / a.count)
    assert math.isclose(frechet_distance_infinity(features(50, 0), standard_normal()), 3, rel_tol=1e-12)


def test_only_too_few_images_in_total_warn():
    with warnings.catch_warnings(action="error"):
        frechet_distance_infinity(features(20, 0), standard_normal())
    with pytest.warns(UserWarning, match="biased upwards"):
        frechet_distance_infinity(features(12, 0, dimension=16), standard_normal(16))


def test_too_few_features_are_rejected():
    with pytest.raises(ValueError, match="at least 10 features and 2 points, not 9 and 15"):
        frechet_distance_infinity(features(9, 0), standard_normal())
    with pytest.raises(ValueError, match="not 50 and 1"):
        frechet_distance_infinity(features(50, 0), standard_normal(), points=1)
