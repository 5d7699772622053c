import math
from functools import partial

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrize

from metrics.lipschitz import LipschitzTracker, input_gradient_norms, operator_norm, singular_values
from models import DISCRIMINATORS, ImageShape, build_discriminator
from models.normalizations import NORMALIZATIONS, build_normalization


def small_discriminator(normalization="none"):
    torch.manual_seed(0)
    options = DISCRIMINATORS.get("dcgan")(width=4, normalization=build_normalization(normalization))
    return build_discriminator(options, ImageShape(1, 16))


IMAGE = torch.zeros(1, 1, 16, 16)


@pytest.mark.parametrize("name", sorted(set(NORMALIZATIONS) - {"gradient"}))
def test_finds_every_layer_with_every_normalization(name):
    norms = LipschitzTracker(small_discriminator(name), (IMAGE,)).measure()
    assert list(norms) == ["downs.0", "downs.1", "head.linear"]
    assert all(norm > 0 for norm in norms.values())


def test_warm_start_converges_to_the_norm():
    network = small_discriminator()
    tracker = LipschitzTracker(network, (IMAGE,), iterations=3)
    truth = operator_norm(network.downs[1], (4, 8, 8), iterations=40)
    cold = tracker.measure()["downs.1"]
    for _ in range(10):
        norms = tracker.measure()
    assert cold < 0.99 * truth
    assert norms["downs.1"] == pytest.approx(truth, rel=2e-3)
    assert tracker.product(norms) == pytest.approx(norms["downs.0"] * norms["downs.1"] * norms["head.linear"])


def test_state_dict_restores_the_warm_start():
    network = small_discriminator()
    first, second = (LipschitzTracker(network, (IMAGE,), iterations=2) for _ in range(2))
    first.measure()
    second.load_state_dict(first.state_dict())
    assert first.measure() == second.measure()


def test_custom_layer_is_found_by_its_parameters():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(2.5))

        def forward(self, x):
            return self.factor * x

    norms = LipschitzTracker(nn.Sequential(Scale(), nn.ReLU()), (torch.zeros(1, 3),)).measure()
    assert norms == {"0": pytest.approx(2.5, rel=1e-6)}


def test_batch_norm_in_evaluation_is_a_layer():
    norm = nn.BatchNorm2d(2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 3.0]))
        norm.running_var.copy_(torch.tensor([1.0, 4.0]))
    norms = LipschitzTracker(nn.Sequential(norm), (torch.zeros(1, 2, 3, 3),)).measure()
    assert norms["0"] == pytest.approx(3 / (4 + 1e-5) ** 0.5, rel=1e-5)


def test_nonlinear_layer_is_not_measured():
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4))
    tracker = LipschitzTracker(network, torch.zeros(1, 2, 6, 6))
    norms = tracker.measure()
    assert list(tracker.unmeasured) == ["1"]
    assert list(norms) == ["0"]
    assert torch.tensor(tracker.product(norms)).isnan()


@pytest.mark.parametrize("name", sorted(NORMALIZATIONS))
def test_network_is_not_changed(name):
    network = small_discriminator(name).train()
    tracker = LipschitzTracker(network, (IMAGE,))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    random = torch.get_rng_state()
    tracker.measure()
    input_gradient_norms(network, torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)


class LayerScale(nn.Module):
    """x + gamma f(x), which is affine if f is."""

    def __init__(self, f):
        super().__init__()
        self.f, self.gamma = f, nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return x + self.gamma * self.f(x)


def double(size):
    """Return a linear layer x -> 2 x."""
    layer = nn.Linear(size, size)
    with torch.no_grad():
        layer.weight.copy_(2 * torch.eye(size))
    return layer


def test_block_with_a_parameter_of_its_own_does_not_hide_its_layers():
    affine = LayerScale(double(3))
    nonlinear = LayerScale(nn.Sequential(double(3), nn.ReLU(), double(3)))
    network = nn.Sequential(affine, nonlinear)
    tracker = LipschitzTracker(network, torch.zeros(1, 3))
    norms = tracker.measure()
    expected = {"0": 2.0, "0.f": 2.0, "1.f.0": 2.0, "1.f.2": 2.0}
    assert norms == {path: pytest.approx(norm, rel=1e-6) for path, norm in expected.items()}
    assert tracker.unmeasured == {"1": "not affine"}
    assert math.isnan(tracker.product(norms))  # the parameter of the block is a factor that is not known
    tracker = LipschitzTracker(nn.Sequential(affine, nn.ReLU(), double(3)), torch.zeros(1, 3))
    assert tracker.product(tracker.measure()) == pytest.approx(2 * 2)  # the layer inside the block does not count


