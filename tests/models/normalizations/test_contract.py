"""Tests that every registered normalization must pass for every type of layer."""

import copy
import itertools
import shutil
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from gan.training.ema import EMA
from models.normalizations import NORMALIZATIONS, build_normalization, normalize
from tests.pairwise import pairwise_cover

IMAGES = (2, 4, 8, 8)
OPTIONS = [(name, {}) for name in NORMALIZATIONS] + [
    ("conv_norm", {"running_average": True}),
    ("conv_norm", {"through_gradient": True, "affine": False}),
    ("conv_norm", {"stride": "strided", "batch_norm": True}),
    ("oni", {"learn_scale": True}),
    ("spectral", {"gain": 0.5, "learn_gain": True}),
    ("spectral", {"gain": 0.5, "only_lower": True}),
]
LAYERS = {
    **{
        f"conv{kernel}s{stride}g{groups}": (
            lambda k=kernel, s=stride, g=groups: nn.Conv2d(4, 6, k, s, 1, groups=g),
            lambda: torch.randn(IMAGES),
        )
        for kernel, stride, groups in pairwise_cover([*itertools.product((1, 2, 3, 4), (1, 2), (1, 2))])
    },
    "conv_dilated_reflect": (
        lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2, padding_mode="reflect"),
        lambda: torch.randn(IMAGES),
    ),
    "conv_narrow": (lambda: nn.Conv2d(4, 6, (1, 3), (1, 2), bias=False), lambda: torch.randn(IMAGES)),
    "conv_many_outputs": (lambda: nn.Conv2d(1, 6, 1), lambda: torch.randn(2, 1, 8, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1), lambda: torch.randn(IMAGES)),
    "transposed_grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), lambda: torch.randn(IMAGES)),
    "linear": (lambda: nn.Linear(6, 4), lambda: torch.randn(5, 6)),
    "linear_tall": (lambda: nn.Linear(3, 8), lambda: torch.randn(5, 3)),
    "linear_head": (lambda: nn.Linear(6, 1), lambda: torch.randn(5, 6)),
    "embedding": (lambda: nn.Embedding(7, 5), lambda: torch.arange(7)),
}

# For a row with a single entry, these normalizations keep only its sign.
SIGN_ONLY = defaultdict(set, weight={"parametrizations.weight.original1"})

names = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda value: str(value) if value else "")
FEW_LAYERS = ("conv4s2g2", "transposed", "linear")


def on_layers(kinds: Iterable[str]) -> pytest.MarkDecorator:
    """Return the decorator of a test of the defaults on all `kinds` of layers, and of other options on few of them."""
    cases = [(name, options, kind) for name, options in OPTIONS for kind in kinds if not options or kind in FEW_LAYERS]
    return pytest.mark.parametrize(("name", "options", "kind"), cases, ids=lambda value: str(value) if value else "")


layers = on_layers(LAYERS)
few_layers = on_layers((*FEW_LAYERS, "embedding"))


def build(name, options, kind):
    torch.manual_seed(0)
    make, inputs = LAYERS[kind]
    normalization, bare = build_normalization(name, **options), make()
    if not accepts(normalization, bare):
        with pytest.raises(ValueError, match=f"^{name} "):
            normalize(bare, normalization)
        pytest.skip(f"{name} refuses this layer")
    return normalization.normalize(copy.deepcopy(bare)), bare, inputs()


def accepts(normalization, layer):
    return isinstance(layer, normalization.types) and normalization.find_obstacle(layer) is None


def copy_state(layer):
    return {key: value.clone() for key, value in layer.state_dict().items()}


@layers
def test_shapes_gradients_and_state(name, options, kind):
    layer, bare, x = build(name, options, kind)
    x = x.requires_grad_() if x.is_floating_point() else x
    ema = EMA(layer)  # before the first batch, since some buffers get their shape from it
    y = layer(x)
    assert y.shape == bare(x).shape
    (y * torch.randn_like(y)).sum().backward()
    assert torch.isfinite(y).all()
    for path, parameter in layer.named_parameters():
        assert parameter.grad is not None, path
        assert torch.isfinite(parameter.grad).all(), path
        assert parameter.grad.abs().max() > 0 or (kind == "conv_many_outputs" and path in SIGN_ONLY[name]), path
    if x.is_floating_point():
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().max() > 0

    layer.eval()
    before = copy_state(layer)
    with torch.no_grad():
        expected = layer(x)
        assert torch.equal(layer(x), expected)
        check_copies(name, options, kind, layer, x, expected)
        ema.update(layer, 1.0)
        assert torch.equal(ema.network(x), expected)
    assert all(torch.equal(value, layer.state_dict()[key]) for key, value in before.items())


