"""Layers that share a weight, such as an embedding and an output layer."""

from collections import defaultdict
from collections.abc import Iterable

from torch import nn
from torch.nn.utils import parametrize

from models.normalizations.weight_matrices import Layout

Users = dict[str, nn.Module]
"""The modules that use a parameter, by path"""


def find_shared_weights(network: nn.Module) -> list[Users]:
    """Return the modules that use each parameter of more than one module."""
    users: dict[nn.Parameter, Users] = defaultdict(dict)
    for path, module in network.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                users[parameter][path] = module
    return [modules for modules in users.values() if len(modules) > 1]


def share_parametrizations(shared: Iterable[Users]) -> None:
    """Let the layers that shared a weight before they were parametrized share its parametrization and its state.

    A layer with another layout of the weight, such as the transposed convolution of a convolution, keeps its own.
    """
    for users in shared:
        firsts: dict[Layout, nn.Module] = {}
        for layer in users.values():
            if parametrize.is_parametrized(layer, "weight"):
                first = firsts.setdefault(Layout.from_layer(layer), layer)
                parametrizations = layer.get_submodule("parametrizations")
                parametrizations.add_module("weight", first.get_submodule("parametrizations.weight"))
