import math
import os
import stat
import warnings
from contextlib import nullcontext
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from pytorch_fid.fid_score import calculate_frechet_distance, compute_statistics_of_path
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


def test_saved_file_is_readable_for_others(tmp_path):
    statistics = FeatureStatistics.from_features(random_features(9, 3, 0))
    before = os.umask(0o022)
    try:
        statistics.save(tmp_path / "stats.npz")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "stats.npz").stat().st_mode) == 0o644


def test_failed_save_leaves_no_file(tmp_path, monkeypatch):
    def fail(file, **arrays):
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="No space left"):
        FeatureStatistics.from_features(random_features(9, 3, 0)).save(tmp_path / "stats.npz")
    assert list(tmp_path.iterdir()) == []


def test_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "stats.npz")
    for path in (tmp_path / "stats.npz", tmp_path, "/dev/zero"):
        with pytest.raises(ValueError, match="it is not a regular file"):
            FeatureStatistics.load(path)


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


INVALID_ARRAYS = {
    "has the negative variance -0.5": {"sigma": np.diag([1, 1, -0.5])},
    "has the negative variance -1e-05": {"sigma": np.diag([1, 1, -1e-5])},
    "has the negative variance -1$": {"sigma": -np.eye(3)},
    "has the eigenvalue -2": {"sigma": 3 * np.ones((3, 3)) - 2 * np.eye(3)},
    "not symmetric": {"sigma": np.eye(3) + np.triu(np.full((3, 3), 1e-3), 1)},
    "type complex128": {"sigma": np.eye(3) * (1 + 0j)},
    "type complex64": {"mu": np.zeros(3, np.complex64)},
    "type bool": {"sigma": np.eye(3) > 0},
    "type <U1": {"mu": np.array(["0", "0", "0"])},
    "allow_pickle": {"mu": np.array([None, None, None])},
    "mean is not finite": {"mu": np.array([0, np.nan, 0])},
    "mean is not finite, or it exceeds": {"mu": np.array([0, 1e200, 0])},
    "covariance is not finite": {"sigma": np.full((3, 3), np.inf)},
    "covariance is not finite, or it exceeds": {"sigma": np.eye(3) * 1e200},
    "do not match": {"sigma": np.eye(4)},
    "do not match; ": {"mu": np.zeros((1, 3))},
    "do not match; they": {"mu": np.zeros(0), "sigma": np.zeros((0, 0))},
    "do not match; they must": {"mu": np.array(0.0), "sigma": np.array(1.0)},
    "count must be an integer of at least 2, not -5": {"count": np.array(-5)},
    "count must be an integer of at least 2, not 1": {"count": np.array(1)},
    "count must be an integer of at least 2, not 2.5": {"count": np.array(2.5)},
    "count must be an integer of at least 2, not nan": {"count": np.array(np.nan)},
    "count must be an integer of at least 2, not 'ten'": {"count": np.array("ten")},
    "count must be an integer of at least 2, not True": {"count": np.array(True)},
    "array of size 1": {"count": np.array([3, 4])},
}


@pytest.mark.parametrize("message", INVALID_ARRAYS)
def test_invalid_statistics_are_rejected(tmp_path, message):
    arrays = {"mu": np.zeros(3), "sigma": np.eye(3)} | INVALID_ARRAYS[message]
    np.savez(tmp_path / "stats.npz", **arrays)
    with pytest.raises(ValueError, match=rf"stats\.npz.*{message}") as error:
        FeatureStatistics.load(tmp_path / "stats.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [9, 200])
def test_statistics_in_single_precision_are_read(tmp_path, count):
    """The rounding makes a singular covariance slightly indefinite."""
    expected = FeatureStatistics.from_features(random_features(count, 30, 0))
    np.savez(
        tmp_path / "a.npz", mu=expected.mean.numpy(), sigma=expected.covariance.float().numpy(), count=float(count)
    )
    found = FeatureStatistics.load(tmp_path / "a.npz")
    assert found.count == count
    with warnings.catch_warnings(action="ignore"):
        assert frechet_distance(found, expected) < 1e-3 * expected.covariance.trace()


def test_indefinite_statistics_have_no_distance():
    with pytest.raises(ValueError, match="not positive semidefinite"):
        frechet_distance(
            gaussian(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])), gaussian([0.0, 0.0], torch.eye(2))
        )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_many_small_negative_eigenvalues_are_no_rounding_errors(tmp_path, dtype):
    dimension = 256
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((dimension, dimension)))[0]
    values = 8 / np.arange(1, dimension + 1) ** 1.5
    for shift in (0, 0.0075):
        sigma = (basis * (values - shift)) @ basis.T + 0.001 * np.eye(dimension)
        np.savez(tmp_path / "stats.npz", mu=np.zeros(dimension), sigma=((sigma + sigma.T) / 2).astype(dtype))
        if shift == 0:
            FeatureStatistics.load(tmp_path / "stats.npz")
            continue
        with pytest.raises(ValueError, match=r"positive semidefinite|negative variance"):
            FeatureStatistics.load(tmp_path / "stats.npz")


