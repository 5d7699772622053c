"""Properties of all registered networks."""

import dataclasses

import pytest
import torch
from torch import nn

from models import DISCRIMINATORS, GENERATORS, ImageShape, build_discriminator, build_generator
from models.activation_norms.batch import BatchNormConfig
from models.activation_norms.none import NoActivationNorm
from models.networks.base import DiscriminatorConfig, GeneratorConfig
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
