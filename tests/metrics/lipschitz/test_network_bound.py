import itertools
import math
import warnings

import pytest
import torch
from bounded import HalfOf
from geometry import dense_norm
from hunting import steepest_ratio
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from metrics.lipschitz import LipschitzTracker, certified_bound, certify, input_gradient_norms, steepest_slope
from models import DISCRIMINATORS, ImageShape, build_discriminator
from models.activation_norms import ACTIVATION_NORMS
from models.kernels.symbol import plane_norm
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
    assert certified_bound(block, (3, 8, 8)) == pytest.approx(1 + certified_bound(block.h, (3, 8, 8)), rel=1e-9)


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
    separate = certified_bound(network.first, (3, 8, 8)) * certified_bound(network.norm, (4, 8, 8)) * 0.5
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
        (lambda x: torch.cat([x, x], 1), math.sqrt(2)),
        (lambda x: torch.add(x, other=x), 2),
        (lambda x: torch.mul(x, other=2.0), 2),
        (lambda x: x[:, [0, 0, 0]], math.sqrt(3)),
        (lambda x: x[:, 1:], 1),
        (lambda x: 5 * x.chunk(3, 1)[0], 5),
        (lambda x: x.max(1)[0], 1),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True), 32 / 15),
    ],
)
def test_functions(function, bound):
    network = Network(lambda self, x: function(self.part(x)), part=nn.Identity())
    assert certified_bound(network, (3, 8, 8)) == pytest.approx(bound, rel=1e-5)


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
    for family in ("resnet", "biggan"):
        attentive = build_discriminator(DISCRIMINATORS.get(family)(width=4, attention=4), ImageShape(3, 16)).eval()
        assert str(certify(attentive, (3, 16, 16))) == "none (SelfAttention at blocks.2)"
    wrapped = DISCRIMINATORS.get("dcgan")(width=4, normalization=build_normalization("gradient"))
    assert certified_bound(build_discriminator(wrapped, ImageShape(3, 16)).eval(), (3, 16, 16)) == math.inf


def test_every_layer_of_self_attention_has_a_norm():
    D = build_discriminator(DISCRIMINATORS.get("biggan")(width=4, attention=8), ImageShape(3, 16, 3)).eval()
    x, y = torch.randn(2, 3, 16, 16), torch.tensor([0, 2])
    tracker = LipschitzTracker(D, (x, y), iterations=2)
    attention = {"blocks.1.query", "blocks.1.key", "blocks.1.value", "blocks.1.output", "blocks.1.gamma"}
    assert attention < tracker.measure().keys()
    assert set(tracker.unmeasured) == {"head.embedding"}
    assert 0 < steepest_slope(D, x, y) < math.inf


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
    assert certified_bound(part, (1, 16, 16)) == norm


def test_factor_selected_by_labels_is_bounded_over_all_labels():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gains = nn.Embedding(3, 4)

        def forward(self, x, y):
            return self.gains(y)[:, :, None, None] * x

    network = Scaled()
    largest = network.gains.weight.abs().max().item()
    assert certified_bound(network, (4, 8, 8), torch.tensor([0])) == pytest.approx(largest)


