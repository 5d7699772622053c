import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from metrics.kid import kid


def features(count, dimension, seed, shift=0.0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimension, generator=random, dtype=torch.float64) + shift


@pytest.mark.parametrize(("subsets", "size"), [(100, 40), (11, 40), (1, 300), (3, 300)])
def test_matches_torch_fidelity(subsets, size):
    """The second and third case compute each subset for itself, the others one kernel matrix of all features."""
    fake, real = features(310, 12, 0, 0.1), features(330, 12, 1)
    expected = kid_features_to_metric(fake, real, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    found = kid(fake, real, subsets=subsets, subset_size=size)
    assert found == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-11)
    assert found.std == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-9)


@pytest.mark.parametrize("dtypes", [(torch.float64, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_precisions_can_differ_and_be_low(dtypes):
    fake, real = features(70, 12, 0, 0.1).to(dtypes[0]), features(90, 12, 1).to(dtypes[1])
    exact = kid(fake.double(), real.double(), subset_size=40)
    assert kid(fake, real, subset_size=40) == pytest.approx(exact, rel=1e-5)


def test_subsets_of_all_features_have_no_spread():
    fake, real = (torch.randn(30, 5, generator=torch.Generator().manual_seed(k)) for k in range(2))
    assert type(kid(fake, real)) is float
    assert kid(fake, real, subset_size=20).std > 0
    assert kid(fake, real[:20]).std > 0  # of the larger set


def test_subset_size_is_limited_by_the_sets():
    fake, real = features(30, 5, 0, 0.5), features(20, 5, 1)
    assert kid(fake, real, subsets=4) == kid(fake, real, subsets=4, subset_size=20)


def test_matches_the_definition():
    x, y = features(9, 3, 0, 1.0), features(9, 3, 1)

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    pairs = [(i, j) for i in range(9) for j in range(9)]
    within = sum(kernel(z[i], z[j]) for z in (x, y) for i, j in pairs if i != j) / 72
    expected = within - 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / 81
    assert kid(x, y, subsets=3) == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("subsets", [2, 5])
@pytest.mark.parametrize(("dimension", "shift", "scale"), [(8, 10, 1), (256, 0.5, 0.5), (64, 100, 1), (64, 0, 10)])
def test_single_precision_features_are_accurate(dimension, shift, scale, subsets):
    fake, real = (scale * features(300, dimension, seed, shift / scale).float() for seed in (0, 1))
    exact = kid(fake.double(), real.double(), subsets=subsets, subset_size=150)
    found = kid(fake, real, subsets=subsets, subset_size=150)
    assert found == pytest.approx(exact, abs=2e-5 * exact.std)


def test_invalid_features_are_rejected():
    with pytest.raises(ValueError, match="4 and 5 dimensions"):
        kid(features(9, 4, 0), features(9, 5, 0))
    with pytest.raises(ValueError, match="at least 2 features in both sets, not 1 and 9"):
        kid(features(1, 4, 0), features(9, 4, 0))
