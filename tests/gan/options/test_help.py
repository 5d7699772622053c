import dataclasses
import re
from dataclasses import dataclass, field
from typing import ClassVar, get_args, get_origin, get_type_hints

from gan.config import Config
from gan.options.help import describe, get_field_docs, list_sections, reference
from gan.options.schema import is_family
from models.registry import Registry


@dataclass(frozen=True)
class Fruit:
    """A fruit."""

    registry: ClassVar[Registry["Fruit"]] = Registry("fruit")

    ripe: bool = True
    """Whether it can be eaten"""


@Fruit.registry.register("apple")
@dataclass(frozen=True)
class Apple(Fruit):
    """An apple.

    Not shown.
    """

    seeds: int = 1
    """How many seeds"""
    ripe: bool = False
    """Whether it is red"""


@dataclass(frozen=True)
class Inner:
    zero: int = 0
    """A zero"""
    nothing: int | None = None
    """A nothing"""
    several: tuple[str, ...] = ("1e-4", "b")
    """Several words"""


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    fruit: Fruit = field(default_factory=Apple)
    """A fruit of the day"""


EXPECTED = """\
  inner.zero  (default: 0)
      A zero
  inner.nothing  (default: null)
      A nothing
  inner.several  (default: ['1e-4', b])
      Several words
  fruit  (default: apple)
      A fruit of the day. One of: apple

  fruit 'apple': An apple.
    .ripe  (default: false)
      Whether it is red
    .seeds  (default: 1)
      How many seeds"""


def test_description_lists_keys_then_choices():
    assert describe(Outer) == EXPECTED


REFERENCE = """\
## Keys

| key | default | meaning |
|---|---|---|
| `fruit` | `apple` | A fruit of the day. One of: [apple](#fruit-apple) |

### `inner`

| key | default | meaning |
|---|---|---|
| `inner.zero` | `0` | A zero |
| `inner.nothing` | `null` | A nothing |
| `inner.several` | `['1e-4', b]` | Several words |

## Fruit

### fruit `apple`

An apple.

| key | default | meaning |
|---|---|---|
| `.ripe` | `false` | Whether it is red |
| `.seeds` | `1` | How many seeds |
"""


def test_reference_in_markdown():
    assert reference(Outer) == REFERENCE


def test_options_of_every_choice_are_listed_once():
    text = reference(Config)
    every, *sections = re.split(r"^### dataset ", text.partition("\n## Dataset\n")[2].partition("\n## ")[0], flags=re.M)
    assert len(sections) > 1
    assert "| `.conditional` |" in every
    assert not any("| `.conditional` |" in section for section in sections)
    assert "| `.root` | `data` |" in every
    assert [part.split("`")[1] for part in sections if "| `.root` |" in part] == ["folder"]  # with another meaning
    assert "Every activation norm" not in text  # `none` does not have the option `eps` of the others


def test_markdown_is_escaped_except_in_code():
    @dataclass(frozen=True)
    class Marked:
        x: int = 0
        """|x|_2 of `a_b`"""

    assert reference(Marked).splitlines()[-1] == r"| `x` | `0` | \|x\|\_2 of `a_b` |"


def test_reference_has_every_key_and_option():
    parts = re.split(r"^##(?= )", reference(Config), flags=re.M)
    for section in list_sections(Config):
        (part,) = (part for part in parts if part.startswith(f" {section.kind.capitalize() or 'Keys'}\n"))
        every, *choices = part.split("\n### ")
        if section.kind:
            (own,) = (text for text in choices if text.startswith(f"{section.kind} `{section.name}`\n"))
            part = every + own
        for entry in section.entries:
            assert f"\n| `{entry.key}` | `{entry.default}` |" in part


def list_keys(cls: type, prefix: str = ""):
    hints = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[f.name]) and not is_family(hints[f.name]):
            yield from list_keys(hints[f.name], f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}"


def test_description_has_every_key():
    described = [line.split()[0] for line in describe(Config).splitlines() if "(default: " in line]
    assert [key for key in described if not key.startswith(".")] == list(list_keys(Config))


def find_choices(cls: type, found: dict[type, None]) -> list[type]:
    """Return all dataclasses that a schema can contain."""
    for tp in get_type_hints(cls).values():
        tp = get_args(tp)[1] if get_origin(tp) is dict else tp
        members = [tp.registry.get(name) for name in tp.registry] if is_family(tp) else [tp]
        for member in members:
            if dataclasses.is_dataclass(member) and member not in found:
                found[member] = None
                find_choices(member, found)
    return list(found)


def test_every_option_has_a_one_line_docstring():
    for cls in find_choices(Config, {}):
        hints, docs = get_type_hints(cls), get_field_docs(cls)
        for f in dataclasses.fields(cls):
            if not dataclasses.is_dataclass(hints[f.name]) or is_family(hints[f.name]):
                assert docs[f.name], (cls, f.name)
                assert "\n" not in docs[f.name]