class Network(nn.Module):
    """A network with the given parts, whose forward pass is a function (parts, x, ...)."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x, *args, **kwargs):
        return self.function(self, x, *args, **kwargs)


class Equalized(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, 5 * self.weight, self.bias, self.stride, self.padding)


class Same(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def same(channels=3):
    return conv(channels, channels, 3, padding=1)


def hooked(layer, register="register_forward_hook"):
    hook = (lambda m, x, out: 10 * out) if register == "register_forward_hook" else (lambda m, x: (10 * x[0],))
    getattr(layer, register)(hook)
    return layer


def stale(wrap):
    with warnings.catch_warnings():  # old-style weight norm is deprecated
        warnings.simplefilter("ignore", FutureWarning)
        layer = wrap(same())
    with torch.no_grad():
        getattr(layer, "weight_orig" if hasattr(layer, "weight_orig") else "weight_g").mul_(100)
    return layer


def changes_view(self, x):
    h = self.a(x)
    part = h[:, :2]
    part *= 10
    return h


def keeps_skip(self, x):
    h = self.a(x)
    skip = h
    h += self.b(h)
    return h + skip


def calls_twice(self, x, scale=2.0):
    return self.a(input=self.a(x)) * scale


def writes_into_a_constant(self, x):
    h = torch.zeros(1, 3, 8, 8, dtype=x.dtype).repeat(len(x), 1, 1, 1)
    h[:, 1:] = 3 * x[:, 1:]
    h[:, 0] = 7.0
    return h.view(x.size(0), -1)


def fills_an_empty_tensor(self, x):
    h = torch.empty_like(x)
    h[:, :1], h[:, 1:] = 2 * x[:, 1:2], x[:, 1:]
    return h


def layer_scale(self, x):
    return x + self.gamma * self.a(x)


def reads_a_parameter(self, x):
    return self.a(x) if self.gamma.sum() > 0 else 1000 * self.a(x)


GAMMA = nn.Parameter(torch.tensor([1.0, 2.0, 4.0])[:, None, None])
NETWORKS = {
    "changed in place": Network(lambda self, x: self.a(x).add_(self.b(x)), a=same(), b=same()),
    "scaled in place": Network(lambda self, x: self.a(x).mul_(10), a=same()),
    "changed through a view": Network(changes_view, a=same()),
    "changed after it is kept": Network(keeps_skip, a=same(), b=same()),
    "rectified in place": nn.Sequential(same(), nn.ReLU(inplace=True), same()),
    "features and logits": Network(lambda self, x: (self.a(x), 300 * self.a(x).sum((1, 2, 3))), a=same()),
    "constant and features": Network(lambda self, x: (torch.ones(2), self.a(x)), a=same()),
    "dict": Network(lambda self, x: {"none": None, "number": 3, "list": [self.a(x), 5 * x]}, a=same()),
    "equalized": Network(lambda self, x: self.a(F.relu(self.a(x))), a=Equalized(3, 3, 3, padding=1)),
    "same padding": nn.Sequential(Same(3, 3, 2), Same(3, 3, 2)),
    "forward hook": nn.Sequential(hooked(same()), same()),
    "forward pre-hook": nn.Sequential(hooked(same(), "register_forward_pre_hook"), same()),
    "hook of a container": hooked(nn.Sequential(same(), nn.ReLU())),
    "hook of the network": hooked(Network(lambda self, x: self.a(x), a=same())),
    "nearest by 3.3": Network(lambda self, x: F.interpolate(x, scale_factor=3.3)),
    "nearest by 0.7": Network(lambda self, x: F.interpolate(x, scale_factor=0.7)),
    "replicate padding": nn.Sequential(conv(3, 3, 3, padding=5, padding_mode="replicate"), nn.BatchNorm2d(3)),
    "old spectral norm": stale(nn.utils.spectral_norm),
    "old weight norm": nn.Sequential(stale(nn.utils.weight_norm), nn.ReLU()),
    "keyword": Network(calls_twice, a=same()),
    "mask": Network(lambda self, x: x * (torch.arange(8) > 3)),
    "constant": Network(writes_into_a_constant),
    "empty": Network(fills_an_empty_tensor),
    "layer scale": Network(layer_scale, a=same(), gamma=GAMMA),
    "branch by a parameter": Network(reads_a_parameter, a=same(), gamma=GAMMA),
    "frozen batch norm": Network(lambda self, x: self.a(x) * self.gamma - self.gamma, a=same(), gamma=GAMMA),
    "one dimension": Network(lambda self, x: self.a(x.flatten(2)), a=nn.Conv1d(3, 4, 5, padding=2, groups=1)),
    "transposed": Network(lambda self, x: self.a(x.flatten(2)), a=nn.ConvTranspose1d(3, 4, 4, stride=2)),
    "three dimensions": Network(lambda self, x: self.a(x[:, None]), a=nn.Conv3d(1, 4, 3, padding=1)),
    "circular": Network(lambda self, x: self.a(F.pad(x, (1, 1, 1, 1), mode="circular")), a=conv(3, 4, 3)),
    "channels last": nn.Sequential(
        same().to(memory_format=torch.channels_last), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    ),
    "functional": Network(lambda self, x: F.max_pool2d(F.dropout(x, training=self.training), 2, 1)),
    "standardized weight": Network(
        lambda self, x: F.conv2d(x, (self.w - self.w.mean()) / self.w.std()), w=nn.Parameter(torch.randn(4, 3, 3, 3))
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_slope_is_above_the_bound(name):
    network = NETWORKS[name].double().eval()
    hooks = [dict(module._forward_pre_hooks) for module in network.modules()]
    before = [{key: id(value) for key, value in vars(module).items()} for module in network.modules()]
    certificate = certify(network, (3, 8, 8))
    assert before == [{key: id(value) for key, value in vars(module).items()} for module in network.modules()]
    assert hooks == [dict(module._forward_pre_hooks) for module in network.modules()]
    found = steepest_ratio(network, (3, 8, 8), starts=6, steps=20)
    assert found <= certificate.bound * (1 + 1e-9), certificate
    assert certificate.bound <= 6 * found, certificate  # none of them is unknown


def catches_errors(self, x):
    try:
        return x * x.sum().item()
    except Exception:
        return x


class TenTimes(HalfOf):
    def forward(self, x):
        return 10 * super().forward(x)


class Sum(HalfOf):
    def forward(self, x, other):
        return x + other

    def lipschitz_bound(self, input_shape):
        return 1.0


class ReadsWeight(HalfOf):
    def lipschitz_bound(self, input_shape):
        return torch.linalg.matrix_norm(self.part.weight, 2).item() / 2


def with_replaced_forward(module):
    module.forward = lambda x: 10 * x
    return module


def linear(layer_type=nn.Linear):
    layer = layer_type(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
    return layer


class TenfoldLinear(nn.Linear):
    def forward(self, x):
        return F.linear(10 * x, self.weight)


@pytest.mark.parametrize(
    ("module", "bound"),
    [
        (HalfOf(linear()), 0.5),
        (nn.Sequential(HalfOf(linear()), HalfOf(linear())), 0.25),
        (TenTimes(linear()), 5),
        (nn.Sequential(TenTimes(linear())), 5),
        (hooked(HalfOf(linear())), 5),
        (nn.Sequential(hooked(HalfOf(linear()))), 5),
        (with_replaced_forward(HalfOf(linear())), 10),
        (HalfOf(hooked(linear())), 5),
        (ReadsWeight(linear()), 0.5),
        (ReadsWeight(hooked(linear())), 5),
        (ReadsWeight(linear(TenfoldLinear)), 5),
    ],
)
def test_bound_of_a_module_itself_is_used_only_if_it_describes_the_forward_pass(module, bound):
    assert certified_bound(module, (4,)) == pytest.approx(bound, rel=1e-5)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (nn.Sequential(nn.Identity(), Network(lambda self, x: x.exp())), "aten.exp at 1"),
        (nn.Sequential(nn.Sequential(nn.LayerNorm(8))), "aten.native_layer_norm at 0.0"),
        (Network(lambda self, x: (x, x * x)), "aten.mul"),
        (Network(lambda self, x: x * (x > 0)), "aten.gt"),
        (Network(lambda self, x: x.sort(1).indices * 1.0), "aten.sort"),
        (Network(lambda self, x: x.argmax(1).double()), "aten.argmax"),
        (Network(lambda self, x: x.int().double()), "aten._to_copy"),
        (Network(lambda self, x: x.view(torch.int32).view(torch.float32)), "aten.view"),
        (Network(lambda self, x: x / x.norm()), "aten.div"),
        (Network(lambda self, x: x * torch.rand(8)), "aten.mul"),
        (Network(lambda self, x: F.dropout(x)), "aten.mul"),
        (Network(lambda self, x: x * x.sum().item()), "a Python number that depends on the input"),
        (Network(lambda self, x: x * float(x.detach().numpy().sum())), "Tensor.numpy"),
        (Network(lambda self, x: x * x.flatten().tolist()[0]), "Tensor.tolist"),
        (Network(lambda self, x: x if x.sum() > 0 else 2 * x), "a Python number that depends on the input"),
        (Network(catches_errors), "a Python number that depends on the input"),
        (Network(lambda self, x: object()), "an output of type object"),
        (Network(lambda self, x: self.buffer.add_(1) * x, buffer=GAMMA), "aten.add_, which changes a parameter"),
        (Network(lambda self, x: F.batch_norm(x, None, None, training=True)), "aten.native_batch_norm"),
        (nn.Sequential(nn.Flatten(2), nn.LSTM(64, 4)), "aten."),
        (nn.Bilinear(8, 8, 2), "TypeError"),
        (nn.Sequential(nn.Linear(8, 8), Network(lambda self, x: self.a(x, x), a=Sum(None))), "Sum at 1.a"),
    ],
)
def test_reason_names_the_operation(network, reason):
    certificate = certify(network.eval(), (3, 8, 8))
    assert certificate.bound == math.inf
    assert certificate.reason.startswith(reason)
    assert str(certificate) == f"none ({certificate.reason})"


@pytest.mark.parametrize("normalization", ["spectral", "conv_norm"])
def test_conditional_r3gan_is_bounded_for_all_labels(normalization):
    torch.manual_seed(0)
    config = DISCRIMINATORS.get("r3gan")(
        width=8, blocks=1, group_size=4, normalization=build_normalization(normalization)
    )
    D = build_discriminator(config, ImageShape(3, 16, 3)).double().eval()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    bounds = {certified_bound(D, (3, 16, 16), torch.tensor([label])) for label in range(3)}
    assert len(bounds) == 1
    assert steepest_slope(D, x, torch.arange(3)) <= bounds.pop() < math.inf


def test_labels_that_are_added_or_concatenated():
    def function(self, x, y):
        code = self.table(y)[:, :, None, None].expand(-1, -1, 8, 8)
        return self.a(torch.cat([x + code[:, :3], code], 1))

    network = Network(function, table=nn.Embedding(5, 4), a=nn.Conv2d(7, 2, 3))
    largest = plane_norm(network.a.weight.detach(), (1, 1)) * (1 + 1e-6)
    assert certified_bound(network, (3, 8, 8), torch.tensor([1])) <= largest
    network = Network(lambda self, x, y: x * F.one_hot(y, 8), a=nn.Identity())
    assert certified_bound(network, (3, 8, 8), torch.tensor([1])) == math.inf  # which labels there are is unknown


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3))
    bound = certified_bound(network, (3, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert certified_bound(network, (3, 8, 8)) == bound
    assert certified_bound(network.to(dtype), (3, 8, 8)) == pytest.approx(bound, rel=0.02)


@pytest.mark.slow
def test_deep_network():
    network = nn.Sequential(*(layer for _ in range(200) for layer in (nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))).eval()
    for layer in network[::2]:
        nn.init.ones_(layer.weight)
    assert certified_bound(network, (1, 2, 2)) == pytest.approx((1 + 1e-5) ** -100, rel=1e-3)


class Counted(nn.Module):
    """Parametrization by twice the weight. It changes its buffers in each call, also in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(2, 2))

    def forward(self, weight):
        self.calls += 1
        self.last.data = weight.detach().clone()
        return 2 * weight


def test_parametrization_that_changes_its_buffers():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    parametrize.register_parametrization(layer, "weight", Counted())
    assert certified_bound(nn.Sequential(layer, nn.ReLU()), (2,)) == pytest.approx(6, rel=1e-5)
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(2)
    assert certified_bound(nn.Sequential(layer, nn.ReLU()), (2,)) == pytest.approx(12, rel=1e-5)
