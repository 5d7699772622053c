"""Winograd's algorithm against PyTorch's convolution, and where it is used."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from models import ImageShape
from models.kernels import Conv2d, plain_kernels, winograd
from models.networks.resnet import ResNetDiscriminatorConfig, ResNetGeneratorConfig
from models.normalizations import build_normalization
from models.normalizations.conv_norm import ConvNorm

TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def channels_last(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def wide_layer(channels: int = 128) -> Conv2d:
    return Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)


def convolve_plain(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with plain_kernels():
        return layer(x)


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)).item()


def get_results(function, leaves: list[torch.Tensor], padding: int) -> list[torch.Tensor]:
    """Return the output, its gradients, and the gradients of a gradient penalty with respect to input and weight."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    output = function(*leaves, padding=padding)
    cotangent = torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).view(output.shape)
    gradients = torch.autograd.grad(output.square(), leaves, cotangent, create_graph=True)
    return [output, *gradients, *torch.autograd.grad(gradients[0].square().sum(), leaves[:2])]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_convolution_for_any_geometry(data):
    draw, padding = data.draw, data.draw(st.integers(0, 2))
    size = draw(st.tuples(*[st.integers(1, 13)] * 2))
    assume(min(size) + 2 * padding >= 3)
    batch, inputs, outputs = draw(st.tuples(*[st.integers(1, 5)] * 3))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    # In [0.5, 1.5]: where sums cancel, or the only tap inside the map is small, rounding errors are large relative to
    # the result.
    shapes = (batch, inputs, *size), (outputs, inputs, 3, 3), (outputs,)
    leaves = [0.5 + torch.rand(shape, dtype=dtype) for shape in shapes]
    if draw(st.booleans()):
        leaves[0] = leaves[0].contiguous(memory_format=torch.channels_last)
    fast, plain = (get_results(function, leaves, padding) for function in (winograd.conv3x3, F.conv2d))
    assert fast[0].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(fast, plain, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) < TOLERANCE[dtype]


def test_batch_split_into_parts(monkeypatch):
    leaves = [torch.rand(7, 3, 9, 6, dtype=torch.double), torch.rand(2, 3, 3, 3).double(), torch.rand(2).double()]
    plain = get_results(F.conv2d, leaves, 1)
    for at_once in (1, 12, 31):  # an image has 6 tiles
        monkeypatch.setattr(winograd, "TILES_AT_ONCE", at_once)
        for a, b in zip(get_results(winograd.conv3x3, leaves, 1), plain, strict=True):
            assert relative_error(a, b) < TOLERANCE[torch.double]


@pytest.mark.filterwarnings("ignore:.*jit.script.*is deprecated")  # from PyTorch's forward mode
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_derivatives(padding):
    leaves = [
        torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in ((2, 2, 4, 5), (1, 2, 3, 3), (1,))
    ]
    function = partial(winograd.conv3x3, padding=padding)
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("in_dims", [(0, None, None), (0, 0, 0), (None, 0, None)])
def test_vectorized_jacobian(in_dims):
    leaves = [torch.randn(shape, dtype=torch.double) for shape in ((1, 2, 4, 4), (1, 2, 3, 3), (1,))]
    leaves = [leaf if dim is None else leaf.expand(3, *leaf.shape) for leaf, dim in zip(leaves, in_dims, strict=True)]

    def jacobians(function):
        of = torch.func.jacrev(partial(function, padding=1), argnums=(0, 1, 2))
        return torch.func.vmap(of, in_dims)(*leaves)

    for a, b in zip(jacobians(winograd.conv3x3), jacobians(F.conv2d), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def wide_layer_errors(dtype: torch.dtype) -> list[tuple[float, float]]:
    """Return the errors (Winograd's, PyTorch's) of the output and both gradients in SNGAN's widest layer."""
    torch.manual_seed(0)  # every call uses the same numbers
    exact = [
        channels_last(4, 256, 16, 16).relu().to(dtype).double(),
        torch.randn(256, 256, 3, 3).to(dtype).double() / 64,
    ]
    cotangent = channels_last(4, 256, 16, 16).to(dtype)

    def values(function, precision):
        x, weight = (leaf.to(precision).requires_grad_() for leaf in exact)
        output = function(x, weight, None, padding=1)
        return [output, *torch.autograd.grad(output, (x, weight), cotangent.to(precision))]

    truth, fast, plain = values(F.conv2d, torch.double), values(winograd.conv3x3, dtype), values(F.conv2d, dtype)
    return [(relative_error(a, t), relative_error(b, t)) for a, b, t in zip(fast, plain, truth, strict=True)]


def test_float32_rounding():
    # The largest error is that of the input gradient: 1.6e-6 on an Intel Xeon with AMX, below 1.5e-6 on an AMD EPYC.
    # With the usual interpolation points it is 3.4e-6.
    bounds = 1.5e-6, 1.8e-6, 1.5e-6  # of the output and both gradients
    assert all(fast < bound for (fast, _), bound in zip(wide_layer_errors(torch.float32), bounds, strict=True))


def test_bfloat16_rounding():
    for fast, plain in wide_layer_errors(torch.bfloat16):
        assert 0.0016 < plain < 0.0017
        assert 0.013 < fast < 0.017


def test_points_halve_the_rounding_errors(monkeypatch):
    chosen = wide_layer_errors(torch.float32)
    monkeypatch.setattr(winograd, "POINTS", (0.0, 1.0, -1.0, 2.0, -2.0))
    usual = wide_layer_errors(torch.float32)
    for (a, _), (b, _) in zip(chosen, usual, strict=True):
        assert a < 0.6 * b


# Where it is used


def test_wide_layer_uses_winograd(recorded_strides):
    layer, x = wide_layer(), channels_last(8, 128, 32, 32)
    assert recorded_strides(layer, x) == []
    torch.testing.assert_close(layer(x), convolve_plain(layer, x), rtol=0, atol=1e-5)


class Traced(torch.Tensor):
    """A subclass of Tensor."""


PLAIN = {  # layer, input: each differs in one respect from a layer that uses Winograd's algorithm
    "few channels": (lambda: wide_layer(96), lambda: channels_last(16, 96, 32, 32)),
    "few outputs": (lambda: Conv2d(128, 96, 3, padding=1), lambda: channels_last(16, 128, 32, 32)),
    "few tiles": (wide_layer, lambda: channels_last(7, 128, 32, 32)),
    "contiguous": (wide_layer, lambda: torch.randn(8, 128, 32, 32)),
    "double": (lambda: wide_layer().double(), lambda: channels_last(8, 128, 32, 32, dtype=torch.double)),
    "tensor": (wide_layer, lambda: channels_last(8, 128, 32, 32).as_subclass(Traced)),
    "layer": (lambda: nn.Conv2d(128, 128, 3, padding=1), lambda: channels_last(8, 128, 32, 32)),
    "stride": (lambda: Conv2d(128, 128, 3, 2, 1), lambda: channels_last(8, 128, 32, 32)),
    "groups": (lambda: Conv2d(128, 128, 3, 1, 1, groups=2), lambda: channels_last(8, 128, 32, 32)),
    "kernel": (lambda: Conv2d(128, 128, 5, 1, 1), lambda: channels_last(8, 128, 32, 32)),
    "padding": (lambda: Conv2d(128, 128, 3, 1, (1, 0)), lambda: channels_last(8, 128, 32, 32)),
}


@pytest.mark.parametrize("name", list(PLAIN))
def test_other_layers_use_pytorchs_convolution(name, recorded_strides):
    layer, x = (build() for build in PLAIN[name])
    with torch.no_grad():
        output = layer(x)
        assert len(recorded_strides(layer, x)) == 1
        assert torch.equal(output, convolve_plain(layer, x))


def test_plain_kernels_use_pytorchs_convolution(recorded_strides):
    layer, x = wide_layer(), channels_last(8, 128, 32, 32)
    with plain_kernels(), torch.no_grad():
        assert recorded_strides(layer, x) == [(1, 1)]
        assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))


