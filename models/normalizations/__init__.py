"""Normalizations of weights and layers, one file each.

Importing this package imports all its modules, so a new file needs no other edit to be registered.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from models.normalizations.base import NORMALIZATIONS, Normalization
from models.normalizations.none import NoNormalization
from models.normalizations.selection import (
    check_no_string,
    describe_weights,
    is_chosen,
    untouched_parameters,
    untouched_weights,
)
from models.registry import import_submodules

__all__ = [
    "NORMALIZATIONS",
    "Normalization",
    "build_normalization",
    "describe_untouched",
    "normalize",
    "untouched_parameters",
]

import_submodules(sys.modules[__name__])

logger = logging.getLogger(__name__)


def build_normalization(name: str, **options) -> Normalization:
    """Return the normalization registered as `name`, as in `build_normalization("conv_norm", eps=1e-6)`.

    Raises `UnknownNameError` (a ValueError) for an unknown name, and TypeError for an unknown option.
    """
    return NORMALIZATIONS.get(name)(**options)


def normalize(
    network: nn.Module,
    normalization: str | Normalization,
    types: tuple[type[nn.Module], ...] | None = None,
    exclude: Sequence[str] = (),
    include: Sequence[str] | None = None,
) -> nn.Module:
    """Normalize every layer of `network` whose type is in `types`, in place, and return the network.

    Call it after the initialization of the network, since normalizations with state, such as singular vectors, compute
    it from the current weights. Use the returned module, which is a new one if `network` is a single layer or if the
    normalization wraps the whole network.

    All normalizations accept convolutions and transposed convolutions of one to three dimensions, linear layers and
    embeddings, and `gradient` accepts a discriminator as a whole. Their `types` list them. Parameters of other layers,
    such as the weights of an LSTM or `in_proj_weight` of attention, are not changed. If there are any that the patterns
    and `types` do not leave out, a warning is logged, and `untouched_parameters(network)` returns all of them by name.
    On the meta device, where networks are built for their shapes alone, nothing is logged.

    Args:
        network: the network, or a single layer.
        normalization: a registered name, or a normalization with its options.
        types: only layers of these types.
        exclude: `fnmatch` patterns of module paths to skip, in addition to those of the normalization.
        include: `fnmatch` patterns of module paths to normalize, instead of those of the normalization.

    Raises ValueError, and changes nothing, if a pattern matches no layer, if a layer cannot be normalized (it is
    normalized already, or its own forward or hooks would bypass the normalization), or if there is no layer to
    normalize. Raises TypeError for a string instead of a sequence of patterns.
    """
    if isinstance(normalization, str):
        normalization = build_normalization(normalization)
    if include is not None:
        check_no_string(include)
        normalization = replace(normalization, include=tuple(include))
    normalized = normalization.apply(network, types, exclude)
    skipped = () if types is None else normalization.types
    forgotten = {
        name: weight
        for name, weight in untouched_weights(normalized).items()
        if is_chosen(path := name.rpartition(".")[0], normalization.include, (*normalization.exclude, *exclude))
        and not isinstance(normalized.get_submodule(path), skipped)
    }
    has_values = not any(weight.is_meta for weight in forgotten.values())
    if forgotten and has_values and not isinstance(normalization, NoNormalization):
        logger.warning("%s: %s", normalization.name, describe_weights(normalized, forgotten))
    return normalized


def describe_untouched(network: nn.Module, normalization: Normalization) -> str | None:
    """Return one line on the weights of a network that `normalization` left as they are, or None if there are none."""
    weights = untouched_weights(network)
    if not weights or isinstance(normalization, NoNormalization):
        return None
    return f"{normalization.name}: {describe_weights(network, weights)}"
