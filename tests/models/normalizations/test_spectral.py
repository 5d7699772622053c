import copy

import pytest
import torch
from torch import nn

from models.kernels import switch
from models.normalizations import build_normalization, normalize


@pytest.fixture
def together(monkeypatch):
    """Return a function that turns the common normalization of all layers, which GPUs use, on or off."""
    return lambda on: monkeypatch.setattr(switch, "batched_spectral_norm_is_faster", lambda weight: on)


class Network(nn.Module):
    """Layers of all types, some of the same shape, and one that the forward pass does not use."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(3))
        self.strided = nn.Conv2d(6, 4, 4, 2, 1, bias=False)
        self.transposed = nn.ConvTranspose2d(4, 6, 4, 2, 1)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.linear = nn.Linear(6, 1)
        self.embedding = nn.Embedding(3, 6)
        self.unused = nn.Linear(5, 2)

    def forward(self, x, y):
        for conv in self.convs:
            x = conv(x).tanh()
        x = self.grouped(self.transposed(self.strided(x).tanh()).tanh()).sum((2, 3))
        return (self.linear(x) + (self.embedding(y) * x).sum(1, keepdim=True)).squeeze(1)


def build(channels_last=False, **options):
    torch.manual_seed(0)
    network = Network().double()
    network = network.to(memory_format=torch.channels_last) if channels_last else network
    return normalize(network, build_normalization("spectral", **options))


def run(network, steps, second_derivatives):
    """Train, and return what came out, the gradients, and the state."""
    x = torch.randn(4, 6, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 1, 2, 0])
    results = []
    for _ in range(steps):
        x = x.detach().requires_grad_(True)
        network.zero_grad()
        logits = network(x, y)
        loss = logits.square().sum()
        if second_derivatives:
            (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
            loss = loss + gradient.square().sum()
        loss.backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        results += [logits.detach(), *(g.clone() for g in gradients)]
        with torch.no_grad():
            for p, g in zip((p for p in network.parameters() if p.grad is not None), gradients, strict=True):
                p -= 0.01 * g
    return [*results, *(value for name, value in network.state_dict().items() if "unused" not in name)]


@pytest.mark.parametrize(
    ("channels_last", "second_derivatives", "options"),
    [
        *((last, second, {}) for last in (False, True) for second in (False, True)),
        (True, True, {"gain": 2.0}),
        (False, True, {"gain": 0.5, "learn_gain": True}),
        (True, True, {"gain": 0.7, "only_lower": True}),
        (False, False, {"gain": 0.7, "learn_gain": True, "only_lower": True}),
    ],
)
def test_layers_normalized_together_equal_single_layers(together, channels_last, second_derivatives, options):
    runs = []
    for on in (False, True):
        together(on)
        runs.append(run(build(channels_last, n_power_iterations=2, **options), 3, second_derivatives))
    torch.testing.assert_close(*runs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize(
    ("options", "norms"),
    [({"gain": 1.7}, (1.7, 1.7)), ({"gain": 1.7, "only_lower": True}, (0.3, 1.7)), ({"only_lower": True}, (0.3, 1))],
    ids=str,
)
def test_norms_are_the_gain_or_at_most_the_gain(together, on, options, norms):
    together(on)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    for layer, norm in zip(network, (0.3, 3.0), strict=True):
        layer.weight.data *= norm / torch.linalg.matrix_norm(layer.weight, 2)
    before = network[0].weight.detach().clone()
    network = normalize(network, build_normalization("spectral", **options))
    for _ in range(100):
        network(torch.randn(2, 5))
    measured = [torch.linalg.matrix_norm(layer.weight, 2).item() for layer in network.eval()]
    assert measured == pytest.approx(norms, rel=1e-4)
    if "only_lower" in options:
        assert torch.equal(network[0].weight, before)


@pytest.mark.parametrize("on", [False, True])
def test_each_layer_learns_its_gain(together, on):
    together(on)
    network = build(gain=0.8, learn_gain=True)
    gains = {name: p for name, p in network.named_parameters() if name.endswith(".gain")}
    assert len(gains) == 9
    assert all(gain == 0.8 for gain in gains.values())
    network(torch.randn(1, 6, 8, 8, dtype=torch.float64), torch.tensor([0])).square().sum().backward()
    with torch.no_grad():
        gain = network.linear.parametrizations.weight[0].gain
        assert gain.grad != 0
        gain.fill_(-3.0)
    network(torch.zeros(1, 6, 8, 8, dtype=torch.float64), torch.tensor([0]))
    assert torch.linalg.matrix_norm(network.eval().linear.weight, 2).item() == pytest.approx(3, rel=1e-6)


def test_every_access_outside_of_a_forward_pass_iterates(together):
    together(True)
    network = build()
    network(torch.randn(1, 6, 8, 8, dtype=torch.float64), torch.tensor([0]))
    layer = network.unused
    before = layer.parametrizations.weight[0]._u.clone()
    first, second = layer.weight, layer.weight
    assert not torch.equal(first, second)
    assert not torch.equal(layer.parametrizations.weight[0]._u, before)


def test_copies_normalize_their_own_layers(together):
    together(True)
    network = build()
    copied = copy.deepcopy(network)
    x, y = torch.randn(1, 6, 8, 8, dtype=torch.float64), torch.tensor([0])
    state = {name: value.clone() for name, value in network.state_dict().items()}
    copied(x, y)
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    assert not torch.equal(copied.linear.parametrizations.weight[0]._v, network.linear.parametrizations.weight[0]._v)


def test_evaluation_does_not_iterate(together):
    together(True)
    network = build().eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    network(torch.randn(1, 6, 8, 8, dtype=torch.float64), torch.tensor([0]))
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
