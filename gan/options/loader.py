"""Strict YAML -> frozen dataclasses. Knows dataclasses and registries, and nothing of GANs.

A field may be a bool, int, float, str, Literal,
a tuple, `X | None`, a dataclass, a *family* (a base class with a `registry`: the YAML names one of its classes, as
`hinge` or as `{name: hinge, option: ...}`) or `dict[str, family]` (the keys are the names). `Annotated[X, Range]`
bounds a number. Later layers are merged over earlier ones; naming another class of a family drops the options that
only the earlier one had. Every error says file and line.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

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
from models.ranges import Range
from models.registry import UnknownNameError, did_you_mean


def merge_layers(schema: type, layers: Sequence[Node]) -> Node:
    """Merge layers of the dataclass `schema`, later ones over earlier ones."""
    merged = Node({}, layers[0].where if layers else "defaults")
    for layer in layers:
        merged = _merge(schema, merged, layer)
    return merged


def _merge(tp: Any, below: Node | None, above: Node, default: Any = None) -> Node:
    tp = _bare(tp)
    if is_family(tp):
        above = _as_choice(above)
        below = None if below is None else _as_choice(below)
    if below is None or not isinstance(above.value, dict) or not isinstance(below.value, dict):
        return above
    entries = dict(below.value)
    if is_family(tp):
        old, new = (_name_in(node) for node in (below, above))
        if old is None and default is not None:
            old = tp.registry.get_name(type(default))
        if new is not None and old is not None and tp.registry.resolve(new) != tp.registry.resolve(old):
            common = {f.name for f in dataclasses.fields(tp)}
            entries = {key: child for key, child in entries.items() if key in common}
        name = new or old
        tp = tp.registry.get(name) if name in tp.registry else tp
    types = _field_types(tp)
    for key, child in above.value.items():
        inner = _default(tp, key, None) if key in types else None
        entries[key] = _merge(types.get(key, Any), entries.get(key), child, inner)
    return Node(entries, above.where)


def _as_choice(node: Node) -> Node:
    """Write the short form of a choice, `hinge`, as `{name: hinge}`."""
    return Node({"name": node}, node.where) if isinstance(node.value, str) else node


def _name_in(node: Node) -> str | None:
    name = node.value.get("name")
    return name.value if name is not None and isinstance(name.value, str) else None


def load_config(schema: type, path: Path | None, overrides: Sequence[str] = ()) -> Any:
    """Read the YAML file at `path` (with its bases), apply `key.sub=value` overrides and return a `schema`."""
    layers = [] if path is None else read_layers(path)
    # A choice comes before its options, in whatever order they were written: naming it would drop them again.
    choices_first = sorted(overrides, key=lambda text: text.partition("=")[0].removesuffix(".name").count("."))
    return construct(schema, merge_layers(schema, [*layers, *map(parse_override, choices_first)]), "")


def parse_config(schema: type, text: str, source: str) -> Any:
    """Return the `schema` in YAML text that `dump_config` wrote; `source` names it in errors."""
    return construct(schema, parse_yaml(text, source), "")


def from_plain(schema: type, value: Any, source: str = "config") -> Any:
    """Return the `schema` that nested dicts, lists and scalars describe, as returned by `to_plain`.

    Missing keys have their defaults. `source` names the data in errors. Raises ConfigError for unknown keys and for
    values of a wrong type.
    """

    def to_node(plain: Any) -> Node:
        if isinstance(plain, dict):
            return Node({key: to_node(child) for key, child in plain.items()}, source)
        return Node([to_node(child) for child in plain] if isinstance(plain, list) else plain, source)

    return construct(schema, to_node(value), "")


def construct(tp: Any, node: Node, path: str, default: Any = None) -> Any:
    """Return the value of type `tp` that `node` describes; ConfigError when it does not describe one."""
    ranges = [extra for extra in getattr(tp, "__metadata__", ()) if isinstance(extra, Range)]
    if get_origin(tp) is Annotated:
        tp = get_args(tp)[0]
    origin, args = get_origin(tp), get_args(tp)

    if origin in (Union, UnionType):
        if node.value is None and NoneType in args:
            return None
        (inner,) = (arg for arg in args if arg is not NoneType)
        return construct(inner, node, path, default)
    if is_family(tp):
        return _construct_family(tp, node, path, default)
    if isinstance(tp, type) and dataclasses.is_dataclass(tp):
        return _construct_dataclass(tp, node, path, default)
    if origin is Literal:
        if not any(node.value == choice and type(node.value) is type(choice) for choice in args):  # True == 1
            hint = did_you_mean(str(node.value), map(str, args))
            raise _error(node, path, f"must be one of {', '.join(map(str, args))}, not {describe_value(node)}{hint}")
        return node.value
    if origin is tuple:
        return _construct_tuple(args, node, path)
    if origin is dict:
        if not isinstance(node.value, dict):
            hint = "; NAME: null takes one out" if node.value is None else ""
            raise _error(node, path, f"must be a mapping of names to options, not {describe_value(node)}{hint}")
        # A null takes an inherited entry out again.
        chosen = {name: child for name, child in node.value.items() if child.value is not None}
        return {name: _construct_named(args[1], name, child, f"{path}.{name}") for name, child in chosen.items()}
    if tp is float and isinstance(node.value, int) and not isinstance(node.value, bool):
        node = Node(_to_float(node, path), node.where)
    if type(node.value) is not tp:
        raise _error(node, path, f"must be {_ARTICLES[tp]}, not {describe_value(node)}")
    if tp is float and not math.isfinite(node.value):
        raise _error(node, path, "must be a finite number")
    for bounds in ranges:
        if node.value not in bounds:
            raise _error(node, path, f"must be {bounds}, not {node.value}")
    return node.value


_ARTICLES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


def _to_float(node: Node, path: str) -> float:
    try:
        return float(node.value)
    except OverflowError:
        raise _error(node, path, "must be a finite number") from None


def _construct_tuple(args: tuple, node: Node, path: str) -> tuple:
    if not isinstance(node.value, list):
        raise _error(node, path, f"must be a list, not {describe_value(node)}")
    types = [args[0]] * len(node.value) if args[-1] is Ellipsis else list(args)
    if len(types) != len(node.value):
        raise _error(node, path, f"must have {len(types)} entries, not {len(node.value)}")
    pairs = enumerate(zip(types, node.value, strict=True))
    return tuple(construct(t, child, f"{path}[{i}]") for i, (t, child) in pairs)


def _construct_family(family: type, node: Node, path: str, default: Any) -> Any:
    node = _as_choice(node)
    if not isinstance(node.value, dict):
        kind = family.registry.kind
        raise _error(node, path, f"must be the name of a {kind}, or a mapping with its name and options")
    entries = dict(node.value)
    name_node = entries.pop("name", None)
    if name_node is None and default is None:
        raise _error(node, path, f"needs a 'name' (choices: {', '.join(family.registry)})")
    if name_node is None:
        name = family.registry.get_name(type(default))
    elif isinstance(name_node.value, str):
        name = name_node.value
    else:
        raise _error(name_node, f"{path}.name", f"must be a string, not {describe_value(name_node)}")
    return _construct_named(family, name, Node(entries, node.where), path, default, name_node or node)


def _construct_named(family: type, name: str, node: Node, path: str, default: Any = None, at: Node | None = None):
    try:
        cls = family.registry.get(name)
    except UnknownNameError as error:
        raise _error(at or node, path, str(error)) from None
    return _construct_dataclass(cls, node, path, default if type(default) is cls else None)


def _construct_dataclass(cls: type, node: Node, path: str, default: Any) -> Any:
    if not isinstance(node.value, dict):
        raise _error(node, path, f"must be a mapping, not {describe_value(node)}")
    types = _field_types(cls)
    values = {}
    for key, child in node.value.items():
        inner = f"{path}.{key}" if path else key
        if key not in types:
            known = ", ".join(types) or "none"
            raise _error(child, inner, f"unknown key (known here: {known}){did_you_mean(key, types)}")
        values[key] = construct(types[key], child, inner, _default(cls, key, default))
    try:
        return cls(**values) if default is None else dataclasses.replace(default, **values)
    except ValueError as error:  # a dataclass that checks itself
        raise _error(node, path, one_line(error)) from None


def _error(node: Node, path: str, message: str) -> ConfigError:
    return ConfigError(f"{node.where}: {path or 'config'}: {message}")


def is_family(tp: Any) -> bool:
    """Tell whether `tp` is the base class of registered dataclasses."""
    return isinstance(tp, type) and "registry" in vars(tp)


def _bare(tp: Any) -> Any:
    """Take `Annotated` and `| None` off a type."""
    if get_origin(tp) is Annotated:
        return _bare(get_args(tp)[0])
    if get_origin(tp) in (Union, UnionType):
        return _bare(next(arg for arg in get_args(tp) if arg is not NoneType))
    return tp


def _field_types(cls: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields; of anything else (`dict[str, family]`, say) none."""
    if not dataclasses.is_dataclass(cls):
        return {}
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _default(cls: type, name: str, instance: Any) -> Any:
    if instance is not None:
        return getattr(instance, name)
    field = next(f for f in dataclasses.fields(cls) if f.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def to_plain(value: Any) -> Any:
    """Return dataclasses as nested dicts, lists and scalars, each choice of a family with its `name`."""
    if dataclasses.is_dataclass(value):
        registry = getattr(value, "registry", None)
        name = {} if registry is None else {"name": registry.get_name(type(value))}
        return name | {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        # The key is the name already.
        return {key: {k: v for k, v in to_plain(child).items() if k != "name"} for key, child in value.items()}
    if isinstance(value, tuple):
        return [to_plain(child) for child in value]
    return value


def dump_config(config: Any) -> str:
    """Return the YAML text from which `load_config` reads an equal config."""
    return yaml.dump(to_plain(config), Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None)


def dump_value(value: Any) -> str:
    """Return a single value as it would stand in a config, on one line."""
    text = yaml.dump(to_plain(value), Dumper=Dumper, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