def test_small_dimensions_beside_a_large_one_must_be_symmetric():
    sigma = torch.diag(torch.tensor([1e4] + [1.0] * 63))
    sigma[1:, 1:] += torch.full((63, 63), 0.05).triu(1)
    with pytest.raises(ValueError, match="not symmetric"):
        FeatureStatistics(torch.zeros(64).double(), sigma.double(), None)


def test_distance_is_between_statistics():
    with pytest.raises(ValueError, match="not Tensor"):
        frechet_distance(random_features(20, 3, 0), random_features(20, 3, 1))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"extractor": "inception"}, "'torch_fidelity' are not comparable with preprocessing 'pytorch_fid'"),
        ({"extractor": "inception", "preprocessing": np.bytes_(b"pytorch_fid")}, "preprocessing 'pytorch_fid'"),
        ({"extractor": "inception", "image_size": np.array([64, 64])}, "what it records about its features"),
    ],
)
def test_incomplete_and_odd_records_are_not_ignored(tmp_path, entries, message):
    here = save_with_origin(tmp_path / "here.npz", image_size="32x32")
    arrays = {"mu": here.mean.numpy(), "sigma": here.covariance.numpy(), "classes": np.array(["a", "b"])}
    np.savez(tmp_path / "other.npz", **arrays, **entries)
    with pytest.raises(ValueError, match=message):
        frechet_distance(here, FeatureStatistics.load(tmp_path / "other.npz"))


INCEPTION = {"extractor": "inception", "layer": "2048", "preprocessing": "torch_fidelity", "weights": "1234"}


def save_with_origin(path, data=None, **origin):
    statistics = FeatureStatistics.from_features(random_features(20, 3, 0))
    replace(statistics, origin=INCEPTION | origin, data=data).save(path)
    return FeatureStatistics.load(path)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_files_record_what_they_depend_on(tmp_path):
    path = tmp_path / "a.npz"
    statistics = save_with_origin(path, data="abcd", image_size="32x32")
    assert statistics.origin == INCEPTION | {"image_size": "32x32"}
    assert statistics.data == "abcd"
    mean, covariance = compute_statistics_of_path(str(path), None, 1, 3, "cpu")  # of pytorch-fid
    assert (mean == statistics.mean.numpy()).all()
    assert (covariance == statistics.covariance.numpy()).all()


@pytest.mark.parametrize("entry", ["layer", "preprocessing", "weights", "extractor", "image_size"])
def test_files_of_different_origin_are_not_compared(tmp_path, entry):
    a = save_with_origin(tmp_path / "a.npz", **{entry: "this"})
    b = save_with_origin(tmp_path / "b.npz", **{entry: "that"})
    with pytest.raises(ValueError, match=f"{entry} 'this' are not comparable with {entry} 'that'"):
        frechet_distance(a, b)
    assert frechet_distance(a, save_with_origin(tmp_path / "c.npz", data="other", **{entry: "this"})) < 1e-9


def test_file_without_record_counts_as_that_of_pytorch_fid(tmp_path):
    ours, bare = tmp_path / "ours.npz", tmp_path / "bare.npz"
    statistics = save_with_origin(ours)
    np.savez(bare, mu=statistics.mean.numpy(), sigma=statistics.covariance.numpy())
    assert FeatureStatistics.load(bare).origin == {"preprocessing": "pytorch_fid"}
    with pytest.raises(ValueError, match=r"preprocessing 'torch_fidelity' are not .* preprocessing 'pytorch_fid'"):
        frechet_distance(statistics, FeatureStatistics.load(bare))
    assert frechet_distance(statistics, FeatureStatistics.load(bare, "torch_fidelity")) < 1e-9
    with pytest.raises(ValueError, match=r"ours\.npz: .*'torch_fidelity' are not comparable with .*'pytorch_fid'"):
        FeatureStatistics.load(ours, "pytorch_fid")


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
