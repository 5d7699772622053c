"""Fused resampling against the plain form: convolution and resampling one after the other."""

import copy
from functools import partial
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional as F

from metrics.lipschitz import LipschitzTracker, certified_bound
from models import ImageShape
from models.kernels import Conv2d, conv_then_pool, plain_kernels, switch, upsample, upsample_then_conv
from models.kernels.switch import BILINEAR_SIDE
from models.networks.resnet import ResNetDiscriminatorConfig
from models.normalizations import build_normalization

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}  # the gradient of the bias reaches 1e-6, all others 6e-7


def plain_pool(layer, x):
    return F.avg_pool2d(layer(x), 2)


def plain_upsample(layer, x, mode):
    return layer(upsample(x, mode))


def blur_the_kernel(function):
    """Return the function with a blur of the kernel instead of the map, as on a GPU."""

    def call(layer, x):
        with mock.patch.dict(switch.FUSED_RESAMPLING, cpu=switch.FUSED_RESAMPLING["cuda"]):
            return function(layer, x)

    return call


PAIRS = {  # fused form, plain form
    "pool": (conv_then_pool, plain_pool),
    "nearest": (partial(upsample_then_conv, mode="nearest"), partial(plain_upsample, mode="nearest")),
    "bilinear": (partial(upsample_then_conv, mode="bilinear"), partial(plain_upsample, mode="bilinear")),
}
for kind in ("pool", "nearest"):
    PAIRS[f"{kind}, kernel"] = (blur_the_kernel(PAIRS[kind][0]), PAIRS[kind][1])


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)).item()


def compare(kind: str, layer: Conv2d, x: torch.Tensor, recorded_strides) -> None:
    """Compare outputs, gradients, and the gradients of a gradient penalty with respect to input and weight.

    All numbers are positive: where sums cancel, the rounding errors of both forms are large relative to the result.
    """
    fused, plain = PAIRS[kind]
    x = x.abs()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.abs_()
    assert (2, 2) in recorded_strides(fused, layer, x)
    assert recorded_strides(plain, layer, x) == [(1, 1)]
    results = []
    for function in (fused, plain):
        leaves = x.clone().requires_grad_(), *layer.parameters()
        output = function(layer, leaves[0])
        cotangent = torch.linspace(0.5, 1.5, output.numel(), dtype=x.dtype).view(output.shape)
        gradients = torch.autograd.grad(output.square(), leaves, cotangent, create_graph=True)
        penalties = torch.autograd.grad(gradients[0].square().sum(), leaves[:2])
        results.append([output, *gradients, *penalties])
    assert results[0][0].shape == results[1][0].shape
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < TOLERANCE[x.dtype]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_pooling_for_any_geometry(data, recorded_strides):
    draw, side = data.draw, st.integers(2, 9)
    groups, kernel = draw(st.sampled_from([1, 1, 2])), draw(st.tuples(*[st.sampled_from([1, 2, 3, 5])] * 2))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 2))
    size = draw(st.tuples(side, side))
    assume(all(n + 2 * p - k >= 1 for n, p, k in zip(size, padding, kernel, strict=True)))
    channels = [groups * draw(st.integers(1, 3)) for _ in range(2)]
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    layer = Conv2d(*channels, kernel, padding=padding, groups=groups, bias=draw(st.booleans()), dtype=dtype)
    x = torch.randn(draw(st.integers(1, 3)), channels[0], *size, dtype=dtype)
    compare(draw(st.sampled_from(["pool", "pool, kernel"])), layer, x, recorded_strides)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_upsampling_for_any_geometry(data, recorded_strides):
    draw = data.draw
    mode = draw(st.sampled_from(["nearest", "nearest, kernel", "bilinear"]))
    side = st.integers(BILINEAR_SIDE, 11) if mode == "bilinear" else st.integers(1, 8)
    channels, dtype = draw(st.tuples(*[st.integers(1, 4)] * 2)), draw(st.sampled_from(list(TOLERANCE)))
    layer = Conv2d(*channels, 3, padding=1, bias=draw(st.booleans()), dtype=dtype)
    x = torch.randn(draw(st.integers(1, 3)), channels[0], draw(side), draw(side), dtype=dtype)
    compare(mode, layer, x, recorded_strides)


@pytest.mark.parametrize("kind", list(PAIRS))
def test_channels_last(kind, recorded_strides):
    layer, x = Conv2d(4, 6, 3, padding=1).double(), torch.randn(2, 4, 8, 10, dtype=torch.double)
    layer, x = layer.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    compare(kind, layer, x, recorded_strides)
    assert PAIRS[kind][0](layer, x).is_contiguous(memory_format=torch.channels_last)


