"""Bounds of PyTorch's modules without kernel, by brute force: no pair of points has a larger ratio."""

import math

import pytest
import torch
from hunting import steepest_ratio
from torch import nn
from torch.nn import functional as F

from metrics.lipschitz import certified_bound


class GroupSort(nn.Module):
    """Sorts groups of 4 channels (Anil et al., ICML 2019)."""

    def forward(self, x):
        return x.unflatten(1, (-1, 4)).sort(dim=2).values.flatten(1, 2)


class MaxMin(nn.Module):
    """Sorts pairs of channels."""

    def forward(self, x):
        a, b = x.split(x.shape[1] // 2, dim=1)
        return torch.cat([torch.max(a, b), torch.min(a, b)], dim=1)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


MODULES = [
    (nn.PReLU(), 1), (nn.PReLU(8, init=-1.7), 1.7), (nn.LeakyReLU(-3.0), 3), (nn.ReLU6(), 1), (nn.ELU(), 1),
    (nn.ELU(2.5), 2.5), (nn.SELU(), 1.7581), (nn.CELU(0.3), 1), (nn.GELU(), 1.1290), (nn.GELU("tanh"), 1.1290),
    (nn.SiLU(), 1.0999), (nn.Mish(), 1.0885), (nn.Hardswish(), 1.5), (nn.Hardsigmoid(), 1 / 6), (nn.Hardtanh(-2, 3), 1),
    (nn.Sigmoid(), 0.25), (nn.LogSigmoid(), 1), (nn.Tanh(), 1), (nn.Softplus(), 1), (nn.Softplus(beta=3), 1),
    (nn.Softsign(), 1), (nn.Tanhshrink(), 1), (nn.Softshrink(), 1), (nn.RReLU(0.5, 3.5), 2),
    (nn.Threshold(0.0, 0.0), 1),
    (nn.Softmax(1), 0.5), (nn.Softmin(1), 0.5), (nn.Softmax2d(), 0.5), (nn.LogSoftmax(1), math.sqrt(8)),
    (GroupSort(), 1), (MaxMin(), 1), (nn.Identity(), 1), (nn.Dropout(), 1), (nn.Dropout2d(), 1), (nn.AlphaDropout(), 1),
    (nn.FeatureAlphaDropout(), 1), (nn.Upsample(scale_factor=2), 2), (nn.Upsample(scale_factor=3.3), 4),
    (nn.Upsample(size=(6, 9)), math.sqrt(6)), (nn.Upsample(scale_factor=2, mode="bilinear"), 2),
    (nn.Upsample(scale_factor=3, mode="bilinear", align_corners=True), None), (nn.ZeroPad2d(2), 1),
    (nn.ConstantPad2d((1, 0, 2, 1), 7.0), 1), (nn.ReflectionPad2d(2), 3),
    (nn.ReplicationPad2d((2, 0, 1, 0)), math.sqrt(6)),
    (nn.CircularPad2d(1), 2), (nn.ChannelShuffle(2), 1), (nn.PixelShuffle(2), 1), (nn.PixelUnshuffle(2), 1),
    (nn.AdaptiveAvgPool2d(1), 0.25), (nn.AdaptiveAvgPool2d((3, 2)), None), (nn.AdaptiveMaxPool2d(2), 1),
    (nn.AdaptiveMaxPool2d(3), 2), (nn.AvgPool2d(2), 0.5), (nn.AvgPool2d(3, 2, 1, ceil_mode=True), None),
    (nn.AvgPool2d(3, 2, 1, count_include_pad=False), None), (nn.AvgPool2d(2, divisor_override=3), 2 / 3),
    (nn.AvgPool2d(2, 1), 1), (nn.MaxPool2d(3, 1, 1), 3), (nn.MaxPool2d(2, dilation=2, stride=2), None),
    (nn.Flatten(), 1), (nn.Unflatten(1, (2, 4)), 1), (nn.Fold((5, 5), (2, 2)), None), (nn.Unfold(2), 2),
]  # fmt: skip
"""With a constant that is nearly reached, None if the bound is not tight"""

FUNCTIONS = [
    (lambda x: F.silu(x, inplace=True), 1.0999), (lambda x: F.gelu(x), 1.1290), (lambda x: x.abs().neg().sin(), 1),
    (lambda x: torch.erf(x), 2 / math.sqrt(math.pi)), (lambda x: x.clamp(min=-1), 1), (lambda x: x.logsumexp(1), 1),
    (lambda x: x.clamp(torch.zeros(4), torch.ones(4)), 1), (lambda x: x.topk(3, dim=1).values, 1),
    (lambda x: x.flatten(1).norm(dim=1), 1), (lambda x: x.amax((2, 3)), 1), (lambda x: x.minimum(torch.zeros(())), 1),
    (lambda x: x[:, :1].maximum(torch.zeros(1, 3, 1, 1)), math.sqrt(3)), (lambda x: x.cumsum(1), None),
    (lambda x: x.sum((2, 3)), 4), (lambda x: (x * torch.arange(4.0)).sum(3), math.sqrt(14)),
    (lambda x: x.repeat(1, 2, 1, 1), math.sqrt(2)), (lambda x: x[:, None].expand(-1, 3, -1, -1, -1), math.sqrt(3)),
    (lambda x: x / torch.tensor([2.0, 4.0]).repeat(2), 0.5), (lambda x: 3 - x, 3 - 2),
]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "constant"),
    [*MODULES, *((Function(function), constant) for function, constant in FUNCTIONS)],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_no_pair_of_points_has_a_larger_ratio(module, constant):
    shape = (8, 16) if isinstance(module, nn.Fold) else (8, 4, 4)
    module = module.double().eval()
    bound = certified_bound(module, shape)
    found = max(steepest_ratio(module, shape, starts=12, steps=15, scale=scale) for scale in (0.3, 4))
    assert found <= bound * (1 + 1e-9)
    if constant is not None:
        assert bound == pytest.approx(constant, abs=1e-4)
    else:
        assert bound <= 2.1 * found


