"""Merges the layers of a config: the files of a `base:` chain and the overrides of the command line."""

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from gan.options.nodes import Node
from gan.options.schema import (
    find_class,
    get_field_default,
    get_field_types,
    is_family,
    join_keys,
    resolve_aliases,
    unwrap,
)


def merge_layers(schema: type, layers: Sequence[Node]) -> Node:
    """Merge layers of the dataclass `schema`; later layers take precedence.

    Mappings are merged key by key, all other values are replaced. If a layer chooses another class of a family, the
    options of the old class are dropped, except those that all classes of the family have.
    """
    merged = Node({}, layers[0].where if layers else "defaults")
    for layer in layers:
        merged = _merge(schema, merged, layer, "")
    return merged


def expand_choice(node: Node) -> Node:
    """Return the long form `{name: hinge}` of the short form `hinge`; other nodes are returned unchanged."""
    return Node({"name": node}, node.where) if isinstance(node.value, str) else node


def _merge(tp: Any, earlier: Node | None, later: Node, path: str, default: Any = None) -> Node:
    """Merge two nodes of the type `tp`; `default` is the value if neither layer gives one."""
    tp = unwrap(tp)
    if is_family(tp):
        later = expand_choice(later)
        earlier = None if earlier is None else expand_choice(earlier)
    if earlier is None or not isinstance(later.value, dict) or not isinstance(earlier.value, dict):
        return later
    if is_family(tp):
        old = _get_chosen_class(tp, earlier) or (None if default is None else type(default))
        new = _get_chosen_class(tp, later) or old
        entries = resolve_aliases(old or new or tp, earlier, path)
        if old is not None and new is not old:
            common = {field.name for field in dataclasses.fields(tp)}
            entries = {key: child for key, child in entries.items() if key in common}
        tp = new or tp
    else:
        entries = resolve_aliases(tp, earlier, path)
    for key, child in resolve_aliases(tp, later, path).items():
        inner, inner_default = _get_entry_type(tp, key)
        entries[key] = _merge(inner, entries.get(key), child, join_keys(path, key), inner_default)
    return Node(entries, later.where)


def _get_chosen_class(family: Any, node: Node) -> type | None:
    """Return the class that a mapping names, or None if it names no class of the family."""
    name = node.value.get("name")
    return find_class(family, name.value) if name is not None and isinstance(name.value, str) else None


def _get_entry_type(tp: Any, key: str) -> tuple[Any, Any]:
    """Return the type and the default value of an entry of a mapping: `Any` and None for an unknown key."""
    if get_origin(tp) is dict:
        return find_class(get_args(tp)[1], key) or Any, None
    types = get_field_types(tp) if dataclasses.is_dataclass(tp) else {}
    return (types[key], get_field_default(tp, key)) if key in types else (Any, None)
