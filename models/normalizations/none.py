"""No normalization."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from models.normalizations.base import NORMALIZATIONS, Normalization
from models.normalizations.selection import check_no_string, check_patterns, find_layers


@NORMALIZATIONS.register("none")
@dataclass(frozen=True, kw_only=True)
class NoNormalization(Normalization):
    """Does not change the layers."""

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Return `layer` itself."""
        return layer

    def apply(
        self, network: nn.Module, types: tuple[type[nn.Module], ...] | None = None, exclude: Sequence[str] = ()
    ) -> nn.Module:
        """Return `network` itself. Raises ValueError for a pattern that matches no layer."""
        check_no_string(self.include, self.exclude, exclude)
        check_patterns(network, find_layers(network), self.include, (*self.exclude, *exclude))
        return network
