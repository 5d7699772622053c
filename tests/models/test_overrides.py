"""Which modules are PyTorch's own layers."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from models.kernels import Conv2d
from models.overrides import find_override


class OwnInit(nn.Conv2d):
    def __init__(self, channels):
        super().__init__(channels, channels, 3)
        self.extra = 1

    def another_method(self):
        return 0


class OwnForward(nn.Linear):
    def forward(self, x):
        return super().forward(2 * x)


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, 2 * weight, bias)


class OwnWeight(nn.Linear):
    @property
    def weight(self):
        return self.raw * 2

    @weight.setter
    def weight(self, value):
        self.raw = value


class OwnCall(nn.Conv2d):
    def __call__(self, x):
        return 2 * super().__call__(x)


class Network(nn.Module):
    def forward(self, x):
        return x


def replaced():
    layer = nn.Conv2d(2, 2, 3)
    layer.forward = lambda x: x
    return layer


def hooked(register):
    layer = nn.Linear(2, 2)
    getattr(layer, register)(lambda *args: None)
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(2, 2, 3),
        nn.Linear(2, 2),
        nn.Embedding(2, 2),
        Conv2d(2, 2, 3),
        OwnInit(2),
        parametrizations.spectral_norm(nn.Linear(2, 2)),
        parametrizations.weight_norm(OwnInit(2)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_of_torch_have_no_override(layer):
    assert find_override(layer) is None


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: OwnForward(2, 2), "OwnForward has its own forward"),
        (lambda: OwnConvForward(2, 2, 3), "OwnConvForward has its own _conv_forward"),
        (lambda: OwnWeight(2, 2), "OwnWeight has its own weight"),
        (lambda: OwnCall(2, 2, 3), "OwnCall has its own __call__"),
        (lambda: parametrizations.weight_norm(OwnForward(2, 2)), "OwnForward has its own forward"),
        (Network, "Network is not a layer of torch.nn"),
        (replaced, "its forward has been replaced"),
        (lambda: hooked("register_forward_hook"), "it has a forward hook"),
        (lambda: hooked("register_forward_pre_hook"), "it has a forward hook"),
        (lambda: spectral_norm(nn.Linear(2, 2)), "it has a forward hook"),
        (lambda: weight_norm(nn.Linear(2, 2)), "it has a forward hook"),
    ],
)
def test_overrides_are_found(build, reason):
    torch.manual_seed(0)
    assert find_override(build()) == reason
