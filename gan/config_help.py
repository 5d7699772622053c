"""The config reference, made from the dataclasses and the docstring line under each field."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

from gan.yaml_config import dump_value, is_family


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring line under each field of a dataclass, inherited fields included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for statement, following in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                docs[statement.target.id] = inspect.cleandoc(following.value.value)
    return docs


def describe(schema: type) -> str:
    """Return every key of a config with its meaning and default, then the options of every choice."""
    families: list[type] = []
    keys = list(_keys(schema, "", families))
    sections = [line for family in families for line in _choices(family, families)]
    return "\n".join([*keys, *sections])


def _keys(cls: type, prefix: str, families: list[type]) -> Iterator[str]:
    """Yield the keys of a dataclass; families met on the way are added to `families`, to be described once."""
    docs, types = field_docs(cls), get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key, tp = f"{prefix}{field.name}", types[field.name]
        if dataclasses.is_dataclass(tp) and not is_family(tp):
            yield from _keys(tp, f"{key}.", families)
        else:
            yield _entry(key, docs[field.name], field, tp, families)


def _choices(family: type, families: list[type]) -> Iterator[str]:
    """Yield the options of each class of a family, those of a family within it as one more family."""
    kind = family.registry.kind
    for name in family.registry:
        cls = family.registry.get(name)
        yield f"\n  {kind} '{name}': {inspect.getdoc(cls).splitlines()[0]}"
        docs, types = field_docs(cls), get_type_hints(cls)
        for field in dataclasses.fields(cls):
            yield _entry(f"  .{field.name}", docs[field.name], field, types[field.name], families)


def _entry(key: str, doc: str, field: dataclasses.Field, tp: Any, families: list[type]) -> str:
    default = field.default_factory() if callable(field.default_factory) else field.default
    family = get_args(tp)[1] if get_origin(tp) is dict else tp
    if is_family(family):
        if family not in families:
            families.append(family)
        doc += f". One of: {', '.join(family.registry)}"
    shown = family.registry.name_of(type(default)) if is_family(tp) else dump_value(default)
    return f"  {key}  (default: {shown})\n      {doc}"
