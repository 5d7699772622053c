import pytest
import torch
from torch import nn

from metrics.lipschitz import LipschitzTracker, input_gradient_norms, operator_norm
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
    assert tracker.nonlinear == ["1"]
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
