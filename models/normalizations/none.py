"""No normalization: the layer as it is."""

from dataclasses import dataclass

from torch import nn

from models.normalizations.base import NORMALIZATIONS, Normalization


@NORMALIZATIONS.register("none")
@dataclass(frozen=True, kw_only=True)
class NoNormalization(Normalization):
    """Leaves every layer as it is, in training and in evaluation."""

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Return `layer` itself."""
        return layer
