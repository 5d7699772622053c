"""YAML text -> nodes that know file and line, through `base:` files and command-line overrides.

Scalars follow the YAML 1.2 core schema: `1e-4` is a number, `no` is a string. Duplicate keys are errors.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gan.runtime.errors import UserError

MAX_NODES = 100_000  # a config has a few hundred; this stops "billion laughs" aliases
MAX_DIGITS = 1000  # Python itself refuses to print numbers of more than some thousand digits
MAX_BYTES = 1_000_000  # a config has some thousand; PyYAML takes a second for each megabyte


class ConfigError(UserError):
    """A config that cannot be read; the message begins with file:line."""


@dataclass(frozen=True)
class Node:
    """A YAML value (scalar, list of nodes, or dict of nodes) and where it stands."""

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
_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # an escape can put them into a string
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class Loader(yaml.SafeLoader):
    """PyYAML's loader with the scalars of the YAML 1.2 core schema."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 (PyYAML's own attribute)


class Dumper(yaml.SafeDumper):
    """Quotes exactly the strings that `Loader` would read as something else."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out."""
        return True


def _represent_str(dumper: Dumper, text: str) -> yaml.Node:
    # PyYAML folds line breaks such as U+0085 into spaces unless they are escaped, between double quotes.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


Dumper.add_representer(str, _represent_str)

for _tag, _pattern in _SCALARS.items():
    for _cls in (Loader, Dumper):
        _cls.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)


def _scalar(tag: str, text: str) -> Any:
    kind = tag.removeprefix("tag:yaml.org,2002:")
    if kind in _SCALARS and not _SCALARS[kind].match(text):  # by an explicit tag, such as `!!int x`
        raise ValueError(f"'{text}' is no {kind}")
    match kind:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            if len(text) > MAX_DIGITS:
                raise ValueError(f"a whole number of more than {MAX_DIGITS} digits")
            return int(text, 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10)
        case "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        case "str":
            if found := _UNUSABLE.search(text):
                raise ValueError(f"a string with the character U+{ord(found[0]):04X}, which no file or folder can have")
            return text
    raise ValueError(_not_allowed(tag))


def _not_allowed(tag: str) -> str:
    return f"the tag {tag} is not allowed here"


def parse_yaml(text: str, source: str) -> Node:
    """Read YAML text into nodes. `source` names it in errors. Duplicate keys and foreign tags are errors."""
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
                raise ConfigError(f"{where}: more than {MAX_NODES} values; is an alias expanded over and over?")
            if isinstance(node, yaml.ScalarNode):
                try:
                    return Node(_scalar(node.tag, node.value), where)
                except ValueError as error:
                    raise ConfigError(f"{where}: {one_line(error)}") from None
            if node.tag not in _COLLECTIONS:
                raise ConfigError(f"{where}: {_not_allowed(node.tag)}")
            if isinstance(node, yaml.SequenceNode):
                return Node([convert(child) for child in node.value], where)
            entries: dict[str, Node] = {}
            for key, child in node.value:
                at = f"{source}:{key.start_mark.line + 1}"
                if not isinstance(key, yaml.ScalarNode):
                    raise ConfigError(f"{at}: a key must be a plain word")
                if key.value in entries:
                    raise ConfigError(f"{at}: the key '{key.value}' stands twice; remove one")
                entries[key.value] = convert(child)
            return Node(entries, where)

        return convert(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = source if mark is None else f"{source}:{mark.line + 1}"
        raise ConfigError(f"{where}: not valid YAML: {one_line(error.problem or error.context)}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: an escape beyond Unicode
        raise ConfigError(f"{source}: not valid YAML: {one_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply, or an alias that contains itself") from None


def one_line(error: object) -> str:
    """Return a message on one line."""
    return " ".join(str(error).split())


def read_layers(path: Path, children: tuple[Path, ...] = (), where: str = "") -> list[Node]:
    """Read a config file and the files it inherits from through `base:`, the outermost base first.

    `children` are the files that led here and `where` says which of their lines did.
    """
    prefix = f"{where}: base: " if where else ""
    try:
        path = path.resolve()
        if path in children:
            chain = " -> ".join(_short(p) for p in (*children, path))
            raise ConfigError(f"{prefix}the files inherit from each other in a circle: {chain}")
        if not path.is_file():  # a pipe or a device may have no end
            path.stat()  # says why when it is not there
            raise OSError("it is no file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{prefix}{path}: more than {MAX_BYTES:,} bytes; is it a config?")
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError, RuntimeError) as error:  # also a NUL byte in the path, or a loop of links
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(f"{prefix}cannot read the config file {path}: {one_line(reason)}") from None
    node = parse_yaml(text, _short(path))
    if not isinstance(node.value, dict):
        raise ConfigError(f"{node.where}: a config is a mapping of keys to values, not {describe_value(node)}")
    entries = dict(node.value)
    base = entries.pop("base", None)
    layer = Node(entries, node.where)
    if base is None:
        return [layer]
    if not isinstance(base.value, str):
        raise ConfigError(f"{base.where}: 'base' must be the path of a YAML file, not {describe_value(base)}")
    return [*read_layers(path.parent / base.value, (*children, path), base.where), layer]


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def parse_override(text: str) -> Node:
    """Read `a.b=c` from the command line into the nested mapping {a: {b: c}}."""
    where = f"command line: {text}"
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{where}: an override is written key.sub=value")
    parsed = parse_yaml(value, where)
    node = Node(parsed.value if value.strip() else None, where)
    for part in reversed(parts):
        node = Node({part: node}, where)
    return node


def describe_value(node: Node) -> str:
    """Say in words what a node holds, for error messages."""
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
