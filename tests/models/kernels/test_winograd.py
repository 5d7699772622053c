"""models/winograd.py against PyTorch's convolution, and where it is used."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from models import ImageShape
from models.kernels import winograd
from models.kernels.fused import convolve
from models.networks.resnet import ResNetDiscriminatorConfig, ResNetGeneratorConfig
from models.normalizations import build_normalization
from models.normalizations.conv_norm import ConvNorm

TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def everywhere(monkeypatch):
    """Let it pay for layers of any size, in double precision, too."""
    monkeypatch.setattr(winograd, "FEWEST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "SMALLEST", dict.fromkeys([*winograd.SMALLEST, torch.float64], 1))


def channels_last(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def wide_layer(channels: int = 128) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)).item()


def results_of(function, leaves: list[torch.Tensor], padding: int) -> list[torch.Tensor]:
    """Return the output, its gradients, and what a gradient penalty gives to input and weight."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    output = function(*leaves, padding=padding)
    cotangent = torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).view(output.shape)
    gradients = torch.autograd.grad(output.square(), leaves, cotangent, create_graph=True)
    return [output, *gradients, *torch.autograd.grad(gradients[0].square().sum(), leaves[:2])]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_convolution_over_geometry(data):
    draw, padding = data.draw, data.draw(st.integers(0, 2))
    size = draw(st.tuples(*[st.integers(1, 13)] * 2))
    assume(min(size) + 2 * padding >= 3)
    batch, inputs, outputs = draw(st.tuples(*[st.integers(1, 5)] * 3))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    # All positive: where sums cancel, the rounding of either form is large beside what is left.
    leaves = [torch.rand(shape, dtype=dtype) for shape in ((batch, inputs, *size), (outputs, inputs, 3, 3), (outputs,))]
    if draw(st.booleans()):
        leaves[0] = leaves[0].contiguous(memory_format=torch.channels_last)
    ours, plain = (results_of(function, leaves, padding) for function in (winograd.conv3x3, F.conv2d))
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(ours, plain, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) < TOLERANCE[dtype]


def test_a_batch_in_many_parts_equals_the_convolution(monkeypatch):
    leaves = [torch.rand(7, 3, 9, 6, dtype=torch.double), torch.rand(2, 3, 3, 3).double(), torch.rand(2).double()]
    plain = results_of(F.conv2d, leaves, 1)
    for at_once in (1, 12, 31):  # an image is 6 tiles
        monkeypatch.setattr(winograd, "TILES_AT_ONCE", at_once)
        for a, b in zip(results_of(winograd.conv3x3, leaves, 1), plain, strict=True):
            assert relative_error(a, b) < TOLERANCE[torch.double]