@pytest.mark.parametrize("norm", [False, True])
def test_block_that_is_affine_at_first(norm):
    block = LayerScale(nn.Sequential(double(4), nn.ReLU(), double(4)))
    layer, factor = (nn.GroupNorm(2, 4), "weight") if norm else (block, "gamma")
    nn.init.zeros_(getattr(layer, factor))
    tracker = LipschitzTracker(nn.Sequential(layer, double(4)), torch.zeros(1, 4))
    norms = tracker.measure()
    assert norms["0"] == pytest.approx(0 if norm else 1)
    assert tracker.product(norms) == pytest.approx(norms["0"] * 2)
    nn.init.ones_(getattr(layer, factor))
    norms = tracker.measure()
    assert math.isnan(norms["0"])
    assert norms["1"] == pytest.approx(2)
    assert math.isnan(tracker.product(norms))


def test_network_with_a_parameter_of_its_own():
    network = LayerScale(nn.Sequential(double(3), double(3)))
    tracker = LipschitzTracker(network, torch.zeros(1, 3))
    norms = tracker.measure()
    assert list(norms) == ["", "f.0", "f.1"]
    assert tracker.product(norms) == pytest.approx(1 + 0.5 * 4)


def test_parametrized_block():
    block = parametrize.register_parametrization(LayerScale(double(3)), "gamma", nn.Identity())
    norms = LipschitzTracker(block, torch.zeros(1, 3)).measure()
    assert list(norms) == ["", "f"]
    assert norms[""] == pytest.approx(2)


class Unusual(nn.Module):
    """A network whose layers are called in every way."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.bilinear = nn.Bilinear(4, 4, 4)
        self.never = nn.Linear(4, 4)
        self.by_keyword, self.several, self.last = double(4), Tuple(), double(4)
        self.modulated = Modulated()
        self.fragile = Fragile()
        self.shared = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x, y=None):
        h = self.embedding(torch.zeros(len(x), 3, dtype=torch.int64)) + x
        h = self.attention(h, h, h)[0] + self.lstm(h)[0][:, -1:]
        h = self.bilinear(h, 2 * h) + self.by_keyword(input=h)
        h, _ = self.several(h)
        h = self.modulated(h, torch.ones(len(x), dtype=torch.int64), scale=3.0)
        h = self.fragile(h)
        h = h + self.shared(h.flatten(1)[:, None]).view(h.shape) + self.shared(h[:, :1])
        return self.last(h)


class Tuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.factor * x, x


class Modulated(nn.Module):
    """x -> scale · e_y · x."""

    def __init__(self):
        super().__init__()
        self.factors = nn.Parameter(torch.tensor([[1.0], [4.0]]))

    def forward(self, x, y, *, scale):
        return scale * self.factors[y][..., None] * x


class Fragile(nn.Module):
    """A layer that refuses most inputs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.most = 1e9

    def forward(self, x):
        if x.abs().max() > self.most:
            raise ValueError("too large\nfor this layer")
        return self.weight * x


def test_unusual_layers_do_not_hide_the_others():
    torch.manual_seed(0)
    network = Unusual()
    tracker = LipschitzTracker(network, torch.randn(2, 3, 4))
    norms = tracker.measure()
    assert tracker.unmeasured == {
        "embedding": "called with integers",
        "attention": "not affine",
        "attention.out_proj": "never called",
        "lstm": "not affine",
        "bilinear": "called with several tensors",
        "never": "never called",
    }
    shared = operator_norm(network.shared, (1, 12))  # at its largest input
    assert norms == {
        "by_keyword": pytest.approx(2, rel=1e-6),
        "several": pytest.approx(5**0.5, rel=1e-6),
        "last": pytest.approx(2, rel=1e-6),
        "modulated": pytest.approx(12, rel=1e-6),
        "fragile": pytest.approx(2, rel=1e-6),
        "shared": pytest.approx(shared, rel=1e-3),
    }
    assert tracker.input_shapes["shared"] == (1, 12)
    assert math.isnan(tracker.product(norms))
    for path, layer in tracker.layers.items():
        assert singular_values(layer, tracker.input_shapes[path]).max().item() == pytest.approx(norms[path], rel=1e-3)