def check_copies(name, options, kind, layer, x, expected):
    torch.manual_seed(1)
    restored = build_normalization(name, **options).normalize(LAYERS[kind][0]()).eval()
    restored.load_state_dict(layer.state_dict())
    assert torch.equal(restored(x), expected)
    assert torch.equal(copy.deepcopy(layer)(x), expected)


@few_layers
def test_two_passes_before_one_backward(name, options, kind):
    layer, _, x = build(name, options, kind)
    (layer(x).square().sum() - layer(x).sum()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())


@few_layers
def test_single_precision_equals_double_precision(name, options, kind):
    check_single_precision(name, options, kind, "cpu")


@pytest.mark.gpu
@layers
def test_gpu_equals_double_precision_on_cpu(name, options, kind, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    check_single_precision(name, options, kind, "cuda")


def check_single_precision(name, options, kind, device):
    layer, _, x = build(name, options, kind)
    results = []
    for place, dtype in (("cpu", torch.float64), (device, torch.float32)):
        copied = copy.deepcopy(layer).to(place, dtype)
        inputs = (x.to(place, dtype) if x.is_floating_point() else x.to(place)).detach()
        inputs.requires_grad_(x.is_floating_point())
        for _ in range(2):  # the second pass starts from the state that the first has left
            copied.zero_grad()
            y = copied(inputs)
            assert y.dtype == dtype
            weights = torch.arange(y.numel(), dtype=torch.float64).cos().view_as(y).to(y)
            (y * weights).sum().backward()
        gradients = {path: parameter.grad for path, parameter in copied.named_parameters()}
        results.append({"output": y.detach(), "input": inputs.grad, **gradients})
    exact, measured = ({path: part for path, part in parts.items() if part is not None} for parts in results)
    assert exact.keys() == measured.keys()
    largest = max(part.abs().max() for part in exact.values())
    for path, part in exact.items():  # some gradients are zero but for rounding
        error = (measured[path].cpu().double() - part).abs().max()
        assert error < 1e-3 * max(part.abs().max(), 0.05 * largest), path


@few_layers
def test_bfloat16_autocast(name, options, kind):
    layer, _, x = build(name, options, kind)
    layer.eval()
    with torch.no_grad():
        expected = layer(x)
    layer.train()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        layer.eval()
        evaluated = layer(x)
    y.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    if "running_average" not in options and "batch_norm" not in options:
        assert (evaluated.float() - expected).norm() <= 0.03 * expected.norm()


@names
def test_gradients_of_first_and_second_order_in_evaluation(name, options):
    for kind in ("conv3s1g1", "transposed_grouped", "linear"):
        if not accepts(build_normalization(name, **options), LAYERS[kind][0]()):
            continue
        layer, _, x = build(name, options, kind)
        x = x[:1, :, :3, :4] if x.dim() == 4 else x[:2]
        if isinstance(x, torch.Tensor) and "batch_norm" in options:
            layer(x)
        layer = layer.double().eval()
        x = x.double().requires_grad_()
        # The fast mode compares random projections of the Jacobians, which is enough to find a wrong derivative.
        assert torch.autograd.gradcheck(lambda x, layer=layer: layer(x).tanh().sum(-1), (x,), fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda x, layer=layer: layer(x).tanh().sum(-1), (x,), fast_mode=True)
        if name != "conv_norm":  # its V is a constant for the gradient; test_conv_norm.py tests it
            parameters = {path: p.detach().clone().requires_grad_() for path, p in layer.named_parameters()}

            def output(*values, layer=layer, parameters=parameters, x=x):
                return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x.detach(),))

            assert torch.autograd.gradcheck(output, tuple(parameters.values()), fast_mode=True)
            assert torch.autograd.gradgradcheck(output, tuple(parameters.values()), fast_mode=True)


