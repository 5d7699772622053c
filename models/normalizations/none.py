"""No normalization."""

from dataclasses import dataclass

from torch import nn

from models.normalizations.base import NORMALIZATIONS, Normalization


@NORMALIZATIONS.register("none")
@dataclass(frozen=True, kw_only=True)
class NoNormalization(Normalization):
    """Does not change the layers."""

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Return `layer` itself."""
        return layer