@pytest.mark.filterwarnings("ignore:.*jit.script.*is deprecated")  # PyTorch's own, at its first forward-mode
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_derivatives(padding):
    leaves = [
        torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in ((2, 2, 4, 5), (1, 2, 3, 3), (1,))
    ]
    function = partial(winograd.conv3x3, padding=padding)
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("in_dims", [(0, None, None), (0, 0, 0), (None, 0, None)])
def test_vectorized_jacobian(in_dims):
    leaves = [torch.randn(shape, dtype=torch.double) for shape in ((1, 2, 4, 4), (1, 2, 3, 3), (1,))]
    leaves = [leaf if dim is None else leaf.expand(3, *leaf.shape) for leaf, dim in zip(leaves, in_dims, strict=True)]

    def jacobians(function):
        of = torch.func.jacrev(partial(function, padding=1), argnums=(0, 1, 2))
        return torch.func.vmap(of, in_dims)(*leaves)

    for a, b in zip(jacobians(winograd.conv3x3), jacobians(F.conv2d), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def errors_of_a_wide_layer(dtype: torch.dtype) -> list[tuple[float, float]]:
    """Return the errors (ours, PyTorch's) of output, input's and weight's gradient in SNGAN's widest layer."""
    torch.manual_seed(0)  # the same each time that it is called
    exact = [
        channels_last(4, 256, 16, 16).relu().to(dtype).double(),
        torch.randn(256, 256, 3, 3).to(dtype).double() / 64,
    ]
    cotangent = channels_last(4, 256, 16, 16).to(dtype)

    def values(function, precision):
        x, weight = (leaf.to(precision).requires_grad_() for leaf in exact)
        output = function(x, weight, None, padding=1)
        return [output, *torch.autograd.grad(output, (x, weight), cotangent.to(precision))]

    truth, ours, plain = values(F.conv2d, torch.double), values(winograd.conv3x3, dtype), values(F.conv2d, dtype)
    return [(relative_error(a, t), relative_error(b, t)) for a, b, t in zip(ours, plain, truth, strict=True)]


def test_float32_rounds_at_1e_6():
    assert all(ours < 1.5e-6 for ours, _ in errors_of_a_wide_layer(torch.float32))


def test_bfloat16_rounds_more():
    for ours, plain in errors_of_a_wide_layer(torch.bfloat16):
        assert 0.0016 < plain < 0.0017
        assert 0.013 < ours < 0.017


def test_the_points_halve_the_rounding_of_the_usual_ones(monkeypatch):
    ours = errors_of_a_wide_layer(torch.float32)
    monkeypatch.setattr(winograd, "POINTS", (0.0, 1.0, -1.0, 2.0, -2.0))
    winograd._matrices.cache_clear()
    usual = errors_of_a_wide_layer(torch.float32)
    winograd._matrices.cache_clear()
    for (a, _), (b, _) in zip(ours, usual, strict=True):
        assert a < 0.6 * b


# Where it is used


def test_a_wide_plain_layer_is_convolved_so():
    layer, x = wide_layer(), channels_last(8, 128, 32, 32)
    plain = layer(x)
    layer.forward = None
    torch.testing.assert_close(convolve(layer, x), plain, rtol=0, atol=1e-5)


def hooked(layer: nn.Conv2d) -> nn.Conv2d:
    layer.register_forward_hook(lambda *_: None)
    return layer


class Traced(torch.Tensor):
    """A tensor that does more than compute."""


KEPT = {  # layer, input: each is one thing away from what is convolved so
    "few channels": (lambda: wide_layer(96), lambda: channels_last(16, 96, 32, 32)),
    "few outputs": (lambda: nn.Conv2d(128, 96, 3, padding=1), lambda: channels_last(16, 128, 32, 32)),
    "few tiles": (wide_layer, lambda: channels_last(7, 128, 32, 32)),
    "contiguous": (wide_layer, lambda: torch.randn(8, 128, 32, 32)),
    "double": (lambda: wide_layer().double(), lambda: channels_last(8, 128, 32, 32, dtype=torch.double)),
    "tensor": (wide_layer, lambda: channels_last(8, 128, 32, 32).as_subclass(Traced)),
    "hook": (lambda: hooked(wide_layer()), lambda: channels_last(8, 128, 32, 32)),
    "stride": (lambda: nn.Conv2d(128, 128, 3, 2, 1), lambda: channels_last(8, 128, 32, 32)),
    "groups": (lambda: nn.Conv2d(128, 128, 3, 1, 1, groups=2), lambda: channels_last(8, 128, 32, 32)),
    "kernel": (lambda: nn.Conv2d(128, 128, 5, 1, 1), lambda: channels_last(8, 128, 32, 32)),
    "padding": (lambda: nn.Conv2d(128, 128, 3, 1, (1, 0)), lambda: channels_last(8, 128, 32, 32)),
}


@pytest.mark.parametrize("name", list(KEPT))
def test_what_keeps_pytorchs_convolution(name):
    layer, x = (build() for build in KEPT[name])
    calls, forward = [], layer.forward
    layer.forward = lambda x: calls.append(x) or forward(x)
    with torch.no_grad():
        assert torch.equal(convolve(layer, x), forward(x))
    assert len(calls) == 1


def test_a_compiled_layer_keeps_pytorchs_convolution():
    torch.compiler.reset()
    layer, x = wide_layer(), channels_last(8, 128, 32, 32)
    output = torch.compile(convolve, fullgraph=True, backend="eager")(layer, x)
    assert torch.equal(output, layer(x))


def test_autocast(everywhere):
    layer = nn.Conv2d(4, 6, 3, padding=1)
    x = channels_last(2, 4, 8, 8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        plain = layer(x)
        layer.forward = None
        output = convolve(layer, x)
        within = torch.autograd.grad(output.sum(), layer.weight, retain_graph=True)[0]
    assert torch.equal(within, torch.autograd.grad(output.sum(), layer.weight, retain_graph=True)[0])
    assert output.dtype == plain.dtype == torch.bfloat16
    rounded = [t.bfloat16() for t in (x, layer.weight, layer.bias)]
    assert torch.equal(output, winograd.conv3x3(*rounded, padding=1))
    assert relative_error(output, plain) < 0.1
    for a, b in zip(*(torch.autograd.grad(y.sum(), [x, *layer.parameters()]) for y in (output, plain)), strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert relative_error(a, b) < 0.1


def test_spectral_normalization_moves_once(everywhere):
    layer = build_normalization("spectral").normalize(nn.Conv2d(4, 6, 3, padding=1)).train()
    other, x = copy.deepcopy(layer), channels_last(2, 4, 8, 8)
    for _ in range(2):
        output, plain = convolve(layer, x), other(x)
        assert not torch.equal(output, plain)
        torch.testing.assert_close(output, plain)
    for (name, value), moved in zip(layer.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, moved), name


def test_conv_norm_uses_it(everywhere, monkeypatch):
    layer, x = (
        ConvNorm().normalize(nn.Conv2d(3, 4, 3, padding=1).double()),
        channels_last(2, 3, 8, 8, dtype=torch.double),
    )
    leaves = [x.requires_grad_(), *layer.parameters()]

    def values():
        output = layer(x)
        return [output, *torch.autograd.grad(output.square().sum(), leaves)]

    ours = values()
    monkeypatch.setattr(winograd, "pays", lambda *_: False)
    for a, b in zip(ours, values(), strict=True):
        assert not torch.equal(a, b)
        assert relative_error(a, b) < 1e-12


@pytest.mark.parametrize("normalization", ["none", "spectral", "conv_norm"])
def test_networks_are_the_same(normalization, everywhere, monkeypatch):
    """Logits of a generator and a discriminator, and the gradients of all parameters."""
    image = ImageShape(3, 16)
    discriminator = build_normalization(normalization).apply(ResNetDiscriminatorConfig(width=8).build(image))
    pair = nn.Sequential(ResNetGeneratorConfig(width=8).build(image), discriminator).double()
    pair.to(memory_format=torch.channels_last)
    z = torch.randn(4, pair[0].project.in_features, dtype=torch.double)

    def values():
        network = copy.deepcopy(pair)
        logits = network(z)
        return [logits, *torch.autograd.grad(logits.square().sum(), list(network.parameters()))]

    ours = values()
    monkeypatch.setattr(winograd, "pays", lambda *_: False)
    plain = values()
    assert not torch.equal(ours[0], plain[0])
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * plain[1].abs().max().item())
