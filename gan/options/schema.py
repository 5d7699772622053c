"""The types of a config schema, and the old names of fields and classes that are still accepted.

A field may have the type bool, int, float, str, Literal, tuple, `X | None`, a dataclass, a *family*, `dict[str,
family]`, or `float | D` with a dataclass D: a number or a mapping. A family is a base class with a `registry`: the YAML
chooses one of its classes by name, as `hinge` or as `{name: hinge, option: ...}`. In a `dict[str, family]` the keys are
the names. `Annotated[X, Range]` limits a number. A renamed field declares its old name: `field(default=4,
metadata={"alias": "old_name"})`. If its values were renamed too, `"old_values": {"old": "new"}` is added.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from gan.options.nodes import ConfigError, Node
from models.registry import UnknownNameError


def is_family(tp: Any) -> bool:
    """Return whether `tp` is the base class of registered dataclasses."""
    return isinstance(tp, type) and "registry" in vars(tp)


def unwrap(tp: Any) -> Any:
    """Return a type without `Annotated` and `| None`."""
    if get_origin(tp) is Annotated:
        return unwrap(get_args(tp)[0])
    if get_origin(tp) in (Union, UnionType):
        return unwrap(next(arg for arg in get_args(tp) if arg is not NoneType))
    return tp


def choose_type(types: Sequence[Any], is_mapping: bool) -> Any:
    """Return the type of a union that a node has: the dataclass if the union has one and the node is a mapping."""
    candidates = [tp for tp in types if tp is not NoneType]
    return candidates[-1 if is_mapping else 0]


def find_alternative(tp: Any) -> type | None:
    """Return the dataclass D if a type is `float | D`, or contains this type; otherwise None."""
    args = get_args(tp)
    if args and args[0] is float and isinstance(args[-1], type) and dataclasses.is_dataclass(args[-1]):
        return args[-1]
    return next((found for arg in args if (found := find_alternative(arg)) is not None), None)


@cache
def get_field_types(cls: Any) -> Mapping[str, Any]:
    """Return the types of a dataclass's fields, with their `Annotated` metadata."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def get_field_default(cls: Any, name: str) -> Any:
    """Return the default value of a dataclass's field, or None if it has no default."""
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def list_required(cls: Any) -> list[str]:
    """Return the names of the fields of a dataclass that have no default value."""
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(cls) if f.default is missing and f.default_factory is missing]


def find_class(family: Any, name: str) -> type | None:
    """Return the class of a family that is registered as `name`, or None if there is no such class."""
    try:
        return family.registry.get(name)
    except UnknownNameError:
        return None


def join_keys(path: str, key: str) -> str:
    """Return the full key of an entry, such as `train.steps`."""
    return f"{path}.{key}" if path else key


def resolve_aliases(tp: Any, node: Node, path: str) -> dict[str, Node]:
    """Return the entries of a mapping by their current names.

    `tp` is the type of the mapping: a dataclass, whose old field names are replaced, or `dict[str, family]`, whose old
    names of classes are replaced. Unknown keys are kept. Raises ConfigError if a key is given by both names.
    """
    entries: dict[str, Node] = {}
    written: dict[str, str] = {}
    for key, child in node.value.items():
        name = get_current_name(tp, key)
        if name in entries:
            alias = join_keys(path, key if key != name else written[name])
            message = f"this is the old name of '{name}', which is also set; remove one"
            raise ConfigError(f"{child.where}: {alias}: {message}")
        entries[name], written[name] = _rename_value(tp, key, child), key
    return entries


def get_current_name(tp: Any, key: str) -> str:
    """Return the name of an entry whose key may be its old name. `tp` is the type of the mapping."""
    if dataclasses.is_dataclass(tp):
        return next((field.name for field in _find_renamed(tp, key)), key)
    return get_args(tp)[1].registry.resolve(key) if get_origin(tp) is dict else key


def _rename_value(tp: Any, key: str, node: Node) -> Node:
    """Return the value of an entry that is written under an old name, with its current name."""
    for field in _find_renamed(tp, key) if isinstance(node.value, str) else ():
        return Node(field.metadata.get("old_values", {}).get(node.value, node.value), node.where)
    return node


def _find_renamed(tp: Any, key: str) -> list[dataclasses.Field]:
    """Return the field of a dataclass whose old name is `key`, in a list that is otherwise empty."""
    fields = dataclasses.fields(tp) if dataclasses.is_dataclass(tp) else ()
    return [field for field in fields if field.metadata.get("alias") == key]
