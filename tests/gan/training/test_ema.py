import pytest
import torch
from torch import nn

from gan.training.ema import EMA, get_averaging_weight


@pytest.fixture
def network():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for p in network.parameters():
        nn.init.zeros_(p)
    return network


@pytest.mark.parametrize(("halflife", "images", "steps"), [(1.0, 1000, 1), (1.0, 100, 30), (0.5, 64, 7)])
def test_distance_halves_in_each_halflife(network, halflife, images, steps):
    ema = EMA(network)
    for p in network.parameters():
        nn.init.ones_(p)
    for _ in range(steps):
        ema.update(network, get_averaging_weight(images, halflife))
    distance = 0.5 ** (steps * images / (1000 * halflife))
    for p in ema.network.parameters():
        torch.testing.assert_close(p, torch.full_like(p, 1 - distance))


def test_halflife_zero_copies_the_network(network):
    ema = EMA(network)
    for p in network.parameters():
        nn.init.normal_(p)
    ema.update(network, get_averaging_weight(64, 0.0))
    assert all(torch.equal(a, b) for a, b in zip(ema.network.parameters(), network.parameters(), strict=True))


def test_buffers_are_copied(network):
    ema = EMA(network)
    network(torch.randn(8, 2) + 5)
    ema.update(network, 0.1)
    for (name, a), (_, b) in zip(ema.network.named_buffers(), network.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    assert ema.network[1].num_batches_tracked == 1


def test_average_is_a_frozen_copy_in_evaluation_mode(network):
    ema = EMA(network)
    nn.init.ones_(network[0].weight)
    assert not ema.network[0].weight.any()
    assert not any(p.requires_grad for p in ema.network.parameters())
    assert not any(module.training for module in ema.network.modules())
    assert network.training