class Detached(Fragile):
    def forward(self, x):
        return super().forward(x.detach())


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_layers_that_cannot_be_differentiated_or_hooked_are_not_measured():
    scripted = torch.jit.script(nn.Linear(3, 3))
    tracker = LipschitzTracker(nn.Sequential(double(3), Detached(), scripted), torch.zeros(1, 3))
    assert list(tracker.unmeasured) == ["1", "2"]
    assert tracker.unmeasured["1"].startswith("RuntimeError: ")
    assert tracker.unmeasured["2"] == "a ScriptModule, which accepts no hooks"
    assert tracker.measure() == {"0": pytest.approx(2, rel=1e-6)}


def test_layer_that_raises_an_error_is_not_measured():
    network = nn.Sequential(Fragile(), double(3))
    network[0].most = 0.5
    tracker = LipschitzTracker(network, torch.zeros(1, 3))
    assert tracker.unmeasured == {"0": "ValueError: too large"}
    assert tracker.measure() == {"1": pytest.approx(2, rel=1e-6)}


def test_layer_that_raises_an_error_later_is_left_out_with_a_warning():
    network = nn.Sequential(Fragile(), double(3))
    tracker = LipschitzTracker(network, torch.zeros(1, 3))
    network[0].most = 0.0
    with pytest.warns(UserWarning, match="the norm of 0 could not be measured: ValueError: too large"):
        norms = tracker.measure()
    assert norms == {"0": pytest.approx(math.nan, nan_ok=True), "1": pytest.approx(2, rel=1e-6)}
    assert math.isnan(tracker.product(norms))
    network[0].most = 1e9
    assert tracker.measure()["0"] == pytest.approx(2, rel=1e-6)


def test_layers_of_integers_are_constants_for_the_product():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.linear = nn.Embedding(2, 3), double(3)

        def forward(self, x, y):
            return self.linear(x) + self.embedding(y)

    tracker = LipschitzTracker(Conditional(), (torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64)))
    assert list(tracker.unmeasured) == ["embedding"]
    assert tracker.product(tracker.measure()) == pytest.approx(2, rel=1e-6)


def test_state_of_a_tracker_with_other_layers():
    network = nn.Sequential(double(3), double(3), double(3))
    tracker = LipschitzTracker(network, torch.zeros(1, 3))
    own = tracker.state_dict()
    other = torch.tensor([1.0, 0.0, 0.0])
    tracker.load_state_dict({"0": other.double(), "1": torch.ones(5), "unknown": other})
    assert torch.equal(tracker.state_dict()["0"], other)
    assert torch.equal(tracker.state_dict()["1"], own["1"])
    assert torch.equal(tracker.state_dict()["2"], own["2"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_network_of_16_bits_is_measured_in_single_precision(dtype):
    narrow, wide = small_discriminator("spectral").to(dtype), small_discriminator("spectral")
    wide.load_state_dict(narrow.state_dict())
    tracker = LipschitzTracker(narrow, IMAGE.to(dtype))
    norms = tracker.measure()
    assert norms == LipschitzTracker(wide, IMAGE).measure()
    assert list(norms) == ["downs.0", "downs.1", "head.linear"]
    assert all(vector.dtype == torch.float32 for vector in tracker.state_dict().values())
    assert all(parameter.dtype == dtype for parameter in narrow.parameters())


@pytest.mark.parametrize(
    "context", [partial(torch.autocast, "cpu", torch.bfloat16), torch.inference_mode, torch.no_grad]
)
def test_context_of_the_caller_has_no_effect(context):
    network = small_discriminator()
    tracker = LipschitzTracker(network, IMAGE)
    truth = tracker.measure(), tracker.measure()
    with context():
        tracker = LipschitzTracker(network, IMAGE.clone())
        assert (tracker.measure(), tracker.measure()) == truth


def test_attention_and_layer_scale_of_a_vision_transformer_do_not_hide_layers():
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(16, 8, 2, 2, 8, 16, num_classes=3)
    nn.init.normal_(network.heads.head.weight)
    tracker = LipschitzTracker(network, torch.zeros(1, 3, 16, 16))
    norms = tracker.measure()
    linear = [path for path, module in network.named_modules() if type(module) in (nn.Conv2d, nn.Linear)]
    assert list(norms) == linear
    assert set(tracker.unmeasured) == {
        *("", "encoder"),  # their own parameters are the class token and the positions
        *(path for path, module in network.named_modules() if isinstance(module, nn.LayerNorm)),
        *(f"encoder.layers.encoder_layer_{i}.self_attention" for i in range(2)),
        *(f"encoder.layers.encoder_layer_{i}.self_attention.out_proj" for i in range(2)),
    }
