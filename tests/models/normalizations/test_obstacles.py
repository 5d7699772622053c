"""Layers that are normalized already, or whose own forward or hooks a normalization would bypass."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from models.normalizations import NORMALIZATIONS, build_normalization, normalize
from models.normalizations.base import Parametrization, Wrapper

LAYERWISE = sorted(set(NORMALIZATIONS) - {"none", "gradient"})
WITHOUT_INVERSE = {
    name
    for name in LAYERWISE
    if type(normalize(nn.Linear(2, 2), name).parametrizations.weight[0]).right_inverse is Parametrization.right_inverse
}
WRAPPING = [name for name in LAYERWISE if isinstance(normalize(nn.Conv2d(2, 2, 3), name), Wrapper)]
names = pytest.mark.parametrize("name", LAYERWISE)


class SameConv(nn.Conv2d):
    """A convolution that pads by its own forward, as that of TensorFlow."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 2, 0, 2)), self.weight, self.bias)


class StandardizedConv(nn.Conv2d):
    """A convolution that standardizes its weight."""

    def forward(self, x):
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / std, self.bias)


class MaskedConv(nn.Conv2d):
    """The convolution of a PixelCNN, which masks its weight in place."""

    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, 1, 1:] = 0

    def forward(self, x):
        self.weight.data *= self.mask
        return super().forward(x)


class MaskedLinear(nn.Linear):
    """A linear layer that masks its weight in place, without gradient."""

    def forward(self, x):
        with torch.no_grad():
            self.weight.mul_(torch.ones_like(self.weight).tril())
        return super().forward(x)


