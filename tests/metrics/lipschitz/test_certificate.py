import copy
import math

import pytest
import torch
from bounded import HalfOf
from geometry import convolutions, dense_norm
from hypothesis import given, settings
from torch import nn

from metrics.lipschitz import certified_bound
from models import DISCRIMINATORS, ImageShape, build_discriminator
from models.kernels.symbol import riesz_factor, symbol_norm
from models.normalizations import NORMALIZATIONS, build_normalization

ROUNDING = 1 - 1e-9


@given(convolutions())
@settings(max_examples=60, deadline=None)
def test_bound_holds_for_any_geometry_and_padding(case):
    layer, shape = case
    truth = dense_norm(layer, shape)
    assert certified_bound(layer, shape) >= truth * ROUNDING


@pytest.mark.parametrize(
    ("kernel", "stride", "side"), [(1, 1, 6), (3, 1, 8), (5, 1, 8), (3, 2, 8), (5, 3, 9), (5, 1, 4)]
)
def test_circular_convolution_on_its_own_grid_is_exact(kernel, stride, side):
    torch.manual_seed(0)
    layer = nn.Conv2d(
        3, 4, kernel, stride=stride, padding=(kernel - 1) // 2, padding_mode="circular", dtype=torch.float64
    )
    truth = dense_norm(layer, (3, side, side))
    assert truth * ROUNDING <= certified_bound(layer, (3, side, side)) <= truth * (1 + 1e-5)


@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_zero_padding_is_tight_up_to_the_riesz_factor(kernel):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, kernel, padding=(kernel - 1) // 2, dtype=torch.float64)
    grid = [16 * (kernel - 1)] * 2
    circle = symbol_norm(layer.weight.detach(), (1, 1), grid)
    factor = 1.001 * riesz_factor((kernel, kernel), grid)
    assert circle * ROUNDING <= certified_bound(layer, (3, 8, 8)) <= factor * circle


def test_grouped_convolution_has_the_largest_norm_of_its_groups():
    layer = nn.Conv2d(4, 4, 1, groups=2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.cat([torch.eye(2), 3 * torch.eye(2)])[:, :, None, None])
    assert certified_bound(layer, (4, 3, 3)) == pytest.approx(3, rel=1e-5)


@given(convolutions(max_groups=1))
@settings(max_examples=40, deadline=None)
def test_bound_of_conv_norm_holds_for_any_geometry_and_padding(case):
    layer, shape = case
    for stride, affine in (("paper", False), ("strided", True)):
        normalized = (
            build_normalization("conv_norm", stride=stride, affine=affine).normalize(copy.deepcopy(layer)).double()
        )
        if normalized.affine is not None:
            nn.init.normal_(normalized.affine.weight)
        truth = dense_norm(normalized.eval(), shape)
        assert certified_bound(normalized, shape) >= truth * ROUNDING


def test_circular_conv_norm_is_exact():
    torch.manual_seed(0)
    layer = build_normalization("conv_norm", affine=False, batch_norm=True).normalize(
        nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular")
    )
    layer = layer.double().eval()
    truth = dense_norm(layer, (3, 8, 8))
    assert certified_bound(layer, (3, 8, 8)) == pytest.approx(truth, rel=1e-4)
    assert certified_bound(layer.train(), (3, 8, 8)) == math.inf  # batch norm in training mode has no bound


@pytest.mark.parametrize("name", sorted(set(NORMALIZATIONS) - {"gradient"}))
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2)])
def test_bound_holds_with_every_normalization(name, kernel, stride):
    torch.manual_seed(0)
    layer = build_normalization(name).normalize(nn.Conv2d(3, 6, kernel, stride=stride, padding=1).double()).eval()
    truth = dense_norm(layer, (3, 8, 8))
    assert truth * (1 - 1e-6) <= certified_bound(layer, (3, 8, 8)) <= 2 * truth


@pytest.mark.parametrize(
    ("layer", "bound"),
    [
        (nn.ReLU(), 1),
        (nn.LeakyReLU(0.2), 1),
        (nn.LeakyReLU(3.0), 3),
        (nn.Sigmoid(), 0.25),
        (nn.AvgPool2d(2), 0.5),
        (nn.MaxPool2d(2), 1),
        (nn.MaxPool2d(3, stride=2), 2),
        (nn.MaxPool2d(2, dilation=2), 2),
        (nn.LayerNorm(4), math.inf),
        (nn.GroupNorm(2, 4), math.inf),
        (nn.InstanceNorm2d(4), math.inf),
        (nn.MultiheadAttention(4, 1), math.inf),
        (nn.BatchNorm2d(4).train(), math.inf),
    ],
    ids=str,
)
def test_layers_without_kernel(layer, bound):
    assert certified_bound(layer, (4, 8, 8)) == pytest.approx(bound, rel=1e-5)


def test_batch_norm_in_evaluation():
    norm = nn.BatchNorm2d(2).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -3.0]))
        norm.running_var.copy_(torch.tensor([1.0, 4.0]))
    assert certified_bound(norm, (2, 4, 4)) == pytest.approx(3 / (4 + 1e-5) ** 0.5, rel=1e-6)


def test_module_with_its_own_bound():
    linear = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(4 * torch.eye(3))
    assert certified_bound(HalfOf(linear), (3,)) == pytest.approx(2, rel=1e-5)


def test_diverged_layer_has_no_bound():
    layer = nn.Conv2d(2, 2, 3)
    nn.init.constant_(layer.weight, float("nan"))
    assert certified_bound(layer, (2, 5, 5)) == math.inf


@pytest.mark.parametrize("name", sorted(NORMALIZATIONS))
def test_network_is_not_changed(name):
    torch.manual_seed(0)
    options = DISCRIMINATORS.get("dcgan")(width=4, normalization=build_normalization(name))
    D = build_discriminator(options, ImageShape(1, 16)).train()
    before = copy.deepcopy(D.state_dict())
    certified_bound(D, (1, 16, 16))
    assert all(module.training for module in D.modules())
    for key, value in D.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 5, 2)])
def test_adaptive_average_pooling(shape):
    pool = nn.AdaptiveAvgPool2d((1, 1))
    assert certified_bound(pool, shape) == pytest.approx(dense_norm(pool, shape))
    assert certified_bound(nn.AdaptiveAvgPool2d(1), shape) == certified_bound(pool, shape)