def test_derivatives_are_largest_where_the_constants_say():
    x = torch.linspace(-30, 30, 600001, dtype=torch.float64, requires_grad=True)
    for module, constant in MODULES[:25]:
        if isinstance(module, nn.PReLU) and module.num_parameters > 1:
            continue
        (slope,) = torch.autograd.grad(module.double().eval()(x).sum(), x)
        assert slope.abs().max().item() <= certified_bound(module, (8, 4, 4)) * (1 + 1e-7), module
        assert slope.abs().max().item() == pytest.approx(constant, abs=1e-4), module


@pytest.mark.parametrize(
    "module",
    [nn.Softplus(threshold=0.01), nn.Softplus(threshold=3), nn.Hardshrink(), nn.Threshold(0.0, 1.0), nn.CELU(-1.0),
     nn.GLU(1), nn.LayerNorm([8, 4, 4]), nn.InstanceNorm2d(8), nn.LocalResponseNorm(2),
     nn.Upsample(scale_factor=2, mode="bicubic")],
    ids=str,
)  # fmt: skip
def test_modules_without_a_constant(module):
    assert certified_bound(module.eval(), (8, 4, 4)) == math.inf


def test_log_softmax_of_many_classes_nearly_has_the_constant():
    logits = torch.zeros(10, dtype=torch.float64)
    logits[0] = 30
    jacobian = torch.autograd.functional.jacobian(nn.LogSoftmax(0), logits)
    norm = torch.linalg.matrix_norm(jacobian, 2).item()
    assert norm == pytest.approx(math.sqrt(10), rel=1e-6)
    assert norm <= certified_bound(nn.LogSoftmax(1), (10,)) == math.sqrt(10)
