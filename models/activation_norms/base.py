"""The contract of an activation norm: a frozen dataclass of options that builds a module(x, y=None)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from models.registry import Registry

ACTIVATION_NORMS: Registry["ActivationNorm"] = Registry("activation norm")


@dataclass(frozen=True, kw_only=True)
class ActivationNorm(ABC):
    """Base of all norms of activations. The fields of a subclass are its YAML options."""

    registry: ClassVar[Registry["ActivationNorm"]] = ACTIVATION_NORMS

    @abstractmethod
    def build(self, channels: int, num_classes: int | None = None) -> nn.Module:
        """Return a module called as `module(x, y)`: x is (B, channels, H, W), y the labels (B,) or None."""
