from functools import partial

import pytest
import torch
from geometry import convolutions, dense_norm
from hypothesis import given, settings
from torch import nn

from metrics.lipschitz import operator_norm, singular_values
from models.normalizations import NORMALIZATIONS, build_normalization


@given(convolutions())
@settings(max_examples=40, deadline=None)
def test_equals_dense_svd(case):
    layer, shape = case
    assert operator_norm(layer, shape, iterations=40) == pytest.approx(dense_norm(layer, shape), rel=5e-3)


@pytest.mark.parametrize("name", sorted(set(NORMALIZATIONS)))
def test_equals_dense_svd_with_every_normalization(name):
    torch.manual_seed(0)
    layer = build_normalization(name).normalize(nn.Conv2d(3, 5, 4, stride=2, padding=1).double())
    assert operator_norm(layer, (3, 8, 8)) == pytest.approx(dense_norm(layer.eval(), (3, 8, 8)), rel=5e-3)


def test_lower_bound_that_increases_with_iterations():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, padding=1).double()
    norms = [operator_norm(layer, (4, 10, 10), iterations) for iterations in (1, 3, 9, 27)]
    assert norms == sorted(norms)
    assert norms[-1] <= dense_norm(layer, (4, 10, 10)) * (1 + 1e-12)


def test_bias_has_no_effect():
    layer = nn.Linear(6, 6)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([3.0, 1, 1, 1, 1, 0.5])))
        layer.bias.fill_(100.0)
    assert operator_norm(layer, (6,)) == pytest.approx(3, rel=1e-6)


def test_zero_layer():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    assert operator_norm(layer, (3,)) == 0


def test_layer_is_not_changed():
    layer = build_normalization("spectral").normalize(nn.Conv2d(2, 3, 3)).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    random = torch.get_rng_state()
    operator_norm(layer, (2, 6, 6))
    assert layer.training
    assert all(module.training for module in layer.modules())
    assert all(torch.equal(value, layer.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in layer.parameters())
    assert torch.equal(torch.get_rng_state(), random)


class Doubling(torch.autograd.Function):
    """x -> 2 x with a backward pass but without forward-mode differentiation."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class CustomAffine(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.diag(torch.tensor([1.0, -4.0, 2.0])))
        self.shift = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return Doubling.apply(x @ self.weight) + self.shift


def test_custom_affine_layer():
    assert operator_norm(CustomAffine(), (3,)) == pytest.approx(8, rel=1e-6)


@pytest.mark.parametrize("layer", [nn.LayerNorm(6), nn.GELU(), nn.GroupNorm(2, 6), nn.ReLU()], ids=str)
def test_nonlinear_layer_is_rejected(layer):
    with pytest.raises(ValueError, match="not affine"):
        operator_norm(layer, (6,))


class Median(nn.Module):
    """A nonlinear layer f with f(c x) = c f(x) for every number c."""

    def forward(self, x):
        return x.unfold(1, 3, 1).median(dim=2).values


def test_homogeneous_nonlinear_layer_is_rejected():
    with pytest.raises(ValueError, match="not affine"):
        operator_norm(Median(), (12,))


def test_diverged_layer_has_norm_nan():
    layer = nn.Linear(3, 3)
    nn.init.constant_(layer.weight, float("nan"))
    assert torch.tensor(operator_norm(layer, (3,))).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["none", "spectral", "weight", "conv_norm"])
def test_layer_of_16_bits_is_measured_in_single_precision(name, dtype):
    torch.manual_seed(0)
    narrow = build_normalization(name).normalize(nn.Conv2d(2, 3, 3, padding=1)).eval().to(dtype)
    wide = build_normalization(name).normalize(nn.Conv2d(2, 3, 3, padding=1)).eval()
    wide.load_state_dict(narrow.state_dict())
    before = {key: value.clone() for key, value in narrow.state_dict().items()}
    assert operator_norm(narrow, (2, 6, 6)) == operator_norm(wide, (2, 6, 6)) > 0
    assert torch.equal(singular_values(narrow, (2, 6, 6)), singular_values(wide, (2, 6, 6)))
    assert torch.equal(singular_values(narrow, (2, 6, 6), 1), singular_values(wide, (2, 6, 6), 1))
    assert all(value.dtype == dtype for value in narrow.state_dict().values() if value.is_floating_point())
    assert all(torch.equal(value, narrow.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize(
    "context", [partial(torch.autocast, "cpu", torch.bfloat16), torch.inference_mode, torch.no_grad]
)
def test_context_of_the_caller_has_no_effect(context):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, padding=1)
    truth, values = operator_norm(layer, (2, 6, 6)), singular_values(layer, (2, 6, 6))
    with context():
        assert operator_norm(layer, (2, 6, 6)) == truth
        assert torch.equal(singular_values(layer, (2, 6, 6)), values)


class Several(nn.Module):
    """x -> x and 2 x, and which entries are positive."""

    def forward(self, x):
        return {"values": (x, 2 * x), "positive": x > 0}


def test_outputs_of_a_tuple_are_measured_together():
    assert operator_norm(Several(), (4,)) == pytest.approx(5**0.5, rel=1e-6)
    torch.testing.assert_close(singular_values(Several(), (4,)), torch.full((4,), 5**0.5, dtype=torch.float64))


@pytest.mark.parametrize("layer", [nn.Flatten(0), nn.Softmax(1), nn.AdaptiveMaxPool1d(2, return_indices=True)], ids=str)
def test_layer_without_an_operator_norm(layer):
    with pytest.raises(ValueError, match=r"not a batch|not affine"):
        operator_norm(layer, (3, 4))
