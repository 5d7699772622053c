import math
import warnings
from contextlib import nullcontext

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from pytorch_fid.fid_score import calculate_frechet_distance
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from metrics.frechet import FeatureStatistics, frechet_distance


def gaussian(mean, covariance):
    return FeatureStatistics(torch.as_tensor(mean).double(), torch.as_tensor(covariance).double(), 1000)


def random_features(count, dimension, seed):
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(dimension, dimension, generator=random, dtype=torch.float64)
    return torch.randn(count, dimension, generator=random, dtype=torch.float64) @ mix


def test_distance_between_commuting_gaussians():
    a = gaussian([0.0, 0.0, 0.0], torch.diag(torch.tensor([1.0, 4.0, 9.0])))
    b = gaussian([1.0, 2.0, 2.0], torch.diag(torch.tensor([4.0, 4.0, 1.0])))
    assert frechet_distance(a, b) == pytest.approx(9 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2, rel=1e-12)


def test_distance_matches_its_definition():
    a, b = (FeatureStatistics.from_features(random_features(200, 12, seed)) for seed in (0, 1))
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * root.real.trace()
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-10)


def test_distance_matches_torch_fidelity():
    features = [random_features(70, 12, seed) for seed in (0, 1)]
    expected = fid_statistics_to_metric(*map(fid_features_to_statistics, features), verbose=False)
    a, b = map(FeatureStatistics.from_features, features)
    assert frechet_distance(a, b) == pytest.approx(expected["frechet_inception_distance"], rel=1e-9)


def test_distance_is_symmetric_and_zero_for_equal_sets():
    a, b = (FeatureStatistics.from_features(random_features(50, 8, seed)) for seed in (0, 1))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


def high_precision_trace_sqrt_product(a, b):
    with mpmath.workdps(50):
        lower = mpmath.cholesky(mpmath.matrix(a.tolist()))
        values = mpmath.eigsy(lower.T * mpmath.matrix(b.tolist()) * lower, eigvals_only=True)
        return float(sum(mpmath.sqrt(value) for value in values))


@pytest.mark.parametrize("condition", [1e2, 1e8, 1e12])
def test_ill_conditioned_covariances_are_accurate(condition):
    a, b = (torch.linalg.qr(random_features(16, 16, seed))[0] for seed in (0, 1))
    scales = torch.logspace(0, -math.log10(condition), 16, dtype=torch.float64)
    a, b = (rotation * scales @ rotation.T for rotation in (a, b))
    a, b = (a + a.T) / 2, (b + b.T) / 2
    expected = a.trace().item() + b.trace().item() - 2 * high_precision_trace_sqrt_product(a, b)
    assert frechet_distance(gaussian(torch.zeros(16), a), gaussian(torch.zeros(16), b)) == pytest.approx(
        expected, rel=1e-11
    )


@pytest.mark.parametrize(("count_a", "count_b"), [(5, 5), (5, 40), (40, 5), (16, 16), (17, 5)])
def test_fewer_features_than_dimensions_warn_and_are_accurate(count_a, count_b):
    x, y = random_features(count_a, 16, 0), random_features(count_b, 16, 1)
    expect_warning = pytest.warns(UserWarning, match="5 features in 16 dimensions")
    with expect_warning if min(count_a, count_b) < 16 else nullcontext():
        distance = frechet_distance(FeatureStatistics.from_features(x), FeatureStatistics.from_features(y))
    # The trace of the matrix square root is the nuclear norm of X_c Y_cᵀ.
    x_c, y_c = (z.sub(z.mean(dim=0)).numpy() / math.sqrt(len(z) - 1) for z in (x, y))
    root = scipy.linalg.svdvals(x_c @ y_c.T).sum()
    means = (x.mean(dim=0) - y.mean(dim=0)).square().sum().item()
    assert distance == pytest.approx(means + (x_c**2).sum() + (y_c**2).sum() - 2 * root, rel=1e-10)


def test_distance_of_few_features_to_themselves_is_zero():
    statistics = FeatureStatistics.from_features(random_features(9, 30, 0))
    with pytest.warns(UserWarning, match="biased"):
        assert frechet_distance(statistics, statistics) < 1e-12 * statistics.covariance.trace()


