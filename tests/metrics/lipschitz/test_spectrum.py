import math
from pathlib import Path

import pytest
import torch
from geometry import convolutions, dense_norm
from hypothesis import given, settings
from torch import nn
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from gan.config import Config
from gan.options.loader import load_config
from metrics.lipschitz import LipschitzTracker, frequencies, singular_values, stable_rank
from metrics.lipschitz.spectrum import is_exact
from models import ImageShape, build_discriminator
from models.normalizations.conv_norm import ConvNorm

CONFIGS = Path(__file__).parents[3] / "configs"


def dense_values(layer, shape):
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    with torch.no_grad():
        return torch.linalg.svdvals((layer(basis) - layer(torch.zeros_like(basis[:1]))).flatten(1))


def conv(*args, **options):
    torch.manual_seed(0)
    return nn.Conv2d(*args, dtype=torch.float64, **options)


def batch_norm(channels):
    norm = nn.BatchNorm2d(channels, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(channels) - 1)
        norm.running_var.fill_(4.0)
    return norm


CIRCULAR = {"padding": 1, "padding_mode": "circular"}
WITHOUT_PADDING = {  # layers whose singular values are those of a circular convolution, and input shapes
    "circular": (conv(2, 3, 3, **CIRCULAR), (2, 6, 5)),
    "stride": (conv(2, 3, 4, stride=2, **CIRCULAR), (2, 6, 8)),
    "stride on one axis": (conv(2, 9, 3, stride=(1, 3), **CIRCULAR), (2, 5, 6)),
    "dilation": (conv(3, 2, 3, dilation=2, padding=2, padding_mode="circular"), (3, 5, 6)),
    "groups": (conv(4, 6, 3, groups=2, **CIRCULAR), (4, 5, 4)),
    "depthwise": (conv(4, 4, 3, groups=4, **CIRCULAR), (4, 5, 4)),
    "kernel larger than the map": (conv(2, 3, 5, padding=2, padding_mode="circular"), (2, 3, 4)),
    "1x1": (conv(2, 5, 1), (2, 6, 7)),
    "strided 1x1": (conv(2, 5, 1, stride=2), (2, 6, 4)),
    "patches": (conv(2, 3, 2, stride=2), (2, 6, 4)),
    "gaps between patches": (conv(2, 9, (2, 1), stride=3), (2, 6, 9)),
    "transposed": (nn.ConvTranspose2d(2, 3, 2, stride=2, dtype=torch.float64), (2, 4, 3)),
    "transposed with gaps": (nn.ConvTranspose2d(2, 1, (2, 1), stride=3, dtype=torch.float64), (2, 4, 3)),
    "batch norm": (batch_norm(3), (3, 4, 5)),
    "transposed with groups": (nn.ConvTranspose2d(4, 6, 2, 2, groups=2, dtype=torch.float64), (4, 3, 3)),
    "one dimension": (nn.Conv1d(3, 4, 4, stride=2, dtype=torch.float64, **CIRCULAR), (3, 8)),
    "three dimensions": (nn.Conv3d(2, 2, 3, dtype=torch.float64, **CIRCULAR), (2, 3, 4, 5)),
    "linear": (nn.Linear(5, 3, dtype=torch.float64), (5,)),
    "linear on a sequence": (nn.Linear(5, 3, dtype=torch.float64), (4, 5)),
    "spectral_norm": (spectral_norm(conv(2, 3, 3, **CIRCULAR)), (2, 6, 5)),
    "weight_norm": (weight_norm(conv(2, 3, 3, stride=2, **CIRCULAR)), (2, 6, 4)),
}


@pytest.mark.parametrize("name", WITHOUT_PADDING)
def test_large_convolution_without_padding_is_exact(name):
    layer, shape = WITHOUT_PADDING[name]
    layer.eval()
    assert is_exact(layer, shape, largest=1)
    torch.testing.assert_close(singular_values(layer, shape, largest=1), dense_values(layer, shape))


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("layer", "side"),
    [
        (ConvNorm(affine=True).normalize(conv(3, 5, 3, **CIRCULAR)), 6),
        (ConvNorm(affine=False, stride="strided").normalize(conv(4, 6, 4, stride=2, groups=2, **CIRCULAR)), 6),
        (ConvNorm().normalize(conv(3, 5, 4, stride=2, **CIRCULAR)), 6),
        (ConvNorm(batch_norm=True).normalize(conv(3, 5, 3, **CIRCULAR)).double(), 5),
        (ConvNorm().normalize(nn.Conv1d(3, 5, 4, stride=2, dtype=torch.float64, **CIRCULAR)), 8),
        (old_spectral_norm(conv(3, 5, 3, **CIRCULAR)), 6),
        (Doubled(3, 5, 3, dtype=torch.float64, **CIRCULAR), 6),
        (Doubled(4, 2, 4, stride=2, groups=2, dtype=torch.float64, **CIRCULAR), 8),
    ],
    ids=["conv_norm", "strided", "paper", "batch norm", "one dimension", "hook", "subclass", "strided subclass"],
)
def test_convolution_with_unknown_weight_is_measured_by_impulses(layer, side):
    layer.eval()
    shape = layer.in_channels, *[side] * len(layer.kernel_size)
    torch.testing.assert_close(singular_values(layer, shape, largest=1), dense_values(layer, shape))
    assert not is_exact(layer, shape, largest=1)  # it may have padding that a circular input does not show


