"""The reference of a config's keys, generated from the dataclasses and the docstring line under each field."""

import ast
import dataclasses
import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby, pairwise
from types import ModuleType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from gan.options.loader import dump_value
from gan.options.schema import find_alternative, is_family, list_required


@cache
def get_field_docs(cls: type) -> dict[str, str]:
    """Return the docstring line under each field of a dataclass, including inherited fields."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        for pair in pairwise(_parse_classes(sys.modules[base.__module__])[base.__qualname__].body):
            match pair:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(doc))):
                    docs[name] = inspect.cleandoc(doc)
    return docs


@cache
def _parse_classes(module: ModuleType) -> dict[str, ast.ClassDef]:
    """Return the classes in the source of a module by their qualified names."""
    classes = {}

    def visit(parent: ast.AST, prefix: str) -> None:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.ClassDef):
                classes[prefix + node.name] = node
                visit(node, f"{prefix}{node.name}.")
            else:
                visit(node, f"{prefix}{node.name}.<locals>." if isinstance(node, ast.FunctionDef) else prefix)

    visit(ast.parse(inspect.getsource(module)), "")
    return classes


def get_first_line(cls: type) -> str:
    """Return the first line of the docstring of a class."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


class Entry(NamedTuple):
    """A key of a config."""

    key: str
    default: str
    doc: str
    family: Any = None
    """The family of choices that the key names, if it does"""


class Section(NamedTuple):
    """The keys of the config itself (`kind` and `name` are empty), or the options of one choice such as `conv_norm`."""

    kind: str
    name: str
    doc: str
    entries: list[Entry]


def describe(schema: type, base: type | None = None) -> str:
    """Return all keys of a config with their meanings and defaults, then the options of all choices, as plain text.

    Keys are left out that a `base` has with the same meaning and default.
    """
    lines = []
    known = [] if base is None else next(list_sections(base)).entries
    for kind, name, doc, entries in list_sections(schema):
        indent = "    " if kind else "  "
        lines += [f"\n  {kind} '{name}': {doc}"] if kind else []
        for key, default, text, family in (entry for entry in entries if entry not in known):
            text += f". One of: {', '.join(family.registry)}" if family else ""
            lines.append(f"{indent}{key}  (default: {default})\n      {text}")
    return "\n".join(lines)


def reference(schema: type) -> str:
    """Return the same reference as Markdown: the keys by their sections, and then a part for each kind of choice, which
    begins with the options that all choices of this kind share.
    """
    lines: list[str] = []
    for kind, group in groupby(list_sections(schema), key=lambda section: section.kind):
        sections = list(group)
        if not kind:
            parts: dict[str, list[Entry]] = {"": []}  # the keys without a dot come first
            for entry in sections[0].entries:
                parts.setdefault(entry.key.rpartition(".")[0].partition(".")[0], []).append(entry)
            lines += ["## Keys", ""]
            for name, entries in parts.items():
                lines += [f"### `{name}`", ""] if name else []
                lines += _format_table(entries)
            continue
        shared = _find_shared(sections)
        lines += [f"## {kind.capitalize()}", ""]
        if shared:
            rest = "Its section lists the others, and those that it has with another default or meaning."
            lines += [f"Every {kind} has these options. {rest}", "", *_format_table(shared)]
        for section in sections:
            lines += [f"### {kind} `{section.name}`", "", _escape_markdown(section.doc), ""]
            lines += _format_table(entry for entry in section.entries if entry not in shared)
    return "\n".join(lines)


def _find_shared(sections: list[Section]) -> list[Entry]:
    """Return the options that most choices of a kind have with the same default and meaning, if all have the key."""
    keys = Counter(entry.key for section in sections for entry in section.entries)
    entries = Counter(entry for section in sections for entry in section.entries)
    return [e for e, count in entries.items() if keys[e.key] == len(sections) > 1 and count > len(sections) / 2]


def _format_table(entries: Iterable[Entry]) -> list[str]:
    """Return a table of keys with links to their choices, followed by an empty line; nothing without keys."""
    rows = []
    for key, default, text, family in entries:
        text = _escape_markdown(text)
        if family:
            kind = family.registry.kind
            links = [f"[{_escape_markdown(name)}](#{kind.replace(' ', '-')}-{name})" for name in family.registry]
            text += f". One of: {', '.join(links)}"
        rows.append(f"| `{key}` | `{default}` | {text} |")
    return ["| key | default | meaning |", "|---|---|---|", *rows, ""] if rows else []


def list_sections(schema: type) -> Iterator[Section]:
    """Yield the keys of a config, then the options of each choice. Each family of choices is described once."""
    families: list[type] = []
    yield Section("", "", "", list(_list_keys(schema, "", families)))
    for family in families:
        yield from _list_choices(family, families) if is_family(family) else [_describe_mapping(family)]


def _list_keys(cls: type, prefix: str, families: list[type]) -> Iterator[Entry]:
    """Yield the keys of a dataclass, and add the families of its fields to `families`."""
    docs, types = get_field_docs(cls), get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key, tp = f"{prefix}{field.name}", types[field.name]
        if isinstance(tp, type) and dataclasses.is_dataclass(tp) and not is_family(tp):
            yield from _list_keys(tp, f"{key}.", families)
        else:
            yield _describe_field(key, docs[field.name], field, tp, families)


def _list_choices(family: type, families: list[type]) -> Iterator[Section]:
    """Yield the options of each class of a family, and add the families of these options to `families`."""
    for name in family.registry:
        cls = family.registry.get(name)
        docs, types = get_field_docs(cls), get_type_hints(cls)
        fields = dataclasses.fields(cls)
        entries = [
            _describe_field(f".{field.name}", docs[field.name], field, types[field.name], families) for field in fields
        ]
        yield Section(family.registry.kind, name, get_first_line(cls), entries)


def _describe_mapping(cls: type) -> Section:
    """Return the options of a dataclass that may be written instead of a number."""
    docs, required = get_field_docs(cls), list_required(cls)
    entries = [
        Entry(f".{f.name}", "none" if f.name in required else dump_value(f.default), docs[f.name])
        for f in dataclasses.fields(cls)
    ]
    return Section("mapping", cls.__name__.lower(), get_first_line(cls), entries)


def _describe_field(key: str, doc: str, field: dataclasses.Field, tp: Any, families: list[type]) -> Entry:
    default = field.default_factory() if callable(field.default_factory) else field.default
    if (alternative := find_alternative(tp)) is not None:
        if alternative not in families:
            families.append(alternative)
        doc += f"; may be a {alternative.__name__.lower()}"
    family = get_args(tp)[1] if get_origin(tp) is dict else tp
    if is_family(family) and family not in families:
        families.append(family)
    name = family.registry.get_name(type(default)) if is_family(tp) else dump_value(default)
    return Entry(key, name, doc, family if is_family(family) else None)


def _escape_markdown(text: str) -> str:
    """Return text with Markdown's special characters escaped, except in code between backticks."""
    return re.sub(r"`[^`]*`|[\\*_|<>\[\]]", lambda m: m[0] if m[0][0] == "`" else f"\\{m[0]}", text)
