import pytest
import torch

from metrics import neighbors
from metrics.neighbors import Block, Pairs, squared_neighbor_distances


def features(count, seed, shift=0.0, scale=1.0, dimension=24):
    random = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, dimension, generator=random) + shift


def squared_distances(a, b):
    return (a.double()[:, None] - b.double()).square().sum(dim=2)


def duplicates(seed):
    return features(20, seed).repeat(3, 1)


# Sets whose distances single precision cannot order.
HARD = {
    "far from the origin": features(60, 0, shift=1000, scale=0.01),
    "clusters": features(4, 1, scale=30).repeat_interleave(15, 0) + features(60, 2, scale=1e-5),
    "equal features": duplicates(3),
    "one feature": features(1, 0).repeat(60, 1),
    "an outlier": torch.cat([features(59, 4), features(1, 5, scale=1e12)]),
    "an outlier among the first": torch.cat([features(1, 5, dimension=64, scale=1e10), features(59, 4, dimension=64)]),
    "clusters far apart": features(60, 11).double() + 1e8 * (torch.arange(60) % 2)[:, None],
    "huge": features(60, 6, scale=1e25),
    "tiny": features(60, 7, scale=1e-25),
    "integers": features(60, 8, dimension=3).round(),
    "double precision": features(60, 9).double() + 1e6,
}


@pytest.mark.parametrize("name", HARD)
def test_nearest_neighbors_are_those_of_double_precision(name, monkeypatch):
    monkeypatch.setattr(neighbors, "BLOCK", 25)
    x = HARD[name]
    expected = squared_distances(x, x).fill_diagonal_(torch.inf).sort(dim=1)
    squared = squared_neighbor_distances(x, 4)
    assert squared.dtype == torch.float64
    torch.testing.assert_close(squared, expected.values[:, :4], rtol=1e-12, atol=0)


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("name", HARD)
def test_comparisons_are_those_of_double_precision(name, inclusive):
    x = HARD[name]
    y = torch.cat([x[::2], 2 * x[1::2].mean(dim=0) - x[1::2]])
    distances = squared_distances(x, y)
    for limits in (distances.kthvalue(3, dim=0).values, distances.kthvalue(3, dim=1, keepdim=True).values):
        found = Block(Pairs(x, y), torch.arange(len(x))).within(limits, inclusive)
        assert torch.equal(found, distances <= limits if inclusive else distances < limits)


def test_only_comparisons_that_single_precision_leaves_open_are_measured(monkeypatch):
    x, y = features(300, 0, dimension=256), features(300, 1, dimension=256)
    pairs = Pairs(x, y)
    measured = []
    measure = pairs.measure
    monkeypatch.setattr(pairs, "measure", lambda i, j: measured.append(len(i)) or measure(i, j))
    limits = squared_distances(x, y).median(dim=0).values
    Block(pairs, torch.arange(300)).within(limits, inclusive=True)
    assert 300 <= sum(measured) < 900  # of 90,000; each limit is the distance of a pair
    measured.clear()
    pairs.find_nearest(2)
    assert 600 <= sum(measured) < 700


def test_lowest_index_of_equal_distances_comes_first():
    x, y = features(80, 12, dimension=3, scale=2).round(), features(70, 13, dimension=3, scale=2).round()
    expected = squared_distances(x, y).sort(dim=1, stable=True)
    squared, index = Pairs(x, y).find_nearest(2)
    assert torch.equal(squared, expected.values[:, :2])
    assert torch.equal(index, expected.indices[:, :2])


def test_nearest_of_another_set():
    x, y = features(50, 0), torch.cat([features(40, 1), features(50, 0)[:5]])
    squared, index = Pairs(x, y).find_nearest(1)
    expected = squared_distances(x, y).min(dim=1)
    assert torch.equal(index[:, 0], expected.indices)
    torch.testing.assert_close(squared[:, 0], expected.values, rtol=1e-12, atol=0)
    assert squared[:5].eq(0).all()


def test_results_do_not_depend_on_the_matmul_precision():
    x = features(60, 0, shift=3)
    expected = squared_neighbor_distances(x, 3)
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(squared_neighbor_distances(x, 3), expected)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_too_few_features_are_rejected():
    with pytest.raises(ValueError, match="need more than 4 features, not 4"):
        squared_neighbor_distances(features(4, 0), 4)
    with pytest.raises(ValueError, match="24 and 5 dimensions"):
        Pairs(features(4, 0), features(4, 0, dimension=5))
