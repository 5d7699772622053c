"""The rewrites of models/fused.py against the plain forms that they replace."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional as F

from metrics.lipschitz import LipschitzTracker, certified_bound
from models import ImageShape
from models.kernels.fused import SMALLEST_BILINEAR, conv_then_pool, upsample, upsample_then_conv
from models.networks import resnet
from models.networks.resnet import ResNetDiscriminatorConfig
from models.normalizations import build_normalization

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}  # the sums of the bias's gradient reach 1e-6, all else 6e-7


def plain_pool(layer, x):
    return F.avg_pool2d(layer(x), 2)


def plain_up(layer, x, mode):
    return layer(upsample(x, mode))


PAIRS = {
    "pool": (conv_then_pool, plain_pool),
    "nearest": (partial(upsample_then_conv, mode="nearest"), partial(plain_up, mode="nearest")),
    "bilinear": (partial(upsample_then_conv, mode="bilinear"), partial(plain_up, mode="bilinear")),
}


def unseen(layer: nn.Module) -> nn.Module:
    """Return a copy of `layer` that can be called no more, as the rewrites never do."""
    layer = copy.deepcopy(layer)
    layer.forward = None
    return layer


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)).item()


def compare(kind: str, layer: nn.Conv2d, x: torch.Tensor) -> None:
    """Compare outputs, gradients and what a gradient penalty gives to input and weight.

    All numbers are positive: where sums cancel, the rounding of either form is large beside what is left.
    """
    fused, plain = PAIRS[kind]
    x = x.abs()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.abs_()
    results = []
    for function, conv in ((fused, unseen(layer)), (plain, layer)):
        leaves = x.clone().requires_grad_(), *conv.parameters()
        output = function(conv, leaves[0])
        cotangent = torch.linspace(0.5, 1.5, output.numel(), dtype=x.dtype).view(output.shape)
        gradients = torch.autograd.grad(output.square(), leaves, cotangent, create_graph=True)
        penalties = torch.autograd.grad(gradients[0].square().sum(), leaves[:2])
        results.append([output, *gradients, *penalties])
    assert results[0][0].shape == results[1][0].shape
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < TOLERANCE[x.dtype]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_pooling_over_geometry(data):
    draw, side = data.draw, st.integers(2, 9)
    groups, kernel = draw(st.sampled_from([1, 1, 2])), draw(st.tuples(*[st.sampled_from([1, 2, 3, 5])] * 2))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 2))
    size = draw(st.tuples(side, side))
    assume(all(n + 2 * p - k >= 1 for n, p, k in zip(size, padding, kernel, strict=True)))
    channels = [groups * draw(st.integers(1, 3)) for _ in range(2)]
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    layer = nn.Conv2d(*channels, kernel, padding=padding, groups=groups, bias=draw(st.booleans()), dtype=dtype)
    compare("pool", layer, torch.randn(draw(st.integers(1, 3)), channels[0], *size, dtype=dtype))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_upsampling_over_geometry(data):
    draw = data.draw
    mode = draw(st.sampled_from(["nearest", "bilinear"]))
    side = st.integers(SMALLEST_BILINEAR, 11) if mode == "bilinear" else st.integers(1, 8)
    channels, dtype = draw(st.tuples(*[st.integers(1, 4)] * 2)), draw(st.sampled_from(list(TOLERANCE)))
    layer = nn.Conv2d(*channels, 3, padding=1, bias=draw(st.booleans()), dtype=dtype)
    compare(mode, layer, torch.randn(draw(st.integers(1, 3)), channels[0], draw(side), draw(side), dtype=dtype))


@pytest.mark.parametrize("kind", list(PAIRS))
def test_channels_last(kind):
    layer, x = nn.Conv2d(4, 6, 3, padding=1).double(), torch.randn(2, 4, 8, 10, dtype=torch.double)
    layer, x = layer.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    compare(kind, layer, x)
    assert PAIRS[kind][0](unseen(layer), x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", list(PAIRS))
def test_second_derivatives(kind):
    size = (4, 2) if kind != "bilinear" else (8, 9)
    layer = unseen(nn.Conv2d(2, 1, 3, padding=1).double())
    x = torch.randn(1, 2, *size, dtype=torch.double, requires_grad=True)

    def function(x, weight, bias):
        return torch.func.functional_call(
            _Holder(layer, PAIRS[kind][0]), {"layer.weight": weight, "layer.bias": bias}, x
        )

    assert torch.autograd.gradcheck(function, (x, layer.weight, layer.bias))
    assert torch.autograd.gradgradcheck(function, (x, layer.weight, layer.bias))


class _Holder(nn.Module):
    def __init__(self, layer, function):
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x):
        return self.function(self.layer, x)


@pytest.mark.parametrize("kind", list(PAIRS))
def test_spectral_normalization_moves_as_in_the_plain_form(kind):
    """In training each access of the weight is a power iteration: one an evaluation, whatever the form."""
    layer = build_normalization("spectral").normalize(nn.Conv2d(4, 6, 3, padding=1)).train()
    other, x = copy.deepcopy(layer), torch.randn(2, 4, 8, 8)
    before = copy.deepcopy(layer.state_dict())
    for _ in range(2):
        a, b = PAIRS[kind][0](layer, x), PAIRS[kind][1](other, x)
        assert relative_error(a, b) < 1e-6
    (a.square().sum() + b.square().sum()).backward()
    for (name, value), moved in zip(layer.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, moved), name
    assert not torch.equal(before["parametrizations.weight.0._u"], layer.parametrizations.weight[0]._u)
    gradients = (conv.parametrizations.weight.original.grad for conv in (layer, other))
    assert relative_error(*gradients) < 2e-6


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked(register: str) -> nn.Conv2d:
    layer = nn.Conv2d(4, 4, 3, padding=1)
    getattr(layer, register)(lambda *_: None)
    return layer


HOOKS = [f"register_{name}_hook" for name in ("forward", "forward_pre", "full_backward", "full_backward_pre")]
KEPT = {  # what keeps the plain form
    "stride": lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1),
    "dilation": lambda: nn.Conv2d(4, 4, 3, dilation=2, padding=2),
    "reflect": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "same": lambda: nn.Conv2d(4, 4, 3, padding="same"),
    "subclass": lambda: Doubled(4, 4, 3, padding=1),
    "wrapper": lambda: build_normalization("conv_norm").normalize(nn.Conv2d(4, 4, 3, padding=1)),
    **{name: partial(hooked, name) for name in HOOKS},
}
KEPT_UPSAMPLING = {
    "groups": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2),
    "kernel": lambda: nn.Conv2d(4, 4, 5, padding=2),
    "padding": lambda: nn.Conv2d(4, 4, 3),
}


def check_kept(kind: str, layer: nn.Module, x: torch.Tensor) -> None:
    calls, forward = [], layer.forward
    layer.forward = lambda x: calls.append(x) or forward(x)
    output = PAIRS[kind][0](layer, x)
    assert len(calls) == 1
    assert torch.equal(output, PAIRS[kind][1](layer, x))


@pytest.mark.parametrize("kind", list(PAIRS))
@pytest.mark.parametrize("build", KEPT.values(), ids=list(KEPT))
def test_what_keeps_the_plain_form(kind, build):
    check_kept(kind, build(), torch.randn(2, 4, 8, 8))


@pytest.mark.parametrize("kind", ["nearest", "bilinear"])
@pytest.mark.parametrize("build", KEPT_UPSAMPLING.values(), ids=list(KEPT_UPSAMPLING))
def test_what_keeps_the_plain_form_of_upsampling(kind, build):
    check_kept(kind, build(), torch.randn(2, 4, 8, 8))


def test_small_maps_keep_the_plain_form_of_bilinear_upsampling():
    check_kept("bilinear", nn.Conv2d(4, 4, 3, padding=1), torch.randn(2, 4, SMALLEST_BILINEAR, SMALLEST_BILINEAR - 1))


def test_a_single_map_keeps_the_plain_form_of_pooling():
    check_kept("pool", nn.Conv2d(4, 4, 3, padding=1), torch.randn(4, 8, 8))


@pytest.mark.parametrize("kind", list(PAIRS))
def test_a_tracer_sees_the_layer(kind):
    graph = fx.symbolic_trace(_Holder(nn.Conv2d(4, 4, 3, padding=1), PAIRS[kind][0])).graph
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["layer"]


@pytest.mark.parametrize("normalization", ["none", "spectral"])
def test_the_certificate_and_the_tracker_see_the_plain_network(normalization, monkeypatch):
    network = ResNetDiscriminatorConfig(width=4).build(ImageShape(3, 16))
    network = build_normalization(normalization).apply(network).eval()
    x = torch.randn(2, 3, 16, 16)

    def measure():
        tracker = LipschitzTracker(network, x)
        return certified_bound(network, x.shape[1:]), tracker.input_shapes, tracker.measure()

    fused = measure()
    with monkeypatch.context() as patch:
        patch.setattr(network.blocks[0].conv2, "forward", None)
        output = network(x)  # the rewrite is on
    monkeypatch.setattr(resnet, "conv_then_pool", plain_pool)
    assert fused == measure()
    torch.testing.assert_close(output, network(x))


@pytest.mark.parametrize("kind", list(PAIRS))
def test_bfloat16_rounds_once_more(kind):
    layer, x = nn.Conv2d(32, 32, 3, padding=1), torch.randn(4, 32, 16, 16).bfloat16()
    exact, errors = copy.deepcopy(layer).double(), []
    for function, conv, dtype in (
        (PAIRS[kind][1], exact, torch.double),
        (PAIRS[kind][1], layer, torch.bfloat16),
        (PAIRS[kind][0], unseen(layer), torch.bfloat16),
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


@pytest.mark.parametrize("normalization", ["none", "spectral"])
@pytest.mark.parametrize("kind", list(PAIRS))
def test_compiled_without_a_graph_break(kind, normalization):
    torch.compiler.reset()
    layer = build_normalization(normalization).normalize(nn.Conv2d(4, 6, 3, padding=1)).eval()
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    output = torch.compile(PAIRS[kind][0], fullgraph=True, backend="aot_eager")(layer, x)
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    torch.testing.assert_close(output, PAIRS[kind][1](layer, x))
    torch.testing.assert_close(gradient, torch.autograd.grad(PAIRS[kind][1](layer, x).square().sum(), x)[0])


@pytest.mark.parametrize("kind", list(PAIRS))
def test_vectorized_jacobian(kind):
    layer, x = nn.Conv2d(2, 1, 3, padding=1).double(), torch.randn(3, 2, 8, 8, dtype=torch.double)
    fused, plain = (torch.func.vmap(torch.func.jacrev(lambda v, f=f: f(layer, v[None])[0]))(x) for f in PAIRS[kind])
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-14)
