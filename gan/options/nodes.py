"""Reads YAML files, their `base:` files and command-line overrides into nodes that know their file and line.

Scalars follow the YAML 1.2 core schema: `1e-4` is a number, `no` is a string. Duplicate keys are errors.
"""

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from gan.options.shipped import find_shipped, suggest_shipped
from gan.runtime.errors import UserError

MAX_SHOWN = 1000  # characters of an override in error messages
MAX_NODES = 100_000  # a config has a few hundred nodes; the limit stops aliases that expand exponentially
MAX_DIGITS = 1000  # Python cannot print integers with more than a few thousand digits
MAX_BYTES = 1_000_000  # a config has a few thousand bytes; PyYAML needs about one second per megabyte
TOO_LONG = f"more than {MAX_BYTES:,} bytes; this is probably not a config"


class ConfigError(UserError):
    """An error in a config. The message begins with file and line."""


@dataclass(frozen=True)
class Node:
    """A YAML value (a scalar, a list of nodes or a dict of nodes) and its location, such as `file.yaml:3`."""

    value: Any
    where: str


_SCALARS = {
    "null": re.compile(r"(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}
_INVALID_CHARACTERS = re.compile("[\0\ud800-\udfff]")  # possible in a string through escapes
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class Loader(yaml.SafeLoader):
    """PyYAML's loader with the scalars of the YAML 1.2 core schema."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 (an attribute of PyYAML)


class Dumper(yaml.SafeDumper):
    """PyYAML's dumper, which quotes a string exactly if `Loader` would read it as another type."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        """Return True, so that repeated values are written in full."""
        return True


def _represent_str(dumper: Dumper, text: str) -> yaml.Node:
    # Without escapes in double quotes, PyYAML turns line breaks such as U+0085 into spaces.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


Dumper.add_representer(str, _represent_str)

for _tag, _pattern in _SCALARS.items():
    for _cls in (Loader, Dumper):
        _cls.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)


def _parse_scalar(tag: str, text: str) -> Any:
    kind = tag.removeprefix("tag:yaml.org,2002:")
    if kind in _SCALARS and not _SCALARS[kind].match(text):  # an explicit tag, such as `!!int x`
        raise ValueError(f"'{text}' is not of the type {kind}")
    match kind:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            if len(text) > MAX_DIGITS:
                raise ValueError(f"a whole number with more than {MAX_DIGITS} digits")
            return int(text, 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10)
        case "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        case "str":
            if found := _INVALID_CHARACTERS.search(text):
                raise ValueError(f"a string with the character U+{ord(found[0]):04X}, which file names cannot have")
            return text
    raise ValueError(_describe_forbidden_tag(tag))


def _describe_forbidden_tag(tag: str) -> str:
    return f"the tag {tag} is not allowed here"


@lru_cache(maxsize=32)  # the cells of a comparison have the same config files
def parse_yaml(text: str, source: str) -> Node:
    """Return the root node of YAML text, which must not be changed. `source` is its name in error messages.

    Raises ConfigError for invalid YAML, duplicate keys and application-specific tags.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source}: {TOO_LONG}")
    try:
        root = yaml.compose(text, Loader=Loader)
        if root is None:
            return Node({}, f"{source}:1")
        count = 0

        def convert(node: yaml.Node) -> Node:
            nonlocal count
            count += 1
            where = f"{source}:{node.start_mark.line + 1}"
            if count > MAX_NODES:
                raise ConfigError(f"{where}: more than {MAX_NODES} values; check for aliases that repeat each other")
            if isinstance(node, yaml.ScalarNode):
                try:
                    return Node(_parse_scalar(node.tag, node.value), where)
                except ValueError as error:
                    raise ConfigError(f"{where}: {one_line(error)}") from None
            if node.tag not in _COLLECTIONS:
                raise ConfigError(f"{where}: {_describe_forbidden_tag(node.tag)}")
            if isinstance(node, yaml.SequenceNode):
                return Node([convert(child) for child in node.value], where)
            entries: dict[str, Node] = {}
            for key, child in node.value:
                at = f"{source}:{key.start_mark.line + 1}"
                if not isinstance(key, yaml.ScalarNode):
                    raise ConfigError(f"{at}: a key must be a scalar, not a list or a mapping")
                if key.value in entries:
                    raise ConfigError(f"{at}: duplicate key '{key.value}'; remove one")
                entries[key.value] = convert(child)
            return Node(entries, where)

        return convert(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = source if mark is None else f"{source}:{mark.line + 1}"
        raise ConfigError(f"{where}: not valid YAML: {one_line(error.problem or error.context)}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # an escape beyond Unicode raises the last two
        raise ConfigError(f"{source}: not valid YAML: {one_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply, or an alias contains itself") from None


def one_line(error: object) -> str:
    """Return the text of an error without line breaks."""
    return " ".join(str(error).split())


def read_layers(path: Path, children: tuple[Path, ...] = (), where: str = "") -> list[Node]:
    """Return the layers of a config file: the files that it inherits from through `base:`, then the file itself.

    `children` are the files that inherit from this file, and `where` is the location of the `base:` that names it.
    """
    prefix = f"{where}: base: " if where else ""
    try:
        path = path.resolve()
        if path in children:
            chain = " -> ".join(_relative_to_cwd(p) for p in (*children, path))
            raise ConfigError(f"{prefix}circular inheritance: {chain}")
        if not path.is_file():  # reading a pipe or a device may never end
            path.stat()  # raises an error with the reason if there is no such path
            raise OSError("a folder; name a file in it" if path.is_dir() else "not a regular file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:  # what is cut off may be in the middle of a character
            raise ConfigError(f"{path}: {TOO_LONG}")
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError, RuntimeError) as error:  # a NUL byte in the path or a loop of links raise the others
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        hint = suggest_shipped(path) if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(f"{prefix}cannot read the config file {path}: {one_line(reason)}{hint}") from None
    node = parse_yaml(text, _relative_to_cwd(path))
    if not isinstance(node.value, dict):
        raise ConfigError(f"{node.where}: a config must be a mapping of keys to values, not {describe_value(node)}")
    entries = dict(node.value)
    base = entries.pop("base", None)
    layer = Node(entries, node.where)
    if base is None:
        return [layer]
    if not isinstance(base.value, str):
        raise ConfigError(f"{base.where}: 'base' must be the path of a YAML file, not {describe_value(base)}")
    file = path.parent / base.value
    if not os.path.lexists(file):
        file = find_shipped(Path(base.value)) or file
    return [*read_layers(file, (*children, path), base.where), layer]


def _relative_to_cwd(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def parse_override(text: str) -> Node:
    """Return the nested mapping {a: {b: c}} for the command-line override `a.b=c`."""
    where = f"command line: {text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + '...'}"  # each value keeps it
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{where}: an override must have the form key.sub=value")
    parsed = parse_yaml(value, where)
    node = Node(parsed.value if value.strip() else None, where)
    for part in reversed(parts):
        node = Node({part: node}, where)
    return node


def describe_value(node: Node) -> str:
    """Return a description of a node's value for error messages."""
    match node.value:
        case None:
            return "null"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str():
            return f"the string '{node.value}'"
    return str(node.value).lower() if isinstance(node.value, bool) else str(node.value)
