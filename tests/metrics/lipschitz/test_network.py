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


@pytest.mark.parametrize("count", [2, 256])
def test_column_of_logits(count):
    torch.manual_seed(0)
    column = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 1))
    flat = nn.Sequential(column, nn.Flatten(0))
    x = points(count, 3, 2, 2)
    assert steepest_slope(column, x) == steepest_slope(flat, x)
    assert torch.equal(input_gradient_norms(column, x), input_gradient_norms(flat, x))


@pytest.mark.parametrize("measure", [steepest_slope, input_gradient_norms])
def test_several_outputs_are_refused(measure):
    with pytest.raises(ValueError, match=r"one logit per input, logits of shape \(5,\), but the shape is \(5, 2\)"):
        measure(nn.Linear(3, 2), points(5, 3))


class Labelled(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(3, 4), nn.Linear(4, 1)

    def forward(self, x, y):
        return self.linear(self.embedding(y) * x)


MEASUREMENTS = {
    "gradients": lambda network, x, y: input_gradient_norms(network, x, y),
    "slope": lambda network, x, y: torch.tensor(steepest_slope(network, x, y)),
    "jacobian": lambda network, x, y: jacobian_singular_values(network, x, y),
}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_precision_and_grad_mode_around_a_measurement_have_no_effect(name):
    torch.manual_seed(0)
    network = Labelled()
    x, y = points(3, 4), torch.tensor([0, 2, 1])
    truth = MEASUREMENTS[name](network, x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(MEASUREMENTS[name](network, x, y), truth)
        assert torch.is_autocast_enabled("cpu")
    with torch.inference_mode():
        inputs = x.clone(), y.clone()
        assert torch.equal(MEASUREMENTS[name](network, *inputs), truth)
        assert torch.is_inference_mode_enabled()
    with torch.no_grad():
        assert torch.equal(MEASUREMENTS[name](network, x, y), truth)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_network_of_16_bits_is_measured_in_single_precision(name, dtype):
    torch.manual_seed(0)
    narrow = Labelled().to(dtype)
    wide, x, y = Labelled(), points(3, 4).to(dtype), torch.tensor([0, 2, 1])
    wide.load_state_dict(narrow.state_dict())
    before = {key: (value.clone(), value.data_ptr()) for key, value in narrow.state_dict().items()}
    assert torch.equal(MEASUREMENTS[name](narrow, x, y), MEASUREMENTS[name](wide, x.float(), y))
    for key, value in narrow.state_dict().items():
        assert value.dtype == dtype
        assert torch.equal(value, before[key][0])
        assert value.data_ptr() == before[key][1]
