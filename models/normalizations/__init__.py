"""Normalizations of weights and layers, one file each.

Importing this package imports all its modules, so a new file needs no other edit to be registered.
"""

import sys
from collections.abc import Sequence

from torch import nn

from models.normalizations.base import LAYER_TYPES, NORMALIZATIONS, Normalization
from models.registry import import_submodules

__all__ = ["NORMALIZATIONS", "Normalization", "build_normalization", "normalize"]

import_submodules(sys.modules[__name__])


def build_normalization(name: str, **options) -> Normalization:
    """Return the normalization registered as `name`, as in `build_normalization("conv_norm", eps=1e-6)`.

    Raises `UnknownNameError` (a ValueError) for an unknown name, and TypeError for an unknown option.
    """
    return NORMALIZATIONS.get(name)(**options)


def normalize(
    network: nn.Module,
    normalization: str | Normalization,
    types: tuple[type[nn.Module], ...] = LAYER_TYPES,
    exclude: Sequence[str] = (),
) -> nn.Module:
    """Normalize every layer of `network` whose type is in `types`, in place, and return the network.

    Call it after the initialization of the network, since normalizations with state, such as singular vectors, compute
    it from the current weights. `exclude` has `fnmatch` patterns of module paths. Use the returned module, which is a
    new one if `network` is a single layer or if the normalization wraps the whole network.
    """
    if isinstance(normalization, str):
        normalization = build_normalization(normalization)
    return normalization.apply(network, types, exclude)
