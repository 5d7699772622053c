"""The answers of `--help` and `--help KEY`: one page, or one section, choice or key, with the values of a config."""

import dataclasses
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from gan.options.help import get_field_docs, get_first_line
from gan.options.loader import EXPECTED, dump_value
from gan.options.nodes import ConfigError
from gan.options.schema import find_alternative, get_current_name, get_field_types, is_family, join_keys, list_required
from models.ranges import Range
from models.registry import did_you_mean

MAX_VALUE = 16  # characters of a value in a table
MIN_MEANING = 25  # characters of a meaning in a table; if there are fewer, it has a line of its own


class Key(NamedTuple):
    """A key of a config, with its value in the config."""

    path: str
    tp: Any
    value: Any
    """A class stands for its default values"""
    doc: str
    default: str = ""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def family(self) -> Any:
        """The family whose member, or whose members, the key chooses; otherwise None."""
        tp = get_args(self.tp)[1] if get_origin(self.tp) is dict else self.tp
        return tp if is_family(tp) else None

    @property
    def is_section(self) -> bool:
        """Whether the key has only keys below it, and no value of its own."""
        return isinstance(self.tp, type) and dataclasses.is_dataclass(self.tp) and not is_family(self.tp)

    @property
    def shown(self) -> str:
        """The value as YAML on one line; of a choice its name."""
        if self.is_section:
            return ""
        if self.family is None:
            return dump_value(self.value)
        return (
            self.family.registry.get_name(type(self.value)) if is_family(self.tp) else ", ".join(self.value) or "none"
        )

    @property
    def owner(self) -> Any:
        """The dataclass that has the keys below this one; None if it has none."""
        if dataclasses.is_dataclass(self.value):
            return self.value if isinstance(self.value, type) else type(self.value)
        return find_alternative(self.tp)

    def children(self) -> list["Key"]:
        """Return the keys below this one; for penalties and the like, all that may be chosen."""
        if self.family is not None and not is_family(self.tp):
            classes = {name: self.family.registry.get(name) for name in self.family.registry}
            return [
                Key(join_keys(self.path, name), cls, self.value.get(name, cls), get_first_line(cls))
                for name, cls in classes.items()
            ]
        cls = self.owner
        if cls is None:
            return []
        docs, types, required = get_field_docs(cls), get_field_types(cls), list_required(cls)
        keys = []
        for field in dataclasses.fields(cls):
            default = field.default_factory() if callable(field.default_factory) else field.default
            value = getattr(self.value, field.name) if isinstance(self.value, cls) else default
            key = Key(join_keys(self.path, field.name), types[field.name], value, docs.get(field.name, ""))
            if field.name in required:
                key = key._replace(default="none, it needs a value", value=None if value is default else value)
            else:
                key = key._replace(default=key._replace(value=default).shown)
            keys.append(key._replace(doc=get_first_line(key.tp)) if key.is_section else key)
        return keys

    def walk(self) -> Iterator["Key"]:
        """Yield the keys below this one. Instead of a section, those below it are yielded."""
        for key in self.children():
            yield from key.walk() if key.is_section else [key]


def format_page(config: Any, common: Sequence[str]) -> str:
    """Return a line for each key at the top of a config, and for each of the `common` keys that the config has."""
    root = Key("", type(config), config, "")
    keys = {key.path: key for top in root.children() for key in [top, *top.children(), *top.walk()]}
    top = _format_table((key.path, key.shown, key.doc) for key in root.children())
    return "\n".join([*top, "", *_format_table((k.path, k.shown, k.doc) for path in common if (k := keys.get(path)))])


