"""Generators, discriminators, classifiers: registered dataclasses of options that build torch modules, normalized."""

from torch import nn

from models.networks.base import (
    CLASSIFIERS,
    DISCRIMINATORS,
    GENERATORS,
    ClassifierConfig,
    DiscriminatorConfig,
    GeneratorConfig,
    ImageShape,
)
from models.normalizations import normalize

__all__ = [
    "CLASSIFIERS",
    "DISCRIMINATORS",
    "GENERATORS",
    "ClassifierConfig",
    "DiscriminatorConfig",
    "GeneratorConfig",
    "ImageShape",
    "build_classifier",
    "build_discriminator",
    "build_generator",
]


def build_generator(config: str | GeneratorConfig, image: ImageShape) -> nn.Module:
    """Return the generator `config` describes, normalized, as a module z (B, z_dim) -> (B, C, H, W) in [-1, 1]."""
    config = GENERATORS.get(config)() if isinstance(config, str) else config
    return normalize(config.build(image), config.normalization)


def build_discriminator(config: str | DiscriminatorConfig, image: ImageShape) -> nn.Module:
    """Return the discriminator `config` describes, normalized, as a module (B, C, H, W) -> logits (B,)."""
    config = DISCRIMINATORS.get(config)() if isinstance(config, str) else config
    return normalize(config.build(image), config.normalization)


def build_classifier(config: str | ClassifierConfig, image: ImageShape) -> nn.Module:
    """Return the classifier `config` describes, normalized, as a module (B, C, H, W) -> logits (B, num_classes)."""
    config = CLASSIFIERS.get(config)() if isinstance(config, str) else config
    return normalize(config.build(image), config.normalization)
