import itertools
import math

import pytest
import torch
from geometry import dense_norm
from torch import nn
from torch.nn import functional as F

from metrics.lipschitz import certified_bound, input_gradient_norms, steepest_slope
from models import DISCRIMINATORS, ImageShape, build_discriminator
from models.activation_norms import ACTIVATION_NORMS
from models.networks.r3gan import BilinearDown, BilinearUp
from models.normalizations import build_normalization
from tests.pairwise import pairwise_cover


def conv(*args, **options):
    torch.manual_seed(0)
    return nn.Conv2d(*args, **options, dtype=torch.float64)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.h = conv(3, 3, 3, padding=1)

    def forward(self, x):
        return x + self.h(F.relu(x))


def test_residual_block_adds_one():
    block = Residual()
    assert certified_bound(block, (3, 8, 8)) == pytest.approx(1 + certified_bound(block.h), rel=1e-9)


def test_bounds_of_a_composition_are_multiplied():
    network = nn.Sequential(conv(3, 4, 3), nn.LeakyReLU(0.1), conv(4, 2, 3, stride=2), nn.Tanh())
    expected = certified_bound(network[0], (3, 12, 12)) * certified_bound(network[2], (4, 10, 10))
    assert certified_bound(network, (3, 12, 12)) == pytest.approx(expected, rel=1e-9)


class NormedAndPooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = conv(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4).double()
        nn.init.uniform_(self.norm.weight)

    def forward(self, x):
        return F.avg_pool2d(self.norm(self.first(x)), 2)


def test_chain_of_linear_maps_is_bounded_as_one_map():
    network = NormedAndPooled().eval()
    truth = dense_norm(network, (3, 8, 8))
    bound = certified_bound(network, (3, 8, 8))
    separate = certified_bound(network.first) * certified_bound(network.norm) * 0.5
    assert truth <= bound <= 1.15 * truth
    assert bound < 0.9 * separate


@pytest.mark.parametrize(
    "pool", [nn.AvgPool2d(3, 1), nn.AvgPool2d(2, 2, 1), nn.AvgPool2d(2), nn.AvgPool2d(3, 2, ceil_mode=True)]
)
def test_pooling_after_a_convolution(pool):
    network = nn.Sequential(conv(2, 3, 3, padding=1), pool)
    assert certified_bound(network, (2, 7, 7)) >= dense_norm(network, (2, 7, 7)) * (1 - 1e-9)


class Shared(nn.Module):
    """The result of the convolution is used twice, so the pooling must not be combined with it."""

    def __init__(self):
        super().__init__()
        self.first = conv(3, 4, 3, padding=1)

    def forward(self, x):
        h = self.first(x)
        return h.sum((1, 2, 3)) + F.avg_pool2d(h, 2).sum((1, 2, 3))


def test_shared_convolution():
    network = Shared()
    gradient = input_gradient_norms(network, torch.zeros(1, 3, 8, 8, dtype=torch.float64)).item()
    assert certified_bound(network, (3, 8, 8)) >= gradient


@pytest.mark.parametrize(
    ("function", "bound"),
    [
        (lambda x: x.sum((2, 3)), 8),
        (lambda x: x.mean((2, 3)), 1 / 8),
        (lambda x: 3 * x - x / 4, 3.25),
        (lambda x: F.interpolate(x, scale_factor=2), 2),
        (lambda x: torch.cat([x, 2 * x], 1), math.sqrt(5)),
        (lambda x: x.flatten(1).relu(), 1),
        (lambda x: F.avg_pool2d(x, 2), 0.5),
        (lambda x: x * x, math.inf),
        (lambda x: 1 / x, math.inf),
        (lambda x: F.avg_pool2d(x, 3, 1, 1), 1),
        (lambda x: x.exp(), math.inf),
        (lambda x: x.softmax(1), 0.5),
        (lambda x: x + x.mean((2, 3), keepdim=True), 1 + 1),
        (lambda x: x.mean((2, 3), keepdim=True) * torch.ones(8, 8), 1),
        (lambda x: torch.cat([x, x]), math.sqrt(2)),
        (lambda x: torch.add(x, other=x), 2),
        (lambda x: torch.mul(x, other=2.0), 2),
        (lambda x: x[:, [0, 0, 0]], math.sqrt(3)),
        (lambda x: x[:, 1:], 1),
        (lambda x: 5 * x.chunk(3, 1)[0], 5),
        (lambda x: x.max(1)[0], 1),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True), 15 / 7),
    ],
)
def test_functions(function, bound):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Identity()

        def forward(self, x):
            return function(self.part(x))

    assert certified_bound(Network(), (3, 8, 8)) == pytest.approx(bound, rel=1e-5)


