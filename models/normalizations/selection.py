"""Which layers of a network a normalization applies to, by type and by patterns of module paths."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.utils import parametrize

from models.normalizations.layers import Wrapper
from models.normalizations.obstacles import find_normalization
from models.registry import did_you_mean

if TYPE_CHECKING:
    from models.normalizations.base import Normalization

SHOWN = 5  # names in a message

Types = tuple[type[nn.Module], ...]


def check_no_string(*patterns: Sequence[str]) -> None:
    """Raise TypeError for a string, whose letters would be taken for patterns."""
    for value in patterns:
        if isinstance(value, str):
            raise TypeError(f"include and exclude are sequences of patterns: write [{value!r}] instead of {value!r}")


def is_chosen(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Return whether a module path matches a pattern to include and none to exclude."""
    return _matches(path, include) and not _matches(path, exclude)


def select_layers(
    normalization: "Normalization", network: nn.Module, types: Types, include: Sequence[str], exclude: Sequence[str]
) -> dict[str, nn.Module]:
    """Return the layers to normalize by module path; a layer that is used twice has two paths.

    Raises ValueError if a pattern matches no layer, if a layer that a pattern or type asks for cannot be normalized, or
    if there is no layer to normalize.
    """
    name = normalization.name
    accepted = f"{name} accepts {', '.join(t.__name__ for t in normalization.types)}"
    if wrong := [t.__name__ for t in types if not issubclass(t, normalization.types)]:
        raise ValueError(f"{name} cannot normalize {_join(wrong)}: {accepted}")
    layers = find_layers(network)
    candidates = {path: layer for path, layer in layers.items() if isinstance(_unwrap(layer), normalization.types)}
    check_patterns(network, layers, include, exclude)
    for pattern in include if tuple(include) != ("*",) else ():
        matched = {path: layer for path, layer in layers.items() if fnmatchcase(path, pattern)}
        if matched and not matched.keys() & candidates.keys():
            raise ValueError(f"{name} cannot normalize {_describe(matched)}: {accepted}")
    selected = {
        path: layer
        for path, layer in candidates.items()
        if isinstance(_unwrap(layer), types) and is_chosen(path, include, exclude)
    }
    if not selected:
        raise ValueError(
            f"{name} finds no layer to normalize in {type(network).__name__}: {accepted}, if included and not excluded,"
            f" and the layers are {_describe(layers) or 'none'}"
        )
    obstacles = {path: normalization.find_obstacle(layer) for path, layer in selected.items()}
    if refused := [f"{_describe({path: layers[path]})}: {reason}" for path, reason in obstacles.items() if reason]:
        raise ValueError(f"{name} cannot normalize {_join(refused, '; ')} (exclude such a layer, or change it)")
    return selected


def check_patterns(
    network: nn.Module, layers: Mapping[str, nn.Module], include: Sequence[str], exclude: Sequence[str]
) -> None:
    """Raise ValueError for a pattern that matches none of the `layers` of `network`; include ("*",) is no pattern."""
    for key, patterns in {"include": () if tuple(include) == ("*",) else include, "exclude": exclude}.items():
        for pattern in patterns:
            if not any(fnmatchcase(path, pattern) for path in layers):
                modules = dict(network.named_modules())
                hint = f"; '{pattern}.*' matches the layers in it" if pattern in modules else ""
                raise ValueError(f"{key}: {pattern!r} matches no layer{hint or did_you_mean(pattern, layers)}")


def find_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a network by path: the modules with parameters of their own, and the wrapped layers.

    Raises ValueError if a part of the network is already normalized as a whole.
    """
    layers = {}
    for path, module in _walk(network):
        if isinstance(module, Wrapper) and not module.is_layer:
            raise ValueError(f"{path or 'the network'} is already normalized as a whole, by {type(module).__name__}")
        own = next(module.parameters(recurse=False), None) is not None
        if own or isinstance(module, Wrapper) or parametrize.is_parametrized(module, "weight"):
            layers[path] = module
    return layers


def untouched_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a network, by name, from which no normalized layer computes its weight.

    These are the parameters of layers that are excluded or of a type that the normalization does not accept, and the
    biases of layers whose weight is reparametrized. All parameters in a `Wrapper` belong to a normalized layer.
    """
    touched: set[nn.Parameter] = set()
    for _, module in _walk(network):
        if isinstance(module, Wrapper):
            touched.update(module.parameters())
        elif parametrize.is_parametrized(module, "weight") and find_normalization(module):
            touched.update(module.get_submodule("parametrizations.weight").parameters())
    return {name: parameter for name, parameter in network.named_parameters() if parameter not in touched}


def untouched_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the `untouched_parameters` of several dimensions, that is without biases and the like."""
    return {name: parameter for name, parameter in untouched_parameters(network).items() if parameter.dim() > 1}


def describe_weights(network: nn.Module, weights: Mapping[str, nn.Parameter]) -> str:
    """Return one line that counts and lists the weights of a network that are not normalized."""
    total = sum(parameter.numel() for parameter in network.parameters())
    share = sum(parameter.numel() for parameter in weights.values())
    return f"{len(weights)} weights with {share} of {total} parameters are not normalized: {_join(list(weights))}"


def _walk(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules by path, with repetitions, but nothing inside of wrappers and parametrizations."""
    yield path, module
    if isinstance(module, Wrapper):
        return
    for name, child in module._modules.items():
        if child is not None and not (name == "parametrizations" and parametrize.is_parametrized(module)):
            yield from _walk(child, f"{path}.{name}" if path else name)


def _unwrap(layer: nn.Module) -> nn.Module:
    return layer.wrapped if isinstance(layer, Wrapper) else layer


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _describe(layers: Mapping[str, nn.Module]) -> str:
    types = {path: parametrize.type_before_parametrizations(layer).__name__ for path, layer in layers.items()}
    return _join([f"{path} ({types[path]})" if path else types[path] for path in layers])


def _join(parts: Sequence[str], separator: str = ", ") -> str:
    rest = [f"and {len(parts) - SHOWN} more"] if len(parts) > SHOWN else []
    return separator.join([*parts[:SHOWN], *rest])
