import pytest
import torch
from torch import nn

from metrics.lipschitz import input_gradient_norms, jacobian_singular_values, steepest_slope


def points(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_input_gradient_of_a_linear_map():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Flatten(0)).train()
    norms = input_gradient_norms(network, points(5, 3, 2, 2))
    torch.testing.assert_close(norms, network[1].weight.detach().norm().expand(5))
    assert network.training


def test_steepest_slope_of_a_linear_map():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Flatten(0))
    assert steepest_slope(network, points(4, 3, 2, 2)) == pytest.approx(network[1].weight.norm().item(), rel=1e-3)


class Bump(nn.Module):
    """tanh of the sum of d entries: its slope is sqrt(d) at 0 and nearly 0 far away."""

    def forward(self, x):
        return x.flatten(1).sum(1).tanh()


def test_ascent_finds_larger_slopes_than_the_initial_gradient():
    x = torch.full((2, 4), 0.6)
    start = input_gradient_norms(Bump(), x).max().item()
    found = steepest_slope(Bump(), x)
    assert start < 0.1
    assert 0.8 < found <= 2.0 * (1 + 1e-5)


@pytest.mark.parametrize("at_once", [0, 3, 9, 100])  # 1, 1, 3 and all 4 columns
def test_jacobian_singular_values(at_once, monkeypatch):
    monkeypatch.setattr("metrics.lipschitz.network.launches_matter", lambda x: at_once > 0)
    monkeypatch.setattr("metrics.lipschitz.network.JACOBIAN_BATCH", at_once)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 20), nn.Tanh(), nn.Linear(20, 12), nn.Unflatten(1, (3, 2, 2))).double()
    z = points(3, 4).double()
    values = jacobian_singular_values(network, z)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v: network(v[None])[0].flatten(), z[i])
        torch.testing.assert_close(values[i], torch.linalg.svdvals(jacobian), rtol=1e-6, atol=1e-9)
