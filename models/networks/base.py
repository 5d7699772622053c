"""Base classes of generators, discriminators and classifiers: dataclasses of options that build torch modules."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, NamedTuple

from torch import nn

from models.activation_norms import ActivationNorm
from models.activation_norms.batch import BatchNormConfig
from models.activation_norms.none import NoActivationNorm
from models.networks.layers import MaxMin
from models.normalizations import Normalization
from models.normalizations.none import NoNormalization
from models.ranges import SIZE
from models.registry import Registry

GENERATORS: Registry["GeneratorConfig"] = Registry("generator")
DISCRIMINATORS: Registry["DiscriminatorConfig"] = Registry("discriminator")
CLASSIFIERS: Registry["ClassifierConfig"] = Registry("classifier")


class ImageShape(NamedTuple):
    """The properties of a data set that determine a network. Images are (channels, resolution, resolution)."""

    channels: int
    resolution: int
    num_classes: int | None = None
    """Number of classes for a classifier or a class-conditional network; None for an unconditional network"""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(ABC):
    """Base class of all generators. The fields of a subclass are its YAML options.

    The module that `build` returns maps z (B, z_dim) and y (B,) or None to images (B, C, H, W) in [-1, 1].
    """

    registry: ClassVar[Registry["GeneratorConfig"]] = GENERATORS

    normalization: Normalization = field(default_factory=NoNormalization)
    """Normalization of the generator's weights and layers"""
    activation_norm: ActivationNorm = field(default_factory=BatchNormConfig)
    """Normalization of the generator's activations"""
    z_dim: Annotated[int, SIZE] = 128
    """Dimension of the latent z, which is sampled from N(0, I)"""

    @abstractmethod
    def build(self, image: ImageShape) -> nn.Module:
        """Return the initialized network, without `normalization`.

        Raises ValueError if the options do not fit the images.
        """


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(ABC):
    """Base class of all discriminators. The fields of a subclass are its YAML options.

    The module that `build` returns maps images (B, C, H, W) and y (B,) or None to logits (B,).
    """

    registry: ClassVar[Registry["DiscriminatorConfig"]] = DISCRIMINATORS

    normalization: Normalization = field(default_factory=NoNormalization)
    """Normalization of the discriminator's weights and layers"""
    activation_norm: ActivationNorm = field(default_factory=NoActivationNorm)
    """Normalization of the discriminator's activations"""
    activation: Literal["default", "maxmin"] = "default"
    """Activation function: that of the family (ReLU or LeakyReLU), or MaxMin, which preserves the norm of gradients"""

    def build_activation(self, default: nn.Module) -> nn.Module:
        """Return the activation function, which is `default` unless `activation` names another one."""
        return MaxMin() if self.activation == "maxmin" else default

    @abstractmethod
    def build(self, image: ImageShape) -> nn.Module:
        """Return the initialized network, without `normalization`.

        Raises ValueError if the options do not fit the images.
        """


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(ABC):
    """Base class of all classifiers. The fields of a subclass are its YAML options.

    The module that `build` returns maps images (B, C, H, W) to logits (B, num_classes).
    """

    registry: ClassVar[Registry["ClassifierConfig"]] = CLASSIFIERS

    normalization: Normalization = field(default_factory=NoNormalization)
    """Normalization of the classifier's weights and layers"""
    activation_norm: ActivationNorm = field(default_factory=BatchNormConfig)
    """Normalization of the classifier's activations"""

    @abstractmethod
    def build(self, image: ImageShape) -> nn.Module:
        """Return the initialized network, without `normalization`.

        Raises ValueError if the options do not fit the images.
        """
