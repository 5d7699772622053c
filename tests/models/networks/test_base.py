"""Properties of all registered networks."""

import dataclasses

import pytest
import torch
from torch import nn

from metrics.lipschitz.certificate import certified_bound
from models import DISCRIMINATORS, GENERATORS, ImageShape, build_discriminator, build_generator
from models.activation_norms.batch import BatchNormConfig
from models.activation_norms.none import NoActivationNorm
from models.networks.base import DiscriminatorConfig, GeneratorConfig
from models.networks.layers import MaxMin
from models.normalizations.spectral import SpectralNorm

CONFIGS = [
    (kind, registry.get(name)) for kind, registry in (("G", GENERATORS), ("D", DISCRIMINATORS)) for name in registry
]


def test_base_classes_are_abstract():
    for base in (GeneratorConfig, DiscriminatorConfig):
        with pytest.raises(TypeError, match="abstract"):
            base()


@pytest.mark.parametrize(("kind", "cls"), CONFIGS)
def test_configs_are_frozen_and_reject_unknown_options(kind, cls):
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().width = 3
    with pytest.raises(TypeError, match="no_such_option"):
        cls(no_such_option=1)


@pytest.mark.parametrize(("kind", "cls"), CONFIGS)
def test_default_activation_norms(kind, cls):
    # Only R3GAN's generator has no batch norm. The discriminators have no activation norm.
    expected = BatchNormConfig if kind == "G" and "R3GAN" not in cls.__name__ else NoActivationNorm
    assert type(cls().activation_norm) is expected


def test_build_by_name():
    image = ImageShape(1, 16)
    assert build_generator("dcgan", image)(torch.randn(2, 128)).shape == (2, 1, 16, 16)
    assert build_discriminator("dcgan", image)(torch.randn(2, 1, 16, 16)).shape == (2,)
    with pytest.raises(ValueError, match="did you mean 'dcgan'"):
        build_generator("dcgn", image)


@pytest.mark.parametrize("name", list(DISCRIMINATORS))
def test_normalization_is_applied_to_every_layer(name):
    config = DISCRIMINATORS.get(name)(
        width=4, normalization=SpectralNorm(), **({"group_size": 4} if name == "r3gan" else {})
    )
    network = build_discriminator(config, ImageShape(3, 16, 2))
    for path, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            assert nn.utils.parametrize.is_parametrized(layer, "weight"), path


@pytest.mark.parametrize("name", list(DISCRIMINATORS))
def test_activation_of_every_discriminator(name):
    def build(**options):
        torch.manual_seed(0)
        config = DISCRIMINATORS.get(name)(width=8, **options, **({"group_size": 4} if name == "r3gan" else {}))
        return build_discriminator(config, ImageShape(3, 16)).double()

    default, maxmin = build(), build(activation="maxmin")
    assert default.state_dict().keys() == maxmin.state_dict().keys()
    assert not any(isinstance(module, MaxMin) for module in default.modules())
    assert not any(isinstance(module, nn.ReLU | nn.LeakyReLU) for module in maxmin.modules())
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert not torch.allclose(default(x), maxmin(x))


@pytest.mark.parametrize("shape", [(2, 4), (2, 5), (1, 1, 3), (2, 6, 3, 2)])
def test_maxmin(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = MaxMin()(x)
    paired = shape[1] // 2 * 2
    expected = x.detach().clone()
    for i in range(0, paired, 2):
        expected[:, i : i + 2] = x.detach()[:, i : i + 2].sort(dim=1, descending=True).values
    assert torch.equal(y, expected)
    (gradient,) = torch.autograd.grad(y, x, torch.arange(1.0, y.numel() + 1).view_as(y).double())
    assert gradient.flatten().sort().values.tolist() == list(range(1, y.numel() + 1))
    assert certified_bound(MaxMin(), shape[1:]) == 1
