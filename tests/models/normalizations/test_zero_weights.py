"""Layers whose weight is zero, wholly or in part, as the heads and zero convolutions of many networks at the start."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.kernels import switch
from models.normalizations import NORMALIZATIONS, build_normalization, normalize
from models.normalizations.weight_matrices import SMALLEST_DIVISOR, divisor

LAYERWISE = sorted(set(NORMALIZATIONS) - {"none", "gradient"})
OPTIONS = [(name, {}) for name in LAYERWISE] + [("conv_norm", {"through_gradient": True})]
options = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
CLASSES = 10


class Residual(nn.Module):
    """x + zero(x), the start of a residual branch or of a zero convolution."""

    def __init__(self, zero, size):
        super().__init__()
        self.zero, self.size = zero, size

    def forward(self, x):
        x = x.unflatten(1, self.size)
        return (x + self.zero(x)).flatten(1)


def build(kind):
    """Return a classifier of 32 features with a layer of zeros."""
    if kind == "head":
        zero = nn.Linear(32, CLASSES)
        network = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), zero)
    else:
        zero, size = {
            "1x1": (nn.Conv2d(4, 4, 1), (4, 2, 4)),
            "conv1d": (nn.Conv1d(4, 4, 3, padding=1), (4, 8)),
            "conv2d": (nn.Conv2d(4, 4, 3, padding=1, groups=2), (4, 2, 4)),
            "conv3d": (nn.Conv3d(4, 4, 3, padding=1), (4, 2, 2, 2)),
            "transposed": (nn.ConvTranspose2d(4, 4, 3, padding=1), (4, 2, 4)),
        }[kind]
        network = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), Residual(zero, size), nn.Linear(32, CLASSES))
    nn.init.zeros_(zero.weight)
    return network


def train(network, clip, steps=30):
    """Train with Adam, and return the losses. Every gradient must be finite and of a usual size."""
    y = torch.arange(50) % CLASSES
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(0)) + 3 * F.one_hot(y, 32)
    x = x.to(next(network.parameters()).dtype)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x).float(), y)
        loss.backward()
        assert all(p.grad.isfinite().all() and p.grad.abs().max() < 1e3 for p in network.parameters())
        if clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


@options
@pytest.mark.parametrize(
    ("kind", "clip", "dtype"),
    [
        pytest.param("head", None, torch.float32, marks=pytest.mark.slow),
        ("head", 1.0, torch.float32),
        ("conv2d", 1.0, torch.bfloat16),
        pytest.param("head", 1.0, torch.bfloat16, marks=pytest.mark.slow),
        pytest.param("conv2d", 1.0, torch.float32, marks=pytest.mark.slow),
        pytest.param("conv2d", None, torch.bfloat16, marks=pytest.mark.slow),
        pytest.param("1x1", 1.0, torch.float32, marks=pytest.mark.slow),
        pytest.param("conv1d", 1.0, torch.float32, marks=pytest.mark.slow),
        pytest.param("conv3d", 1.0, torch.float32, marks=pytest.mark.slow),
        pytest.param("transposed", 1.0, torch.float32, marks=pytest.mark.slow),
    ],
)
def test_a_layer_of_zeros_trains(name, options, kind, clip, dtype):
    torch.manual_seed(0)
    path = "2" if kind == "head" else "2.zero"
    network = normalize(build(kind).to(dtype), build_normalization(name, include=(path,), **options))
    before = network.get_submodule(path).weight.detach().clone()
    stays_zero = not before.any()
    losses = train(network, clip)
    if stays_zero:
        assert losses[0] == pytest.approx(2.3, abs=0.2)
    else:  # an orthogonal weight is never zero
        norms = before.float().flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0.01, atol=0)
    assert losses[-1] < 1
    assert (network.get_submodule(path).weight - before).abs().max() > 0.01


@options
@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(16, 16, 3, groups=2), nn.Conv1d(3, 4, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_rows_have_gradients_like_any_others(name, options, layer, dtype):
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).to(dtype)
    layer.reset_parameters()  # with the seed
    with torch.no_grad():
        layer.weight[1] = 0
    layer = build_normalization(name, **options).normalize(layer)
    x = torch.randn(3, layer.weight.shape[1] * getattr(layer, "groups", 1), *[5] * (layer.weight.dim() - 2)).to(dtype)
    y = layer(x)
    assert y.isfinite().all()
    (y.float() * torch.randn(y.shape)).sum().backward()
    for path, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all(), path
        assert parameter.grad.abs().max() < 1e3, path
    gradients = [p.grad for path, p in layer.named_parameters() if "weight" in path and "affine" not in path]
    rows = [gradient[1] if len(gradient) == 4 else gradient for gradient in gradients]
    assert any(row.abs().max() > 1e-3 for row in rows)


@pytest.mark.parametrize("name", ["spectral", "bidirectional_spectral", "stable_rank", "spectral_conv"])
def test_a_layer_that_was_zero_gets_its_norm(name):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, padding=1)
    nn.init.zeros_(layer.weight)
    layer = normalize(layer, name)
    _ = layer.weight
    weight = torch.randn_like(layer.weight)
    layer.parametrizations.weight.original.data.copy_(1e-3 * weight)
    for _ in range(100):
        result = layer.weight
    fresh = nn.Conv2d(4, 6, 3, padding=1)
    fresh.weight.data.copy_(weight)
    fresh = normalize(fresh, name)
    for _ in range(100):
        expected = fresh.weight
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("together", [False, True])
def test_spectral_norms_of_zeros_computed_together(together, monkeypatch):
    monkeypatch.setattr(switch, "batched_spectral_norm_is_faster", lambda weight: together)
    torch.manual_seed(0)
    network = build("head")
    network[0].weight.data[:2] = 0
    assert train(normalize(network, "spectral"), 1.0)[-1] < 1.3


def test_gradient_normalization_of_a_head_of_zeros():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    nn.init.zeros_(network[2].weight)
    nn.init.zeros_(network[2].bias)
    network = normalize(network, "gradient")
    x = torch.randn(40, 8)
    target = x[:, 0].sign()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (1 - target * network(x)).relu().mean()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in network.parameters())
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == 1
    assert losses[-1] < 0.7


def test_divisor():
    norm = torch.tensor([0.0, 0.5 * SMALLEST_DIVISOR, 2 * SMALLEST_DIVISOR, 3.0], requires_grad=True)
    torch.testing.assert_close(divisor(norm), torch.tensor([1.0, 1.0, 2 * SMALLEST_DIVISOR, 3.0]))
    divisor(norm).sum().backward()
    assert torch.equal(norm.grad, torch.tensor([0.0, 0, 1, 1]))
