"""The config reference, made from the dataclasses and the docstring line under each field."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from gan.yaml_config import is_family, to_plain


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
    """Return every key of a config with its meaning and default, a line or two each."""
    return "\n".join(_lines(schema, ""))


def _lines(cls: type, prefix: str) -> Iterator[str]:
    docs, types = field_docs(cls), get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key, tp = f"{prefix}{field.name}", types[field.name]
        default = field.default_factory() if callable(field.default_factory) else field.default
        family = get_args(tp)[1] if get_origin(tp) is dict else tp
        if is_family(family):
            yield from _family(family, key, docs[field.name], default, in_mapping=family is not tp)
        elif dataclasses.is_dataclass(tp):
            yield from _lines(tp, f"{key}.")
        else:
            yield _entry(key, docs[field.name], default)


def _family(family: type, key: str, doc: str, default: Any, in_mapping: bool) -> Iterator[str]:
    names = ", ".join(family.registry)
    chosen = "none" if in_mapping else family.registry.name_of(type(default))
    yield f"  {key}  (default: {chosen})\n      {doc}. Choices: {names}"
    common = {field.name for field in dataclasses.fields(family)}
    yield from _options(family, f"{key}.{'NAME.' if in_mapping else ''}", common)
    for name in family.registry:
        entry = family.registry.get(name)
        own = {field.name for field in dataclasses.fields(entry)} - common
        yield from _options(entry, f"{key}.{name}." if in_mapping else f"{key}[{name}].", own)


def _options(cls: type, prefix: str, names: set[str]) -> Iterator[str]:
    docs, types = field_docs(cls), get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name not in names:
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        if is_family(types[field.name]):
            yield from _family(types[field.name], f"{prefix}{field.name}", docs[field.name], default, in_mapping=False)
        else:
            yield _entry(f"{prefix}{field.name}", docs[field.name], default)


def _entry(key: str, doc: str, default: Any) -> str:
    plain = to_plain(default)
    shown = {True: "true", False: "false", None: "null"}.get(plain, plain) if not isinstance(plain, list) else plain
    return f"  {key}  (default: {shown})\n      {doc}"