def test_compiled_layer_uses_pytorchs_convolution():
    torch.compiler.reset()
    layer, x = wide_layer(), channels_last(8, 128, 32, 32)
    output = torch.compile(layer, fullgraph=True, backend="eager")(x)
    assert torch.equal(output, convolve_plain(layer, x))
    assert not torch.equal(output, layer(x))


def test_autocast(winograd_everywhere):
    layer = Conv2d(4, 6, 3, padding=1)
    x = channels_last(2, 4, 8, 8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        plain, output = convolve_plain(layer, x), layer(x)
        inside = torch.autograd.grad(output.sum(), layer.weight, retain_graph=True)[0]
    assert torch.equal(inside, torch.autograd.grad(output.sum(), layer.weight, retain_graph=True)[0])
    assert output.dtype == plain.dtype == torch.bfloat16
    rounded = [t.bfloat16() for t in (x, layer.weight, layer.bias)]
    assert torch.equal(output, winograd.conv3x3(*rounded, padding=1))
    assert relative_error(output, plain) < 0.1
    for a, b in zip(*(torch.autograd.grad(y.sum(), [x, *layer.parameters()]) for y in (output, plain)), strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert relative_error(a, b) < 0.1


def test_spectral_normalization_does_one_power_iteration(winograd_everywhere):
    layer = build_normalization("spectral").normalize(Conv2d(4, 6, 3, padding=1)).train()
    other, x = copy.deepcopy(layer), channels_last(2, 4, 8, 8)
    for _ in range(2):
        output, plain = layer(x), convolve_plain(other, x)
        assert not torch.equal(output, plain)
        torch.testing.assert_close(output, plain)
    for (name, value), expected in zip(layer.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


def test_conv_norm_uses_winograd(winograd_everywhere):
    layer, x = (
        ConvNorm().normalize(nn.Conv2d(3, 4, 3, padding=1).double()),
        channels_last(2, 3, 8, 8, dtype=torch.double),
    )
    leaves = [x.requires_grad_(), *layer.parameters()]

    def values():
        output = layer(x)
        return [output, *torch.autograd.grad(output.square().sum(), leaves)]

    fast = values()
    with plain_kernels():
        plain = values()
    for a, b in zip(fast, plain, strict=True):
        assert not torch.equal(a, b)
        assert relative_error(a, b) < 1e-12


@pytest.mark.parametrize("normalization", ["none", "spectral", "conv_norm"])
def test_networks_equal_the_plain_networks(normalization, winograd_everywhere):
    """Compare the logits of a generator and a discriminator, and the gradients of all parameters."""
    image = ImageShape(3, 16)
    discriminator = build_normalization(normalization).apply(ResNetDiscriminatorConfig(width=8).build(image))
    pair = nn.Sequential(ResNetGeneratorConfig(width=8).build(image), discriminator).double()
    pair.to(memory_format=torch.channels_last)
    z = torch.randn(4, pair[0].project.in_features, dtype=torch.double)

    def values():
        network = copy.deepcopy(pair)
        logits = network(z)
        return [logits, *torch.autograd.grad(logits.square().sum(), list(network.parameters()))]

    fast = values()
    with plain_kernels():
        plain = values()
    assert not torch.equal(fast[0], plain[0])
    for a, b in zip(fast, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * plain[1].abs().max().item())
