"""Normalizations of weights and layers, one file each. A new file that registers itself is found by itself."""

import sys
from collections.abc import Sequence

from torch import nn

from models.normalizations.base import LAYER_TYPES, NORMALIZATIONS, Normalization
from models.registry import import_submodules

__all__ = ["NORMALIZATIONS", "Normalization", "build_normalization", "normalize"]

import_submodules(sys.modules[__name__])


def build_normalization(name: str, **options) -> Normalization:
    """Return the normalization called `name` with its options, as in `build_normalization("conv_norm", eps=1e-6)`.

    Raises `UnknownNameError` (a ValueError) for a name that is not registered and TypeError for an unknown option.
    """
    return NORMALIZATIONS.get(name)(**options)


def normalize(
    network: nn.Module,
    normalization: str | Normalization,
    types: tuple[type[nn.Module], ...] = LAYER_TYPES,
    exclude: Sequence[str] = (),
) -> nn.Module:
    """Normalize every layer of `network` whose type is in `types`, in place, and return the network.

    Call it after the network's own initialization: normalizations that keep state (singular vectors, say) derive it
    from the weights they find. `exclude` takes `fnmatch` patterns of module paths. When `network` is itself a layer
    or the normalization wraps the whole network, use the returned module.
    """
    if isinstance(normalization, str):
        normalization = build_normalization(normalization)
    return normalization.apply(network, types, exclude)
