"""Base class of normalizations: dataclasses of options that normalize the layers of a network."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from models.normalizations.layers import Parametrization, Wrapper
from models.normalizations.obstacles import find_obstacle_to_parametrization
from models.normalizations.selection import check_no_string, select_layers
from models.normalizations.tying import find_shared_weights, share_parametrizations
from models.normalizations.weight_matrices import get_weight
from models.registry import Registry

__all__ = ["LAYER_TYPES", "NORMALIZATIONS", "Normalization", "Parametrization", "Wrapper", "reparametrize"]

NORMALIZATIONS: Registry["Normalization"] = Registry("normalization")

CONVOLUTIONS: tuple[type[nn.Module], ...] = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
LAYER_TYPES: tuple[type[nn.Module], ...] = (*CONVOLUTIONS, nn.Linear, nn.Embedding)


@dataclass(frozen=True, kw_only=True)
class Normalization(ABC):
    """Base class of all weight and layer normalizations. The fields of a subclass are its YAML options.

    `normalize` returns either the same layer with `layer.weight` reparametrized (the type of the layer does not change,
    and `layer.weight` is the normalized weight), or a `Wrapper` of the layer.
    """

    registry: ClassVar[Registry["Normalization"]] = NORMALIZATIONS
    has_state: ClassVar[bool] = False
    """Whether the normalization computes state, such as singular vectors, from the initial weight"""

    include: tuple[str, ...] = ("*",)
    """`fnmatch` patterns of the module paths to normalize; each must match a layer"""
    exclude: tuple[str, ...] = ()
    """`fnmatch` patterns of the module paths to skip; each must match a layer"""

    @property
    def types(self) -> tuple[type[nn.Module], ...]:
        """The types of layers that this normalization accepts: convolutions, linear layers and embeddings."""
        return LAYER_TYPES

    @property
    def name(self) -> str:
        """The name in the registry, or that of the class if it is not registered."""
        return next((name for name in NORMALIZATIONS if NORMALIZATIONS.get(name) is type(self)), type(self).__name__)

    @abstractmethod
    def normalize(self, layer: nn.Module) -> nn.Module:
        """Return the normalized `layer`, which has one of the `types`."""

    def find_obstacle(self, layer: nn.Module) -> str | None:
        """Return why `layer`, which has one of the `types`, cannot be normalized, or None if it can."""
        return find_obstacle_to_parametrization(layer) or self.find_obstacle_to_state(layer)

    def find_obstacle_to_state(self, layer: nn.Module) -> str | None:
        """Return why the state cannot be computed from the weight of `layer`, or None if it can or there is none."""
        if self.has_state and next(layer.parameters()).is_meta:
            return "it is on the meta device, and the state is computed from the values of its weight"
        return None

    def select(
        self, network: nn.Module, types: tuple[type[nn.Module], ...] | None, exclude: Sequence[str]
    ) -> dict[str, nn.Module]:
        """Return the layers that `apply` normalizes, by module path. Raises the errors of `apply`."""
        check_no_string(self.include, self.exclude, exclude)
        types = self.types if types is None else types if isinstance(types, tuple) else (types,)
        return select_layers(self, network, types, self.include, (*self.exclude, *exclude))

    def apply(
        self, network: nn.Module, types: tuple[type[nn.Module], ...] | None = None, exclude: Sequence[str] = ()
    ) -> nn.Module:
        """Normalize every layer of `network` in place, and return the network or the module that replaces it.

        `types` is a part of the types that this normalization accepts, by default all of them. Raises TypeError for a
        string instead of a sequence of patterns. Raises ValueError, and changes nothing, if a pattern matches no layer,
        if a layer cannot be normalized, or if no layer is left to normalize. Weights that layers share stay shared.
        """
        layers, shared = self.select(network, types, exclude), find_shared_weights(network)
        replaced: dict[nn.Module, nn.Module] = {}
        for path, layer in layers.items():
            if layer not in replaced:
                replaced[layer] = self.normalize(layer)
            if not path:
                return replaced[layer]
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, replaced[layer])
        share_parametrizations(shared)
        return network


def reparametrize(layer: nn.Module, parametrization: Parametrization, unsafe: bool = False) -> nn.Module:
    """Compute `layer.weight` by `parametrization` from now on, and return the layer.

    `unsafe` is that of `torch.nn.utils.parametrize.register_parametrization`. Raises ValueError if the layer would not
    compute with that weight, or if its weight is already normalized.
    """
    if obstacle := find_obstacle_to_parametrization(layer):
        raise ValueError(f"{type(layer).__name__} cannot be normalized: {obstacle}")
    if parametrize.is_parametrized(layer, "weight"):
        with torch.no_grad(), suppress(NotImplementedError):  # computes the state; PyTorch calls it for a plain weight
            parametrization.right_inverse(get_weight(layer))
    return parametrize.register_parametrization(layer, "weight", parametrization, unsafe=unsafe)