def explain(config: Any, path: str) -> str:
    """Return the meaning of a key of a config, its value and choices, and the keys below it.

    Raises ConfigError if there is no such key.
    """
    key = _find(config, path)
    lines = [f"{key.path}: {key.shown}".rstrip(), f"    {key.doc}"]
    if key.family is not None:
        classes = {name: key.family.registry.get(name) for name in key.family.registry}
        lines += ["", "choices:", *_format_table((name, "", get_first_line(cls)) for name, cls in classes.items())]
        if not is_family(key.tp):
            return "\n".join([*lines, "", f"--help {key.path}.NAME shows the keys of a choice."])
        lines += ["", f"keys of {key.shown}:"]
    elif not key.is_section:
        lines += ["", f"    type:     {_describe_type(key.tp)}", f"    default:  {key.default}"]
    below = list(key.walk())
    if key.family is None and below and not key.is_section:
        lines += ["", "keys of the mapping that may be written instead of a number:"]
    for inner in below:
        lines += [f"  {inner.path}: {inner.shown}", f"      {inner.doc}"]
    return "\n".join(lines)


def _find(config: Any, path: str) -> Key:
    key = Key("", type(config), config, "")
    for written in path.split("."):
        part = get_current_name(key.tp if key.family is not None and not is_family(key.tp) else key.owner, written)
        if part == "name" and is_family(key.tp):
            continue
        children = {child.name: child for child in key.children()}
        if part not in children:
            known = f" (known here: {', '.join(children)})" if children else f": {key.path} has no keys"
            raise ConfigError(f"--help {path}: unknown key{known}{_suggest(config, key, part, children)}")
        key = children[part]
    return key


def _suggest(config: Any, key: Key, part: str, children: Iterable[str]) -> str:
    """Return a hint at the key that was meant instead of `part` below `key`."""
    if key.family is not None and is_family(key.tp):
        names = [n for n in key.family.registry if part in get_field_types(key.family.registry.get(n))]
        if names:
            return f"; a key of {', '.join(names)}: add {key.path}={names[0]}"
    if hint := did_you_mean(part, children, join_keys(key.path, "")):
        return hint
    everywhere = Key("", type(config), config, "").walk()
    paths = [inner.path for found in everywhere for inner in [found, *found.walk()] if inner.name == part]
    return f"; did you mean '{paths[0]}'?" if paths else ""


def _describe_type(tp: Any, ranges: Sequence[Range] = ()) -> str:
    """Return the values that a key accepts, such as `a whole number, at least 1, or null`."""
    ranges = [extra for extra in getattr(tp, "__metadata__", ()) if isinstance(extra, Range)] or ranges
    if get_origin(tp) is Annotated:
        tp = get_args(tp)[0]
    args = get_args(tp)
    if get_origin(tp) in (Union, UnionType):
        described = [_describe_type(arg, ranges) for arg in args if arg is not NoneType]
        return ", or ".join([*described, "null"] if NoneType in args else described)
    if get_origin(tp) is Literal:
        return f"one of {', '.join(dump_value(choice) for choice in args)}"
    if get_origin(tp) is tuple:
        inner = dict.fromkeys(_describe_type(arg) for arg in args if arg is not Ellipsis)
        return f"a list, each entry {' or '.join(inner)}"
    if dataclasses.is_dataclass(tp):
        return f"a mapping (a {getattr(tp, '__name__', '').lower()})"
    return ", ".join([EXPECTED[tp], *map(str, ranges)])


def _format_table(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    """Return rows of key, value and meaning as lines that fit into the terminal."""
    rows = list(rows)
    shown = [value if len(value) <= MAX_VALUE else f"{value[: MAX_VALUE - 3]}..." for _, value, _ in rows]
    keys, values = (max((len(text) for text in column), default=0) for column in ([row[0] for row in rows], shown))
    columns = shutil.get_terminal_size().columns
    width, gap = columns - keys - values - 7, "  "
    if width < MIN_MEANING:
        width, gap = columns - 7, "\n      "
    shorten = partial(textwrap.shorten, width=width, placeholder=" ...", break_on_hyphens=False)
    return [
        f"  {key:{keys}}  {value:{values}}{gap}{shorten(doc)}".rstrip()
        for (key, _, doc), value in zip(rows, shown, strict=True)
    ]
