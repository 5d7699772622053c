import math
import warnings
from contextlib import nullcontext as none

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from pytorch_fid.fid_score import calculate_frechet_distance

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


def root_trace_in_50_digits(a, b):
    with mpmath.workdps(50):
        lower = mpmath.cholesky(mpmath.matrix(a.tolist()))
        values = mpmath.eigsy(lower.T * mpmath.matrix(b.tolist()) * lower, eigvals_only=True)
        return float(sum(mpmath.sqrt(value) for value in values))


@pytest.mark.parametrize("condition", [1e2, 1e8, 1e12])
def test_ill_conditioned_covariances_lose_no_digits(condition):
    a, b = (torch.linalg.qr(random_features(16, 16, seed))[0] for seed in (0, 1))
    scales = torch.logspace(0, -math.log10(condition), 16, dtype=torch.float64)
    a, b = (rotation * scales @ rotation.T for rotation in (a, b))
    a, b = (a + a.T) / 2, (b + b.T) / 2
    expected = a.trace().item() + b.trace().item() - 2 * root_trace_in_50_digits(a, b)
    assert frechet_distance(gaussian(torch.zeros(16), a), gaussian(torch.zeros(16), b)) == pytest.approx(
        expected, rel=1e-11
    )


@pytest.mark.parametrize(("count_a", "count_b"), [(5, 5), (5, 40), (40, 5), (16, 16), (17, 5)])
def test_fewer_features_than_dimensions_warn_and_are_exact(count_a, count_b):
    x, y = random_features(count_a, 16, 0), random_features(count_b, 16, 1)
    with pytest.warns(UserWarning, match="5 features in 16 dimensions") if min(count_a, count_b) < 16 else none():
        distance = frechet_distance(FeatureStatistics.from_features(x), FeatureStatistics.from_features(y))
    # The nuclear norm of X_c Y_cᵀ is the trace of the root.
    x_c, y_c = (z.sub(z.mean(dim=0)).numpy() / math.sqrt(len(z) - 1) for z in (x, y))
    root = scipy.linalg.svdvals(x_c @ y_c.T).sum()
    means = (x.mean(dim=0) - y.mean(dim=0)).square().sum().item()
    assert distance == pytest.approx(means + (x_c**2).sum() + (y_c**2).sum() - 2 * root, rel=1e-10)


def test_few_features_are_at_distance_zero_of_themselves():
    statistics = FeatureStatistics.from_features(random_features(9, 30, 0))
    with pytest.warns(UserWarning, match="biased"):
        assert frechet_distance(statistics, statistics) < 1e-12 * statistics.covariance.trace()


def test_a_dead_feature_and_a_singular_covariance_from_a_file_are_exact(tmp_path):
    x, y = random_features(100, 8, 0), random_features(90, 8, 1)
    dead = torch.cat([x, torch.ones(100, 1)], dim=1), torch.cat([y, torch.full((90, 1), 3.0)], dim=1)
    expected = frechet_distance(*map(FeatureStatistics.from_features, (x, y))) + 4
    a, b = map(FeatureStatistics.from_features, dead)
    assert a.factor.shape == (9, 8)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-11)
    constant = FeatureStatistics.from_features(torch.ones(20, 9))
    assert frechet_distance(a, constant) == pytest.approx(
        (a.covariance.trace() + (a.mean - 1).square().sum()).item(), rel=1e-12
    )


@pytest.mark.parametrize("count", [7, 200])
def test_a_factor_gives_the_covariance(count):
    statistics = FeatureStatistics.from_features(random_features(count, 12, 0))
    torch.testing.assert_close(statistics.factor @ statistics.factor.T, statistics.covariance)


@pytest.mark.parametrize("count", [7, 200, None])
def test_a_cached_reference_gives_the_same_number_without_another_factorization(count, monkeypatch, tmp_path):
    features = random_features(count or 200, 12, 0)
    a, b = FeatureStatistics.from_features(features), FeatureStatistics.from_features(random_features(300, 12, 1))
    a = FeatureStatistics(a.mean, a.covariance, count, a.known_factor)
    with warnings.catch_warnings(action="ignore"):
        expected = frechet_distance(a, b)
        torch.save(a.to_dict(), tmp_path / "cache.pt")
        monkeypatch.delattr(torch.linalg, "cholesky_ex")
        monkeypatch.delattr(torch.linalg, "eigh")
        restored = FeatureStatistics.from_dict(torch.load(tmp_path / "cache.pt", weights_only=True))
        assert restored.count == count
        assert frechet_distance(restored, b) == expected


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_files_go_to_and_come_from_pytorch_fid(tmp_path):
    a, b = (FeatureStatistics.from_features(random_features(80, 10, seed)) for seed in (0, 1))
    a.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        reference = calculate_frechet_distance(file["mu"], file["sigma"], b.mean.numpy(), b.covariance.numpy())
    np.savez_compressed(tmp_path / "b.npz", mu=b.mean.numpy(), sigma=b.covariance.numpy())  # as save_fid_stats does
    read_a, read_b = (FeatureStatistics.load(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert (read_a.count, read_b.count) == (80, None)
    assert frechet_distance(read_a, read_b) == frechet_distance(a, b) == pytest.approx(reference, rel=1e-9)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.npz", "b.npz"]


def test_a_file_is_not_overwritten(tmp_path):
    path = tmp_path / "stats.npz"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"stats\.npz exists already"):
        FeatureStatistics.from_features(random_features(9, 3, 0)).save(path)
    assert path.read_text() == "mine"


def test_files_that_hold_no_statistics_are_refused(tmp_path):
    path = tmp_path / "stats.npz"
    with pytest.raises(ValueError, match=r"stats\.npz"):
        FeatureStatistics.load(path)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match="no file of Fréchet statistics"):
        FeatureStatistics.load(path)
    np.savez(path, mean=np.zeros(3))
    with pytest.raises(ValueError, match="mu"):
        FeatureStatistics.load(path)
    np.savez(path, mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(ValueError, match="do not go together"):
        FeatureStatistics.load(path)
    np.savez(path, mu=np.array([0, np.nan]), sigma=np.eye(2))
    with pytest.raises(ValueError, match="not finite"):
        FeatureStatistics.load(path)


def test_more_features_than_a_chunk_give_the_same_statistics(monkeypatch):
    features = random_features(100, 6, 0)
    expected = FeatureStatistics.from_features(features)
    monkeypatch.setattr("metrics.frechet.CHUNK", 7)
    torch.testing.assert_close(FeatureStatistics.from_features(features).covariance, expected.covariance)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(value):
    features = random_features(20, 4, 0)
    features[3, 2] = value
    with pytest.raises(ValueError, match="1 of 20 features are not finite"):
        FeatureStatistics.from_features(features)


def test_other_dimensions_cannot_be_compared():
    a, b = (FeatureStatistics.from_features(random_features(50, dimension, 0)) for dimension in (4, 5))
    with pytest.raises(ValueError, match="4 and of 5 dimensions"):
        frechet_distance(a, b)


def test_statistics_are_those_of_torch():
    features = random_features(40, 6, 0)
    statistics = FeatureStatistics.from_features(features.float())
    torch.testing.assert_close(statistics.covariance, torch.cov(features.float().double().T))
    assert statistics.count == 40


def test_one_feature_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2"):
        FeatureStatistics.from_features(torch.zeros(1, 4))