class ScaledConv(nn.Conv2d):
    """The equalized learning rate, in the method that PyTorch's forward calls."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, 3 * weight, bias)


def with_hook(register):
    layer = nn.Conv2d(2, 4, 3)
    getattr(layer, register)(lambda *args: None)
    return layer


def with_forward(layer):
    layer.forward = lambda x: 2 * F.conv2d(x, layer.weight, layer.bias)
    return layer


def pruned():
    return prune.random_unstructured(nn.Conv2d(2, 4, 3), "weight", 0.5)


BYPASSED = {
    "same": (lambda: SameConv(2, 4, 3), "SameConv has its own forward"),
    "standardized": (lambda: StandardizedConv(2, 4, 3), "StandardizedConv has its own forward"),
    "masked": (lambda: MaskedConv(2, 4, 3), "MaskedConv has its own forward"),
    "scaled": (lambda: ScaledConv(2, 4, 3), "ScaledConv has its own _conv_forward"),
    "replaced": (lambda: with_forward(nn.Conv2d(2, 4, 3)), "its forward has been replaced"),
    "hook": (lambda: with_hook("register_forward_hook"), "it has a forward hook"),
    "pre_hook": (lambda: with_hook("register_forward_pre_hook"), "it has a forward hook"),
    "backward_hook": (lambda: with_hook("register_full_backward_hook"), "it has a backward hook"),
    "backward_pre_hook": (lambda: with_hook("register_full_backward_pre_hook"), "it has a backward hook"),
    "pruned": (pruned, "it has a forward hook"),
}


@pytest.mark.parametrize("name", WRAPPING)
@pytest.mark.parametrize(("build", "reason"), BYPASSED.values(), ids=BYPASSED)
def test_a_wrapper_refuses_what_it_would_bypass(name, build, reason):
    network = nn.Sequential(nn.Sequential(build()), nn.Conv2d(4, 2, 1))
    with pytest.raises(ValueError, match=rf"{name} cannot normalize 0\.0 \(\w+\): {reason}"):
        normalize(network, name)
    assert type(network[1]) is nn.Conv2d  # nothing has changed
    with pytest.raises(ValueError, match=rf"cannot be wrapped by \w+: {reason}"):
        build_normalization(name).normalize(build())


@pytest.mark.parametrize("name", sorted(set(LAYERWISE) - set(WRAPPING)))
@pytest.mark.parametrize("build", [lambda: SameConv(2, 4, 3), lambda: StandardizedConv(2, 4, 3)], ids=["same", "std"])
def test_an_own_forward_computes_with_the_normalized_weight(name, build):
    torch.manual_seed(0)
    layer = normalize(build(), name).eval()
    plain, x = build(), torch.randn(2, 2, 6, 6)
    plain.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias})
    torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: MaskedConv(2, 4, 3), "MaskedConv has its own forward, which does not compute with a parametrized"),
        (lambda: MaskedLinear(3, 3), "MaskedLinear has its own forward, which does not compute with a parametrized"),
        (lambda: with_hook("register_forward_pre_hook"), "it has a forward pre-hook, which may change its weight"),
        (pruned, "its weight is no parameter"),
        (lambda: nn.LazyLinear(3), "its weight is not initialized"),
        (lambda: nn.Embedding(4, 3, max_norm=1.0), "max_norm changes its weight"),
    ],
    ids=["masked", "masked_linear", "pre_hook", "pruned", "lazy", "max_norm"],
)
def test_a_weight_that_would_not_be_normalized_is_refused(build, reason):
    for name in sorted(set(LAYERWISE) - set(WRAPPING)):
        with pytest.raises(ValueError, match=rf"{name} cannot normalize 0 \(\w+\): {reason}"):
            normalize(nn.Sequential(build(), nn.Linear(2, 2)), name)


@names
def test_forward_hooks_fire_once_per_call(name):
    layer, calls = nn.Linear(2, 3), []
    layer.register_forward_hook(lambda *args: calls.append(0))
    normalized = normalize(layer, name)
    assert not calls
    normalized(torch.randn(2, 2))
    assert len(calls) == 1


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
@pytest.mark.parametrize(
    ("name", "convolution"), [*((name, nn.Conv2d) for name in WRAPPING), ("conv_norm", nn.ConvTranspose1d)]
)
def test_hooks_of_a_wrapped_convolution_are_refused_later(register, name, convolution):
    layer = normalize(convolution(2, 3, 3), name)
    x = torch.randn(1, 2, *[6] * (layer.weight.dim() - 2))
    calls = []
    layer.register_forward_hook(lambda *args: calls.append(0))
    layer(x)
    assert calls == [0]
    handle = getattr(layer.conv, register)(lambda *args: None)
    with pytest.raises(RuntimeError, match="register them on the layer itself"):
        layer(x)
    handle.remove()
    layer(x)


NORMALIZED = {
    **{name: (lambda layer, name=name: normalize(layer, name)) for name in LAYERWISE},
    "torch spectral_norm": parametrizations.spectral_norm,
    "torch weight_norm": parametrizations.weight_norm,
    "torch orthogonal": parametrizations.orthogonal,
    "old spectral_norm": spectral_norm,
    "old weight_norm": weight_norm,
}


# A wrapper, a parametrization and a hook for every second one, and every first one for two second ones.
PAIRS = {
    *itertools.product(("conv_norm", "spectral", "old spectral_norm"), (*LAYERWISE, "gradient")),
    *itertools.product(NORMALIZED, ("conv_norm", "weight")),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("first", NORMALIZED)
@pytest.mark.parametrize("build", [lambda: nn.Conv2d(2, 4, 3), lambda: nn.Linear(2, 4)], ids=["conv", "linear"])
def test_a_normalized_layer_is_refused(first, build):
    for second in sorted(second for one, second in PAIRS if one == first):
        network = nn.Sequential(nn.Sequential(NORMALIZED[first](build())), nn.Conv2d(2, 2, 1))
        before = list(network.state_dict())
        with pytest.raises(ValueError, match=rf"{second} cannot normalize 0\.0.*: it.* is already normalized, by \w+"):
            normalize(network, second)
        assert list(network.state_dict()) == before
        if second != "gradient":
            normalize(network, second, exclude=["0.0"])  # the rest of the network


@pytest.mark.parametrize("second", [*LAYERWISE, "gradient"])
def test_a_network_that_is_normalized_as_a_whole_is_refused(second):
    network = normalize(nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), "gradient")
    with pytest.raises(ValueError, match="already normalized"):
        normalize(network, second)


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).mT

    def right_inverse(self, weight):
        return weight.triu()


@pytest.mark.parametrize("name", sorted(set(LAYERWISE) - {"weight"}))
def test_other_parametrizations_come_first(name):
    torch.manual_seed(0)
    layer = parametrize.register_parametrization(nn.Linear(4, 4), "weight", Symmetric())
    plain = nn.Linear(4, 4)
    plain.weight.data = layer.weight.detach()
    torch.manual_seed(1)
    layer = normalize(layer, name).eval()
    torch.manual_seed(1)
    torch.testing.assert_close(layer.weight, normalize(plain, name).eval().weight, rtol=1e-2, atol=1e-3)


def test_weight_normalization_needs_a_plain_weight():
    layer = parametrize.register_parametrization(nn.Linear(4, 4), "weight", Symmetric())
    with pytest.raises(ValueError, match="its weight is parametrized, and g and v replace a plain weight only"):
        normalize(layer, "weight")


class Tied(nn.Module):
    """An embedding and an output layer with one weight."""

    def __init__(self):
        super().__init__()
        self.embedding, self.middle, self.output = nn.Embedding(8, 6), nn.Linear(6, 6), nn.Linear(6, 8, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, y):
        return self.output(self.middle(self.embedding(y)).tanh())


@names
def test_a_shared_weight_stays_shared(name):
    torch.manual_seed(0)
    network = normalize(Tied(), name)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scales = {"weight": 8 + 6}.get(name, 0)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in Tied().parameters()) + scales
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(network(torch.arange(8)), torch.arange(8)).backward()
        optimizer.step()
    network.eval()
    assert torch.equal(network.embedding.weight, network.output.weight)
    copied = normalize(Tied(), name).eval()
    copied.load_state_dict(network.state_dict())
    assert torch.equal(copied(torch.arange(8)), network(torch.arange(8)))
    assert torch.equal(copy.deepcopy(network)(torch.arange(8)), network(torch.arange(8)))


def test_weight_normalization_does_not_break_sharing():
    with pytest.raises(ValueError, match="the weight that embedding and output share"):
        normalize(Tied(), "weight", exclude=["output"])
    network = nn.ModuleList([nn.Conv2d(3, 3, 3), nn.ConvTranspose2d(3, 3, 3)])
    network[1].weight = network[0].weight
    with pytest.raises(ValueError, match="the weight that 0 and 1 share"):
        normalize(network, "weight")
    normalize(Tied(), "weight", include=["middle"])
    shared = normalize(network, "spectral")
    assert shared[0].parametrizations.weight.original is shared[1].parametrizations.weight.original


@pytest.mark.parametrize("name", sorted(set(LAYERWISE) - WITHOUT_INVERSE))
@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Linear(6, 4),
        lambda: nn.Linear(6, 1),
        lambda: nn.Conv2d(4, 6, 3, groups=2),
        lambda: nn.Conv1d(3, 4, 3),
    ],
    ids=["linear", "head", "conv", "conv1d"],
)
def test_a_weight_can_be_assigned(name, build):
    torch.manual_seed(0)
    layer, weight = normalize(build(), name).eval(), torch.randn_like(build().weight)
    if name == "conv_norm" and weight.dim() > 2:
        layer.weight = nn.Parameter(weight)  # a wrapped convolution, whose weight is a parameter
        assert layer.weight is layer.conv.weight
        return
    own = layer.weight.detach().clone()
    layer.weight = own.clone()
    torch.testing.assert_close(layer.weight, own)
    layer.weight = weight
    fresh = build()
    fresh.weight.data = weight.clone()
    torch.testing.assert_close(layer.weight, normalize(fresh, name).eval().weight, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", sorted(WITHOUT_INVERSE))
def test_a_weight_without_inverse_cannot_be_assigned(name):
    layer = normalize(nn.Linear(6, 4), name)
    with pytest.raises(NotImplementedError, match=r"assign to layer\.parametrizations\.weight\.original"):
        layer.weight = torch.randn(4, 6)


CONVOLUTIONS = [
    nn.Conv1d(4, 6, 3, 2, 1, groups=2),
    nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), padding_mode="reflect"),
    nn.Conv2d(4, 6, 3, bias=False),
    nn.Conv3d(2, 3, 2, padding="same"),
    nn.ConvTranspose1d(4, 6, 3, 2),
    nn.ConvTranspose2d(4, 6, 4, 2, 1, 1, groups=2, dilation=2),
    nn.ConvTranspose3d(2, 3, 2),
]


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_a_wrapped_convolution_has_the_attributes_of_the_convolution(conv, affine):
    layer = build_normalization("conv_norm", affine=affine).normalize(copy.deepcopy(conv))
    keys = [*layer.state_dict()]
    for name in conv.__constants__:
        assert getattr(layer, name) == getattr(conv, name), name
    assert torch.equal(layer.weight, conv.weight)
    assert layer.weight is layer.conv.weight
    assert (layer.bias is None) == (conv.bias is None)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    x = torch.randn(1, conv.in_channels, *[8] * (conv.weight.dim() - 2))
    if conv.bias is not None:
        assert torch.equal(layer.bias, conv.bias)
        before = layer(x)
        nn.init.constant_(layer.bias, 3.0)
        torch.testing.assert_close(layer(x) - before, (3 - conv.bias).view(-1, *[1] * (x.dim() - 2)).expand_as(before))
        layer.bias = nn.Parameter(torch.zeros_like(layer.bias))
        layer.bias.data.fill_(1)
        torch.testing.assert_close(layer(0 * x)[0, :, 0].flatten(), torch.ones(layer(x)[0, :, 0].numel()))
    layer.weight = nn.Parameter(torch.ones_like(layer.weight))
    assert (layer.conv.weight == 1).all()
    assert [*layer.state_dict()] == keys
    with pytest.raises(AttributeError, match="no attribute 'no_such'"):
        _ = layer.no_such
