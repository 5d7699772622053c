"""The contracts of generators, discriminators and classifiers: dataclasses of options that build torch networks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, NamedTuple

from torch import nn

from models.activation_norms import ActivationNorm
from models.activation_norms.batch import BatchNormConfig
from models.activation_norms.none import NoActivationNorm
from models.normalizations import Normalization
from models.normalizations.none import NoNormalization
from models.ranges import SIZE
from models.registry import Registry

GENERATORS: Registry["GeneratorConfig"] = Registry("generator")
DISCRIMINATORS: Registry["DiscriminatorConfig"] = Registry("discriminator")
CLASSIFIERS: Registry["ClassifierConfig"] = Registry("classifier")


class ImageShape(NamedTuple):
    """What a network must know of the data: images are (channels, resolution, resolution) in [-1, 1]."""

    channels: int
    resolution: int
    num_classes: int | None = None
    """Number of classes of a classifier or class-conditional network; None without labels"""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(ABC):
    """Base of all generators. `build` gives a module z (B, z_dim), y (B,) or None -> images (B, C, H, W) in [-1, 1]."""

    registry: ClassVar[Registry["GeneratorConfig"]] = GENERATORS

    normalization: Normalization = field(default_factory=NoNormalization)
    """Normalization of the generator's weights and layers"""
    activation_norm: ActivationNorm = field(default_factory=BatchNormConfig)
    """Norm of the generator's activations"""
    z_dim: Annotated[int, SIZE] = 128
    """Dimension of the latent z, drawn from N(0, I)"""

    @abstractmethod
    def build(self, image: ImageShape) -> nn.Module:
        """Return the bare network, initialized; ValueError when the options and `image` do not go together."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(ABC):
    """Base of all discriminators. `build` gives a module x (B, C, H, W), y (B,) or None -> logits (B,)."""

    registry: ClassVar[Registry["DiscriminatorConfig"]] = DISCRIMINATORS

    normalization: Normalization = field(default_factory=NoNormalization)
    """Normalization of the discriminator's weights and layers"""
    activation_norm: ActivationNorm = field(default_factory=NoActivationNorm)
    """Norm of the discriminator's activations"""

    @abstractmethod
    def build(self, image: ImageShape) -> nn.Module:
        """Return the bare network, initialized; ValueError when the options and `image` do not go together."""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(ABC):
    """Base of all classifiers. `build` gives a module x (B, C, H, W) -> logits (B, num_classes)."""

    registry: ClassVar[Registry["ClassifierConfig"]] = CLASSIFIERS

    normalization: Normalization = field(default_factory=NoNormalization)
    """Normalization of the classifier's weights and layers"""
    activation_norm: ActivationNorm = field(default_factory=BatchNormConfig)
    """Norm of the classifier's activations"""

    @abstractmethod
    def build(self, image: ImageShape) -> nn.Module:
        """Return the bare network, initialized; ValueError when the options and `image` do not go together."""