class Applied(nn.Module):
    """A function of a layer and its input, as a module."""

    def __init__(self, layer, function):
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x):
        return self.function(self.layer, x)


@pytest.mark.parametrize("kind", list(PAIRS))
def test_second_derivatives(kind):
    size = (4, 2) if kind != "bilinear" else (8, 9)
    layer = Conv2d(2, 1, 3, padding=1).double()
    x = torch.randn(1, 2, *size, dtype=torch.double, requires_grad=True)

    def function(x, weight, bias):
        return torch.func.functional_call(
            Applied(layer, PAIRS[kind][0]), {"layer.weight": weight, "layer.bias": bias}, x
        )

    assert torch.autograd.gradcheck(function, (x, layer.weight, layer.bias))
    assert torch.autograd.gradgradcheck(function, (x, layer.weight, layer.bias), fast_mode=True)


@pytest.mark.parametrize("kind", list(PAIRS))
def test_spectral_normalization_does_one_power_iteration(kind):
    """In training, each access of the weight is a power iteration. Both forms access it once."""
    layer = build_normalization("spectral").normalize(Conv2d(4, 6, 3, padding=1)).train()
    other, x = copy.deepcopy(layer), torch.randn(2, 4, 8, 8)
    before = copy.deepcopy(layer.state_dict())
    for _ in range(2):
        a, b = PAIRS[kind][0](layer, x), PAIRS[kind][1](other, x)
        assert relative_error(a, b) < 1e-6
    (a.square().sum() + b.square().sum()).backward()
    after = layer.state_dict()
    for (name, value), expected in zip(after.items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name
    assert not torch.equal(before["parametrizations.weight.0._u"], after["parametrizations.weight.0._u"])
    gradients = (conv.parametrizations.weight.original.grad for conv in (layer, other))
    assert relative_error(*gradients) < 2e-6


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class DoubledFast(Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


PLAIN = {  # layers for which resampling is not fused
    "stride": lambda: Conv2d(4, 4, 3, stride=2, padding=1),
    "dilation": lambda: Conv2d(4, 4, 3, dilation=2, padding=2),
    "reflect": lambda: Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "same": lambda: Conv2d(4, 4, 3, padding="same"),
    "nn.Conv2d": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "subclass of nn.Conv2d": lambda: Doubled(4, 4, 3, padding=1),
    "subclass": lambda: DoubledFast(4, 4, 3, padding=1),
    "wrapper": lambda: build_normalization("conv_norm").normalize(Conv2d(4, 4, 3, padding=1)),
}
PLAIN_UPSAMPLING = {
    "groups": lambda: Conv2d(4, 4, 3, padding=1, groups=2),
    "kernel": lambda: Conv2d(4, 4, 5, padding=2),
    "padding": lambda: Conv2d(4, 4, 3),
}


def check_plain(kind: str, layer: nn.Module, x: torch.Tensor, recorded_strides) -> None:
    """Check that the layer is called once, and that the plain form is computed."""
    fused, plain = PAIRS[kind]
    calls = []
    handle = layer.register_forward_hook(lambda *args: calls.append(args))
    output = fused(layer, x)
    handle.remove()
    assert len(calls) == 1
    assert torch.equal(output, plain(layer, x))
    assert recorded_strides(fused, layer, x) == recorded_strides(plain, layer, x)


@pytest.mark.parametrize("kind", list(PAIRS))
@pytest.mark.parametrize("build", PLAIN.values(), ids=list(PLAIN))
def test_other_layers_use_the_plain_form(kind, build, recorded_strides):
    check_plain(kind, build(), torch.randn(2, 4, 8, 8), recorded_strides)


@pytest.mark.parametrize("kind", ["nearest", "bilinear"])
@pytest.mark.parametrize("build", PLAIN_UPSAMPLING.values(), ids=list(PLAIN_UPSAMPLING))
def test_other_layers_use_the_plain_form_of_upsampling(kind, build, recorded_strides):
    check_plain(kind, build(), torch.randn(2, 4, 8, 8), recorded_strides)


def test_bilinear_upsampling_of_small_maps_is_plain(recorded_strides):
    x = torch.randn(2, 4, BILINEAR_SIDE, BILINEAR_SIDE - 1)
    check_plain("bilinear", Conv2d(4, 4, 3, padding=1), x, recorded_strides)


def test_pooling_without_batch_dimension_is_plain(recorded_strides):
    check_plain("pool", Conv2d(4, 4, 3, padding=1), torch.randn(4, 8, 8), recorded_strides)


@pytest.mark.parametrize("kind", list(PAIRS))
def test_plain_kernels_use_the_plain_form(kind, recorded_strides):
    with plain_kernels():
        check_plain(kind, Conv2d(4, 4, 3, padding=1), torch.randn(2, 4, 8, 8), recorded_strides)


class LeafTracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, nn.Conv2d)


@pytest.mark.parametrize("kind", list(PAIRS))
def test_fx_traces_the_plain_form(kind):
    layer, x = Conv2d(4, 4, 3, padding=1), torch.randn(2, 4, 8, 8)
    module = Applied(layer, PAIRS[kind][0])
    graph = LeafTracer().trace(module)
    (call,) = (node for node in graph.nodes if node.op == "call_module")
    assert (call.target, len(call.args), call.kwargs) == ("layer", 1, {})
    with plain_kernels():
        assert torch.equal(fx.symbolic_trace(module)(x), module(x))


def with_nn_conv2d(network: nn.Module) -> nn.Module:
    """Return a copy of `network` with each `Conv2d` replaced by an `nn.Conv2d`."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is Conv2d:
                plain = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding)
                plain.load_state_dict(layer.state_dict())
                setattr(module, name, plain)
    return network


@pytest.mark.parametrize("normalization", ["none", "spectral"])
def test_certificate_and_tracker_measure_the_plain_network(normalization, recorded_strides):
    network = ResNetDiscriminatorConfig(width=4).build(ImageShape(3, 16))
    plain = with_nn_conv2d(network)
    network, plain = (build_normalization(normalization).apply(net).eval() for net in (network, plain))
    plain.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 16, 16)

    def measure(network):
        tracker = LipschitzTracker(network, x)
        return certified_bound(network, x.shape[1:]), tracker.input_shapes, tracker.measure()

    assert measure(network) == measure(plain)
    assert (2, 2) in recorded_strides(network, x)
    assert (2, 2) not in recorded_strides(plain, x)
    torch.testing.assert_close(network(x), plain(x))
    with plain_kernels():
        assert torch.equal(network(x), plain(x))


@pytest.mark.parametrize("kind", list(PAIRS))
def test_bfloat16_rounding(kind):
    """The fused form rounds one more intermediate result."""
    layer, x = Conv2d(32, 32, 3, padding=1), torch.randn(4, 32, 16, 16).bfloat16()
    exact, errors = copy.deepcopy(layer).double(), []
    for function, conv, dtype in (
        (PAIRS[kind][1], exact, torch.double),
        (PAIRS[kind][1], layer, torch.bfloat16),
        (PAIRS[kind][0], layer, torch.bfloat16),
    ):
        inputs = x.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            output = function(conv, inputs)
        assert output.dtype == dtype
        cotangent = torch.sin(torch.arange(output.numel(), dtype=torch.double)).bfloat16().view_as(output)
        leaves = inputs, conv.weight, conv.bias
        values = [output, *torch.autograd.grad(output, leaves, cotangent.to(dtype))]
        if dtype is torch.double:
            truth = values
        else:
            errors.append([relative_error(a, b) for a, b in zip(values, truth, strict=True)])
    for fused, plain in zip(errors[1], errors[0], strict=True):
        assert fused < 1.75 * plain


@pytest.mark.parametrize(
    ("kind", "normalization"),
    [
        pytest.param("pool", "spectral", marks=pytest.mark.slow),
        pytest.param("nearest", "spectral", marks=pytest.mark.slow),
        pytest.param("bilinear", "none", marks=pytest.mark.slow),
    ],
)
def test_compiles_without_graph_break(kind, normalization):
    torch.compiler.reset()
    layer = build_normalization(normalization).normalize(Conv2d(4, 6, 3, padding=1)).eval()
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    output = torch.compile(PAIRS[kind][0], fullgraph=True, backend="aot_eager")(layer, x)
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    torch.testing.assert_close(output, PAIRS[kind][1](layer, x))
    torch.testing.assert_close(gradient, torch.autograd.grad(PAIRS[kind][1](layer, x).square().sum(), x)[0])


@pytest.mark.parametrize("kind", list(PAIRS))
def test_vectorized_jacobian(kind):
    layer, x = Conv2d(2, 1, 3, padding=1).double(), torch.randn(3, 2, 8, 8, dtype=torch.double)
    fused, plain = (torch.func.vmap(torch.func.jacrev(lambda v, f=f: f(layer, v[None])[0]))(x) for f in PAIRS[kind])
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-14)