def test_zero_padding_gives_the_circular_convolution():
    layer, circular = conv(2, 3, 3, padding=1), conv(2, 3, 3, **CIRCULAR)
    assert torch.equal(layer.weight, circular.weight)
    torch.testing.assert_close(singular_values(layer, (2, 6, 5), largest=1), dense_values(circular, (2, 6, 5)))
    assert not is_exact(layer, (2, 6, 5), largest=1)
    assert is_exact(layer, (2, 6, 5))
    transposed = nn.ConvTranspose2d(3, 2, 3, padding=1, dtype=torch.float64)  # the adjoint of `layer`
    transposed.weight = layer.weight
    torch.testing.assert_close(singular_values(transposed, (3, 6, 5), 1), dense_values(circular, (2, 6, 5)))


@given(convolutions())
@settings(max_examples=30, deadline=None)
def test_every_convolution_has_a_spectrum(case):
    layer, shape = case
    values = singular_values(layer, shape, largest=1)
    assert values.isfinite().all()
    torch.testing.assert_close(values, values.sort(descending=True).values)
    if is_exact(layer, shape, largest=1):
        assert values[0].item() == pytest.approx(dense_norm(layer, shape), rel=1e-9)


def test_expensive_convolution_is_measured_on_a_coarser_map(monkeypatch):
    layer = conv(3, 4, 3, **CIRCULAR)
    monkeypatch.setattr(frequencies, "COST", 1000)  # 3 x 3 x 4 operations for each frequency
    torch.testing.assert_close(singular_values(layer, (3, 8, 8), largest=1), dense_values(layer, (3, 4, 4)))
    assert not is_exact(layer, (3, 8, 8), largest=1)
    monkeypatch.setattr(frequencies, "COST", 10)
    assert singular_values(nn.Linear(8, 8), (8,), largest=1) is None


def test_responses_to_impulses_are_measured_on_a_smaller_map(monkeypatch):
    layer = old_spectral_norm(conv(3, 4, 3, **CIRCULAR)).eval()
    monkeypatch.setattr(frequencies, "RESPONSE", 3 * 4 * 64)
    torch.testing.assert_close(singular_values(layer, (3, 16, 16), largest=1), dense_values(layer, (3, 8, 8)))


def test_linear_layer():
    layer = nn.Linear(5, 3)
    torch.testing.assert_close(singular_values(layer, (5,)), torch.linalg.svdvals(layer.weight.detach().double()))


def test_convolution():
    layer = nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)
    values = singular_values(layer, (2, 6, 6))
    assert values[0].item() == pytest.approx(dense_norm(layer, (2, 6, 6)), rel=1e-9)
    assert len(values) == 2 * 36


def test_other_layer_is_measured_on_a_smaller_map():
    layer = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False)).double()
    values = singular_values(layer, (2, 32, 16), largest=2**12)
    assert len(values) == 2 * 8 * 4
    torch.testing.assert_close(values, dense_values(layer, (2, 8, 4)))
    assert singular_values(layer, (2, 7, 7), largest=10) is None


def test_layer_that_accepts_only_its_own_map_has_no_spectrum():
    layer = nn.Sequential(nn.Flatten(), nn.Linear(2 * 64, 3))
    assert singular_values(layer, (2, 8, 8), largest=100) is None
    kernel_of_the_whole_map = nn.Sequential(nn.Conv2d(2, 3, 4))
    assert singular_values(kernel_of_the_whole_map, (2, 4, 4), largest=10) is None


@pytest.mark.parametrize("large", [False, True])
def test_diverged_layer(large):
    layer = conv(2, 3, 3, padding=1)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = math.nan
    assert singular_values(layer, (2, 6, 6), 1 if large else 2**20).isnan().all()


def test_stable_rank():
    assert stable_rank(torch.ones(7)) == 7
    assert stable_rank(torch.tensor([3.0, 0, 0])) == 1
    assert stable_rank(torch.zeros(3)) == 0


def test_layer_that_is_not_affine():
    assert singular_values(nn.GELU(), (4,)).isnan().all()
    assert singular_values(nn.GroupNorm(1, 4), (4, 2, 2)).isnan().all()


@pytest.mark.parametrize(
    ("name", "side", "overrides"),
    [
        ("cifar10/r3gan", 32, ["discriminator.width=32"]),  # the basis, a 4x4 kernel on a 4x4 map, has no smaller map
        ("stl10/sngan_resnet_mimicry", 48, []),
    ],
)
def test_every_layer_of_a_recipe_has_a_spectrum(monkeypatch, name, side, overrides):
    def values_without_svd(matrices):
        return torch.zeros(*matrices.shape[:-2], min(matrices.shape[-2:]))

    config = load_config(Config, CONFIGS / f"{name}.yaml", overrides)
    D = build_discriminator(config.discriminator, ImageShape(3, side))
    tracker = LipschitzTracker(D, torch.zeros(1, 3, side, side))
    assert not tracker.unmeasured
    monkeypatch.setattr("metrics.lipschitz.spectrum._singular_values", values_without_svd)
    for path, layer in tracker.layers.items():
        shape = tracker.input_shapes[path]
        # The number of values is that of a dense matrix: none is measured on a smaller map.
        outputs = layer(torch.zeros(1, *shape)).numel()
        assert len(singular_values(layer, shape)) == min(math.prod(shape), outputs), path
