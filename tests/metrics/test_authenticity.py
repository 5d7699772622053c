import pytest
import torch

from metrics.authenticity import authentic_percentage
from metrics.neighbors import squared_neighbor_distances


def features(count, seed, dimension=6):
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def test_matches_the_definition():
    fake, train = features(70, 0), features(50, 1)
    within, cross = torch.cdist(train.double(), train.double()).fill_diagonal_(torch.inf), torch.cdist(train, fake)
    nearest = cross.min(dim=0)
    expected = 100 * (within.amin(dim=0)[nearest.indices] < nearest.values).double().mean().item()
    assert 0 < expected < 100
    assert authentic_percentage(fake, train) == pytest.approx(expected, rel=1e-12)
    assert authentic_percentage(fake, train, squared_neighbor_distances(train, 4)) == authentic_percentage(fake, train)


def test_points_on_a_line():
    train = torch.tensor([[0.0], [1.0], [10.0]])  # distances to the nearest other one: 1, 1, 9
    fake = torch.tensor([[-1.5], [-0.5], [0.2], [3.0], [18.0], [20.0]])
    assert authentic_percentage(fake, train) == pytest.approx(100 * 3 / 6)  # -1.5, 3 and 20
    assert authentic_percentage(torch.tensor([[2.0], [2.0]]), train) == 0  # at equal distances


def test_copies_are_not_authentic():
    train = features(200, 1) + 1000
    copies, new = train[:80].clone(), features(80, 2) + 1000
    assert authentic_percentage(copies, train) == 0
    assert authentic_percentage(copies + 1e-3, train) == 0
    assert authentic_percentage(new, train) > 40
    assert authentic_percentage(torch.cat([copies, new]), train) == authentic_percentage(new, train) / 2


def test_too_few_training_images_are_rejected():
    with pytest.raises(ValueError, match="at least 2 features in both sets, not 5 and 1"):
        authentic_percentage(features(5, 0), features(1, 1))