class Network(nn.Module):
    """A small discriminator with a layer of each type, one of which is used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.ConvTranspose2d(4, 4, 4, 2, 1))
        self.again = self.first
        self.head = nn.Linear(4, 1)
        self.embed = nn.Embedding(3, 4)

    def layers(self):
        return self.first, self.body[0], self.body[2], self.head, self.embed

    def forward(self, x, y=None):
        h = self.again(self.body(self.first(x).tanh())).sum((2, 3))
        logits = self.head(h).squeeze(1)
        return logits if y is None else logits + (h * self.embed(y)).sum(1)


def is_normalized(layer):
    return type(layer) not in {nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding}


@names
def test_network_trains_and_shared_layers_stay_shared(name, options):
    torch.manual_seed(0)
    normalization = build_normalization(name, **options)
    accepted = [accepts(normalization, layer) for layer in Network().layers()]
    network = normalize(Network(), normalization)
    inner = getattr(network, "network", network)
    assert inner.first is inner.again
    if name not in {"none", "gradient"}:
        assert [is_normalized(layer) for layer in inner.layers()] == accepted
        assert sum(accepted) >= 4
    x, y = torch.randn(3, 4, 8, 8), torch.arange(3)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        network(x, y).square().mean().backward()
        optimizer.step()
    assert network(x, y).shape == (3,)
    assert torch.isfinite(network(x)).all()


@pytest.mark.parametrize("name", sorted(set(NORMALIZATIONS) - {"none", "gradient"}))
def test_include_and_exclude(name):
    chosen = build_normalization(name, include=("body.*", "head"), exclude=("*.2",))
    network = normalize(Network(), chosen, exclude=("head",))
    assert is_normalized(network.body[0])
    assert not any(is_normalized(layer) for layer in (network.first, network.body[2], network.head, network.embed))


def test_gradient_rejects_include_and_exclude():
    for options in ({"include": ("head",)}, {"exclude": ("head",)}):
        with pytest.raises(ValueError, match="as a whole"):
            normalize(Network(), build_normalization("gradient", **options))


# Compilation takes long. The fast tests compile networks whose shared layer updates its buffers twice in a pass;
# test_spectral_conv.py compiles convolutions with `spectral_conv`.
COMPILED_KINDS = ["conv3s1g1", "conv4s2g2", "transposed", "linear", "embedding"]
FAST_NETWORKS = {"gradient", "none"}


def mark_slow(fast: bool) -> tuple:
    return () if fast else pytest.mark.slow


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings from dynamo
@names
@pytest.mark.parametrize("kind", COMPILED_KINDS)
def test_compiled_equals_eager(name, options, kind):
    # A compiled torch.nn spectral norm does not support two forward passes before one backward pass.
    check_compiled(*build(name, options, kind)[::2], two_passes=name != "spectral")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=mark_slow(name in FAST_NETWORKS)) for name in sorted(NORMALIZATIONS)]
)
def test_compiled_network_equals_eager(name):
    torch.manual_seed(0)
    check_compiled(normalize(Network(), name), torch.randn(2, 4, 8, 8), two_passes=name != "spectral")


def check_compiled(layer, x, two_passes):
    torch.compiler.reset()
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, backend="aot_eager")
    for _ in range(3):
        expected, y = eager(x), compiled(x)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        if two_passes:
            expected, y = expected + eager(x).abs(), y + compiled(x).abs()
        # Weighted, since sums and sums of squares after batch norm are constant.
        weights = torch.arange(y.numel()).cos().view_as(y) / y.numel()
        (expected * weights).sum().backward()
        (y * weights).sum().backward()
    for one, other in zip(layer.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(layer.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(compiled.eval()(x), eager.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.fixture
def copied_package(tmp_path, monkeypatch):
    """Return the folder of a copy of the package `models`, from which the test imports it."""

    def is_models(name: str) -> bool:
        return name.split(".")[0] == "models"

    for name in filter(is_models, list(sys.modules)):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    source = Path(__file__).parents[3] / "models"
    yield shutil.copytree(source, tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__"))
    for name in filter(is_models, list(sys.modules)):
        del sys.modules[name]


def test_second_copy_of_the_package_leaves_the_operator_of_the_first(copied_package):
    from models.normalizations import spectral_conv

    assert spectral_conv.__file__.startswith(str(copied_package))
    assert spectral_conv._track_operator is torch.ops.convnorm_gan.track


def test_new_file_is_registered(copied_package):
    (copied_package / "normalizations" / "halved.py").write_text(
        textwrap.dedent('''
            """Half of the weight."""

            from dataclasses import dataclass

            from torch import nn
            from torch.nn.utils import parametrize

            from models.normalizations.base import NORMALIZATIONS, Normalization


            @NORMALIZATIONS.register("halved")
            @dataclass(frozen=True, kw_only=True)
            class Halved(Normalization):
                """W / 2."""

                factor: float = 0.5
                """Factor of the weight"""

                def normalize(self, layer):
                    return parametrize.register_parametrization(layer, "weight", Scale(self.factor))


            class Scale(nn.Module):
                def __init__(self, factor):
                    super().__init__()
                    self.factor = factor

                def forward(self, weight):
                    return self.factor * weight
        ''')
    )
    from models import DISCRIMINATORS, ImageShape, build_discriminator, normalizations

    assert normalizations.__file__ == str(copied_package / "normalizations" / "__init__.py")
    halved = normalizations.build_normalization("halved", factor=0.25)
    network = build_discriminator(DISCRIMINATORS.get("dcgan")(width=4, normalization=halved), ImageShape(1, 16))
    head = network.head.linear
    assert torch.equal(head.weight, 0.25 * head.parametrizations.weight.original)
