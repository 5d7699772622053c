"""Base class of normalizations: dataclasses of options that normalize the layers of a network."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.registry import Registry

NORMALIZATIONS: Registry["Normalization"] = Registry("normalization")

LAYER_TYPES: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)


@dataclass(frozen=True, kw_only=True)
class Normalization(ABC):
    """Base class of all weight and layer normalizations. The fields of a subclass are its YAML options.

    `normalize` returns either the same layer with `layer.weight` reparametrized (the type of the layer does not change,
    and `layer.weight` is the normalized weight), or a module that wraps the layer. A wrapper sets `is_layer = True`, so
    that the Lipschitz tracker measures it as one layer (`models.protocols.CompositeLayer`).
    """

    registry: ClassVar[Registry["Normalization"]] = NORMALIZATIONS

    include: tuple[str, ...] = ("*",)
    """`fnmatch` patterns of the module paths to normalize"""
    exclude: tuple[str, ...] = ()
    """`fnmatch` patterns of the module paths to skip"""

    @abstractmethod
    def normalize(self, layer: nn.Module) -> nn.Module:
        """Return the normalized `layer` (an `nn.Conv2d`, `nn.ConvTranspose2d`, `nn.Linear` or `nn.Embedding`)."""

    def apply(
        self, network: nn.Module, types: tuple[type[nn.Module], ...] = LAYER_TYPES, exclude: Sequence[str] = ()
    ) -> nn.Module:
        """Normalize every layer of `network` in place, and return the network or the module that replaces it."""
        replaced: dict[nn.Module, nn.Module] = {}
        for path, module in list(network.named_modules(remove_duplicate=False)):
            if not isinstance(module, types) or not self._includes(path, exclude):
                continue
            if module not in replaced:
                replaced[module] = self.normalize(module)
            if not path:
                return replaced[module]
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, replaced[module])
        return network

    def _includes(self, path: str, exclude: Sequence[str]) -> bool:
        included = any(fnmatchcase(path, pattern) for pattern in self.include)
        return included and not any(fnmatchcase(path, pattern) for pattern in (*self.exclude, *exclude))


class Parametrization(nn.Module):
    """Base class of the parametrizations of a weight, for `torch.nn.utils.parametrize`.

    They are computed without autocast, which would round singular values, and so the norm of the weight, to 16 bits.
    """

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return the weight, given the tensors from which it is computed."""
        with torch.autocast(tensors[0].device.type, enabled=False):
            return super().__call__(*tensors)
