"""Strict YAML -> frozen dataclasses, and back.

`gan.options.schema` describes the types that a schema may use. Files inherit from others through `base:`; command-line
overrides are applied last. An error is one line that begins with file and line.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from gan.options.merge import expand_choice, merge_layers
from gan.options.nodes import (
    ConfigError,
    Dumper,
    Node,
    describe_value,
    one_line,
    parse_override,
    parse_yaml,
    read_layers,
)
from gan.options.schema import (
    choose_type,
    get_field_default,
    get_field_types,
    is_family,
    join_keys,
    list_required,
    resolve_aliases,
)
from gan.runtime.plugins import import_plugins, is_imported
from models.ranges import INT64, Range
from models.registry import UnknownNameError, did_you_mean

PLUGINS = "plugins"
"""The key with the modules of the user that are imported before a config is read"""


def load_config(
    schema: type,
    path: Path | None,
    overrides: Sequence[str] = (),
    imports_plugins: bool = False,
    trusts_overrides: bool = True,
) -> Any:
    """Return the `schema` in the YAML file at `path` and its bases, with `key.sub=value` overrides applied.

    The plugins that an override names are imported, unless `trusts_overrides` is False because they are from a file.
    Those that the config names are imported if `imports_plugins` is True, because the user has chosen to run it.
    Otherwise, this raises ConfigError if the process has not imported them: the file may be from somebody else.
    """
    layers = [] if path is None else read_layers(path)
    trusted = 0 if imports_plugins else len(layers) if trusts_overrides else len(layers) + len(overrides)
    return _construct_layers(schema, layers, overrides, trusted)


def parse_config(schema: type, text: str, source: str, overrides: Sequence[str] = ()) -> Any:
    """Return the `schema` in YAML text that `dump_config` wrote, with `key.sub=value` overrides applied.

    `source` is the name of the text in error messages.
    """
    return _construct_layers(schema, [parse_yaml(text, source)], overrides)


def parse_values(schema: type, texts: Mapping[str, str], source: str) -> Any:
    """Return the `schema` whose values are YAML or JSON texts by key. `source` is their name in error messages."""
    nodes = {key: parse_yaml(text, f"{source}: {key}") for key, text in texts.items()}
    return construct(schema, Node(nodes, source), "")


def _construct_layers(
    schema: type, layers: Sequence[Node], overrides: Sequence[str], trusted: int | None = None
) -> Any:
    """Return the config of layers and overrides, of which those before the index `trusted` may import no plugins.

    By default, these are the layers.
    """
    _refuse_other_type(schema, layers)
    # Choosing another class drops the options of the old one, so choices must be applied before options.
    choices_first = sorted(overrides, key=lambda text: text.partition("=")[0].removesuffix(".name").count("."))
    given = list(map(parse_override, choices_first))
    if PLUGINS in get_field_types(schema):
        _import_plugins(schema, [*layers, *given], len(layers) if trusted is None else trusted)
    return construct(schema, merge_layers(schema, [*layers, *given]), "")


def _refuse_other_type(schema: type, layers: Sequence[Node]) -> None:
    """Raise ConfigError if the layers are a config of another type. The first of `schema.TYPES` in them decides."""
    keys = {key: child for layer in layers if isinstance(layer.value, dict) for key, child in layer.value.items()}
    types: Mapping[str, str] = getattr(schema, "TYPES", {})
    if (key := next(filter(keys.__contains__, types), "")) and types[key]:
        raise _error(keys[key], key, f"this is a config of {types[key]}")


def _import_plugins(schema: type, layers: Sequence[Node], trusted: int) -> None:
    """Import the plugins that the last layer with this key names, if its index is at least `trusted`.

    Raises ConfigError if they have not been imported and may not be.
    """
    for index, layer in reversed(list(enumerate(layers))):
        node = layer.value.get(PLUGINS) if isinstance(layer.value, dict) else None
        if node is None:
            continue
        plugins: tuple[str, ...] = construct(get_field_types(schema)[PLUGINS], node, PLUGINS)
        if index >= trusted:
            import_plugins(plugins, f"{node.where}: {PLUGINS}")
        elif missing := [plugin for plugin in plugins if not is_imported(plugin)]:
            raise _error(
                node,
                PLUGINS,
                f"needs the code of {', '.join(missing)}, which is not run unless you say so; if you trust it, add"
                f" --plugins {','.join(plugins)}",
            )
        return


def from_plain(schema: type, value: Any, source: str = "config") -> Any:
    """Return the `schema` that nested dicts, lists and scalars describe, as returned by `to_plain`.

    Missing keys have their default values. `source` is the name of the data in error messages. Raises ConfigError for
    unknown keys, for values of the wrong type, and if plugins have not been imported.
    """

    def to_node(plain: Any) -> Node:
        if isinstance(plain, dict):
            return Node({key: to_node(child) for key, child in plain.items()}, source)
        return Node([to_node(child) for child in plain] if isinstance(plain, list) else plain, source)

    return _construct_layers(schema, [to_node(value)], [])


def construct(tp: Any, node: Node, path: str, default: Any = None, ranges: Sequence[Range] = ()) -> Any:
    """Return the value of type `tp` that `node` describes.

    `path` is the full key of the node, for error messages. Options that a node leaves out are taken from `default`, if
    it is given. `ranges` limit numbers whose type has none. Raises ConfigError if the node describes no value of this
    type.
    """
    ranges = [extra for extra in getattr(tp, "__metadata__", ()) if isinstance(extra, Range)] or ranges
    if get_origin(tp) is Annotated:
        tp = get_args(tp)[0]
    origin, args = get_origin(tp), get_args(tp)

    if origin in (Union, UnionType):
        if node.value is None and NoneType in args:
            return None
        inner = choose_type(args, is_mapping=isinstance(node.value, dict))
        return construct(inner, node, path, default, ranges)
    if is_family(tp):
        return _construct_choice(tp, node, path, default)
    if isinstance(tp, type) and dataclasses.is_dataclass(tp):
        return _construct_dataclass(tp, node, path, default, ranges)
    if origin is Literal:
        return _construct_literal(args, node, path)
    if origin is tuple:
        return _construct_tuple(args, node, path)
    if origin is dict:
        return _construct_dict(tp, node, path)
    return _construct_scalar(tp, ranges, node, path)


def _construct_literal(choices: tuple, node: Node, path: str) -> Any:
    if not any(node.value == choice and type(node.value) is type(choice) for choice in choices):  # True == 1
        names = [str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices]
        hint = did_you_mean(str(node.value), names)
        raise _error(node, path, f"must be one of {', '.join(names)}, not {describe_value(node)}{hint}")
    return node.value


def _construct_tuple(args: tuple, node: Node, path: str) -> tuple:
    if not isinstance(node.value, list):
        raise _error(node, path, f"must be a list, not {describe_value(node)}")
    types = [args[0]] * len(node.value) if args[-1] is Ellipsis else list(args)
    if len(types) != len(node.value):
        raise _error(node, path, f"must have {len(types)} entries, not {len(node.value)}")
    pairs = enumerate(zip(types, node.value, strict=True))
    return tuple(construct(t, child, f"{path}[{i}]") for i, (t, child) in pairs)


def _construct_dict(tp: Any, node: Node, path: str) -> dict[str, Any]:
    """Return instances of a family by name; null removes an inherited entry."""
    if not isinstance(node.value, dict):
        hint = "; use NAME: null to remove one" if node.value is None else ""
        raise _error(node, path, f"must be a mapping of names to options, not {describe_value(node)}{hint}")
    family = get_args(tp)[1]
    entries = resolve_aliases(tp, node, path)
    chosen = {name: child for name, child in entries.items() if child.value is not None}
    return {name: _construct_class(family, name, child, f"{path}.{name}") for name, child in chosen.items()}


EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


def _construct_scalar(tp: Any, ranges: Sequence[Range], node: Node, path: str) -> Any:
    value = node.value
    if tp is int and type(value) is float and value.is_integer():  # 1e5
        value = int(value)
    if tp is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise _error(node, path, "must be a finite number") from None
    if type(value) is not tp:
        raise _error(node, path, f"must be {EXPECTED[tp]}, not {describe_value(node)}")
    if tp is float and not math.isfinite(value):
        raise _error(node, path, "must be a finite number")
    for bounds in [*ranges, INT64] if tp is int else ranges:
        if value not in bounds:
            raise _error(node, path, f"must be {bounds}, not {value}")
    return value


def _construct_choice(family: Any, node: Node, path: str, default: Any) -> Any:
    node = expand_choice(node)
    if not isinstance(node.value, dict):
        kind = family.registry.kind
        raise _error(node, path, f"must be the name of a {kind}, or a mapping with its name and options")
    options = dict(node.value)
    name_node = options.pop("name", None)
    if name_node is None and default is None:
        raise _error(node, path, f"needs a 'name' (choices: {', '.join(family.registry)})")
    if name_node is None:
        name = family.registry.get_name(type(default))
    elif isinstance(name_node.value, str):
        name = name_node.value
    else:
        raise _error(name_node, f"{path}.name", f"must be a string, not {describe_value(name_node)}")
    return _construct_class(family, name, Node(options, node.where), path, default, name_node or node)


def _construct_class(
    family: Any, name: str, node: Node, path: str, default: Any = None, name_node: Node | None = None
) -> Any:
    try:
        cls = family.registry.get(name)
    except UnknownNameError as error:
        raise _error(name_node or node, path, str(error)) from None
    return _construct_dataclass(cls, node, path, default if type(default) is cls else None)


def _construct_dataclass(cls: type, node: Node, path: str, default: Any, ranges: Sequence[Range] = ()) -> Any:
    if not isinstance(node.value, dict):
        raise _error(node, path, f"must be a mapping, not {describe_value(node)}")
    types = get_field_types(cls)
    default = default if isinstance(default, cls) else None  # it may be a number instead
    values = {}
    for key, child in resolve_aliases(cls, node, path).items():
        inner = join_keys(path, key)
        if key not in types:
            known = ", ".join(types) or "none"
            hint = did_you_mean(key, types, join_keys(path, "")) or _find_below(cls, key, path)
            raise _error(child, inner, f"unknown key (known here: {known}){hint}")
        inner_default = get_field_default(cls, key) if default is None else getattr(default, key)
        values[key] = construct(types[key], child, inner, inner_default, ranges)
    if default is None and (missing := [key for key in list_required(cls) if key not in values]):
        raise _error(node, path, f"needs a value of {' and '.join(missing)}")
    try:
        return cls(**values) if default is None else dataclasses.replace(default, **values)
    except ValueError as error:  # raised by the dataclass's own checks
        raise _error(node, path, one_line(error)) from None


def _find_below(cls: type, key: str, path: str) -> str:
    """Return a hint at a key that is written one or more levels too high, such as `steps` instead of `train.steps`."""
    for name in get_field_types(cls):
        if dataclasses.is_dataclass(value := get_field_default(cls, name)):
            inner = join_keys(path, name)
            if key in get_field_types(type(value)):
                return f"; did you mean '{inner}.{key}'?"
            if hint := _find_below(type(value), key, inner):
                return hint
    return ""


def _error(node: Node, path: str, message: str) -> ConfigError:
    return ConfigError(f"{node.where}: {path or 'config'}: {message}")


def to_plain(value: Any) -> Any:
    """Return dataclasses as nested dicts, lists and scalars; a member of a family has the additional key `name`."""
    if dataclasses.is_dataclass(value):
        registry = getattr(value, "registry", None)
        name = {} if registry is None else {"name": registry.get_name(type(value))}
        return name | {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        # The key of an entry is its name.
        return {key: {k: v for k, v in to_plain(child).items() if k != "name"} for key, child in value.items()}
    if isinstance(value, tuple):
        return [to_plain(child) for child in value]
    return value


def dump_config(config: Any) -> str:
    """Return the YAML text from which `load_config` reads an equal config."""
    return yaml.dump(to_plain(config), Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None)


def dump_value(value: Any) -> str:
    """Return a single value as YAML on one line."""
    text = yaml.dump(to_plain(value), Dumper=Dumper, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
