"""No pair of inputs of a random network has outputs that differ by more than the certified bound allows."""

import math

import pytest
from hunting import SHAPE, RandomNetwork, steepest_ratio

from metrics.lipschitz import certify


def check(seed):
    network = RandomNetwork(seed)
    certificate = certify(network, SHAPE)
    assert math.isfinite(certificate.bound), f"seed {seed}: {certificate}"
    assert steepest_ratio(network) <= certificate.bound * (1 + 1e-9), f"seed {seed}"


@pytest.mark.parametrize("seed", range(30))
def test_bound_of_a_random_network_holds(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 3000, 100))
def test_bounds_of_many_random_networks_hold(first):
    for seed in range(first, first + 100):
        check(seed)
