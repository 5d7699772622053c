"""Build a network from its options and apply its normalization."""

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


def build_generator(config: str | GeneratorConfig, image: ImageShape) -> nn.Module:
    """Build a generator and apply its normalization.

    `config` is a registered name, for the default options, or a dataclass of options.
    The module maps z (B, z_dim) and, if class-conditional, labels y (B,) to images (B, C, H, W) in [-1, 1].
    """
    config = GENERATORS.get(config)() if isinstance(config, str) else config
    return normalize(config.build(image), config.normalization)


def build_discriminator(config: str | DiscriminatorConfig, image: ImageShape) -> nn.Module:
    """Build a discriminator and apply its normalization.

    `config` is a registered name, for the default options, or a dataclass of options.
    The module maps images (B, C, H, W) and, if class-conditional, labels y (B,) to logits (B,).
    """
    config = DISCRIMINATORS.get(config)() if isinstance(config, str) else config
    return normalize(config.build(image), config.normalization)


def build_classifier(config: str | ClassifierConfig, image: ImageShape) -> nn.Module:
    """Build a classifier and apply its normalization.

    `config` is a registered name, for the default options, or a dataclass of options.
    The module maps images (B, C, H, W) to logits (B, num_classes).
    """
    config = CLASSIFIERS.get(config)() if isinstance(config, str) else config
    return normalize(config.build(image), config.normalization)