def test_constant_features_are_accurate():
    x, y = random_features(100, 8, 0), random_features(90, 8, 1)
    with_constant = torch.cat([x, torch.ones(100, 1)], dim=1), torch.cat([y, torch.full((90, 1), 3.0)], dim=1)
    expected = frechet_distance(*map(FeatureStatistics.from_features, (x, y))) + 4
    a, b = map(FeatureStatistics.from_features, with_constant)
    assert a.factor.shape == (9, 8)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-11)
    constant = FeatureStatistics.from_features(torch.ones(20, 9))
    assert frechet_distance(a, constant) == pytest.approx(
        (a.covariance.trace() + (a.mean - 1).square().sum()).item(), rel=1e-12
    )


@pytest.mark.parametrize("count", [7, 200])
def test_factor_times_its_transpose_is_the_covariance(count):
    statistics = FeatureStatistics.from_features(random_features(count, 12, 0))
    torch.testing.assert_close(statistics.factor @ statistics.factor.T, statistics.covariance)


@pytest.mark.parametrize("count", [7, 200, None])
def test_statistics_from_a_cache_need_no_factorization(count, monkeypatch, tmp_path):
    features = random_features(count or 200, 12, 0)
    a, b = FeatureStatistics.from_features(features), FeatureStatistics.from_features(random_features(300, 12, 1))
    a = FeatureStatistics(a.mean, a.covariance, count, a.precomputed_factor)
    with warnings.catch_warnings(action="ignore"):
        expected = frechet_distance(a, b)
        torch.save(a.to_dict(), tmp_path / "cache.pt")
        monkeypatch.delattr(torch.linalg, "cholesky_ex")
        monkeypatch.delattr(torch.linalg, "eigh")
        restored = FeatureStatistics.from_dict(torch.load(tmp_path / "cache.pt", weights_only=True))
        assert restored.count == count
        assert frechet_distance(restored, b) == expected


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_files_are_compatible_with_pytorch_fid(tmp_path):
    a, b = (FeatureStatistics.from_features(random_features(80, 10, seed)) for seed in (0, 1))
    a.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        reference = calculate_frechet_distance(file["mu"], file["sigma"], b.mean.numpy(), b.covariance.numpy())
    np.savez_compressed(tmp_path / "b.npz", mu=b.mean.numpy(), sigma=b.covariance.numpy())  # as in save_fid_stats
    read_a, read_b = (FeatureStatistics.load(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert (read_a.count, read_b.count) == (80, None)
    assert frechet_distance(read_a, read_b) == frechet_distance(a, b) == pytest.approx(reference, rel=1e-9)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.npz", "b.npz"]


def test_existing_file_is_not_overwritten(tmp_path):
    path = tmp_path / "stats.npz"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"stats\.npz already exists"):
        FeatureStatistics.from_features(random_features(9, 3, 0)).save(path)
    assert path.read_text() == "mine"


def test_invalid_files_are_rejected(tmp_path):
    path = tmp_path / "stats.npz"
    with pytest.raises(ValueError, match=r"stats\.npz"):
        FeatureStatistics.load(path)
    path.write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(ValueError, match="not a file of Fréchet statistics"):
        FeatureStatistics.load(path)
    np.savez(path, mean=np.zeros(3))
    with pytest.raises(ValueError, match="mu"):
        FeatureStatistics.load(path)
    np.savez(path, mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(ValueError, match="do not match"):
        FeatureStatistics.load(path)
    np.savez(path, mu=np.array([0, np.nan]), sigma=np.eye(2))
    with pytest.raises(ValueError, match="not finite"):
        FeatureStatistics.load(path)


def test_covariance_computed_in_chunks(monkeypatch):
    features = random_features(100, 6, 0)
    expected = FeatureStatistics.from_features(features)
    monkeypatch.setattr("metrics.frechet.CHUNK", 7)
    torch.testing.assert_close(FeatureStatistics.from_features(features).covariance, expected.covariance)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_features_are_rejected(value):
    features = random_features(20, 4, 0)
    features[3, 2] = value
    with pytest.raises(ValueError, match="1 of 20 features are not finite"):
        FeatureStatistics.from_features(features)


def test_different_dimensions_are_rejected():
    a, b = (FeatureStatistics.from_features(random_features(50, dimension, 0)) for dimension in (4, 5))
    with pytest.raises(ValueError, match="4 and 5 dimensions"):
        frechet_distance(a, b)


def test_covariance_matches_torch_cov():
    features = random_features(40, 6, 0)
    statistics = FeatureStatistics.from_features(features.float())
    torch.testing.assert_close(statistics.covariance, torch.cov(features.float().double().T))
    assert statistics.count == 40


def test_single_feature_is_rejected():
    with pytest.raises(ValueError, match="at least 2"):
        FeatureStatistics.from_features(torch.zeros(1, 4))