def test_network_that_cannot_be_traced_has_no_bound():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Identity()

        def forward(self, x):
            return self.part(x) if x.sum() > 0 else 5 * x

    assert certified_bound(Branching(), (3, 8, 8)) == math.inf


DISCRIMINATOR_PARTS = [
    ["dcgan", "resnet", "sndcgan"],
    ["none", "spectral", "spectral_conv", "conv_norm"],
    ["none", "batch"],
    [None, 3],
]


@pytest.mark.parametrize(
    ("family", "normalization", "activation", "classes"), pairwise_cover([*itertools.product(*DISCRIMINATOR_PARTS)])
)
def test_bound_is_above_observed_slopes(family, normalization, activation, classes):
    torch.manual_seed(0)
    options = DISCRIMINATORS.get(family)(
        width=4, normalization=build_normalization(normalization), activation_norm=ACTIVATION_NORMS.get(activation)()
    )
    D = build_discriminator(options, ImageShape(3, 16, classes)).double().eval()
    y = None if classes is None else torch.tensor([0, 1, 2, 0])
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    bound = certified_bound(D, (3, 16, 16), None if y is None else y[:1])
    assert math.isfinite(bound)
    assert bound >= steepest_slope(D, x, y)
    assert bound >= input_gradient_norms(D, x, y).max().item()


@pytest.mark.parametrize("activation", ["layer", "instance", "group"])
def test_norms_without_a_bound(activation):
    options = DISCRIMINATORS.get("dcgan")(width=4, activation_norm=ACTIVATION_NORMS.get(activation)())
    assert certified_bound(build_discriminator(options, ImageShape(3, 16)).eval(), (3, 16, 16)) == math.inf


def test_attention_and_gradient_normalization_have_no_bound():
    attentive = DISCRIMINATORS.get("resnet")(width=8, attention=8)
    assert certified_bound(build_discriminator(attentive, ImageShape(3, 32)).eval(), (3, 32, 32)) == math.inf
    wrapped = DISCRIMINATORS.get("dcgan")(width=4, normalization=build_normalization("gradient"))
    assert certified_bound(build_discriminator(wrapped, ImageShape(3, 16)).eval(), (3, 16, 16)) == math.inf


def test_r3gan_has_a_bound():
    torch.manual_seed(0)
    options = DISCRIMINATORS.get("r3gan")(width=8, blocks=1, group_size=4)
    D = build_discriminator(options, ImageShape(3, 16)).double()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert steepest_slope(D, x) <= certified_bound(D, (3, 16, 16)) < math.inf


@pytest.mark.parametrize(("part", "norm"), [(BilinearUp(), 2), (BilinearDown(), 0.5)])
def test_resampling_of_r3gan(part, norm):
    truth = dense_norm(part.double(), (1, 16, 16))
    assert 0.9 * norm < truth <= norm
    assert certified_bound(part) == norm


def test_factor_selected_by_labels_has_no_bound():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gains = nn.Embedding(3, 4)

        def forward(self, x, y):
            return self.gains(y)[:, :, None, None] * x

    assert certified_bound(Scaled(), (4, 8, 8), torch.tensor([0])) == math.inf
