"""What a grid is made of: the command line's --vary, --arm and --seeds -> arms -> cells.

An arm is one way to train, a cell is an arm with a seed. Cells are named so that people, file systems and TensorBoard's
filter (a regular expression) can read them: `none-seed0`, `conv_norm,stride=paper-seed1`, `spectral,lr=1e-3-seed2`.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gan.compare.experiment_types import get_experiment_type
from gan.options.loader import load_config
from gan.options.nodes import Node, parse_override
from gan.runtime.errors import UserError

WORD = re.compile(r"(?!(?:null|true|false)$)[A-Za-z]\w*$")
OPENING, CLOSING, QUOTES = "[{", "]}", "'\""


@dataclass(frozen=True)
class Arm:
    """One way to train: a name, what it changes in the base config, and its value on each axis of the product."""

    name: str
    overrides: tuple[str, ...] = ()
    axes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """An arm with a seed: one ordinary run. `overrides` are all that its command line adds to the config file."""

    arm: Arm
    seed: int
    overrides: tuple[str, ...]
    config: Any

    @property
    def name(self) -> str:
        """What its run folder is called."""
        return f"{self.arm.name}-seed{self.seed}"


@dataclass(frozen=True)
class Axis:
    """Config keys that take the same value, and the values, as written on the command line."""

    keys: tuple[str, ...]
    values: tuple[str, ...]


def split(text: str, separator: str = ",") -> list[str]:
    """Split at commas outside of brackets, braces and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in QUOTES:
            quote = character
        elif character in OPENING or character in CLOSING:
            depth += 1 if character in OPENING else -1
        if character == separator and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def parse_axis(text: str) -> Axis:
    """Read `key=v1,v2`, or `key,key=v1,v2` for keys that change together."""
    keys, equals, values = text.partition("=")
    axis = Axis(tuple(split(keys)), tuple(split(values)))
    if not equals or not all(axis.keys) or not all(axis.values):
        raise UserError(f"--vary {text}: is written key=value,value,... (null for none)")
    if len(set(axis.values)) < len(axis.values):
        raise UserError(f"--vary {text}: a value stands twice")
    return axis


def parse_arm(text: str) -> Arm:
    """Read `NAME:key=value,key=value`, or `NAME` alone for the base config as it is."""
    name, _, changes = text.partition(":")
    if not name.strip():
        raise UserError(f"--arm {text}: is written NAME:key=value,key=value,...")
    return Arm(file_name(name.strip()), tuple(split(changes)) if changes.strip() else ())


def parse_seeds(text: str) -> list[int]:
    """Read `0,1,2`."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: is written 0,1,2,...") from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"--seeds {text}: seeds are different whole numbers of at least 0")
    return seeds


def build_arms(axes: Sequence[Axis], named: Sequence[Arm]) -> list[Arm]:
    """Return the product of the axes and the named arms; the base config alone when there is neither."""
    keys = [key for axis in axes for key in axis.keys]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--vary {key}: stands twice; give all its values to one")
    labels = _labels(axes)
    product = [
        Arm(
            file_name(",".join(labels[axis][value] for axis, value in zip(axes, values, strict=True))),
            tuple(f"{key}={value}" for axis, value in zip(axes, values, strict=True) for key in axis.keys),
            {key: value for axis, value in zip(axes, values, strict=True) for key in axis.keys},
        )
        for values in (itertools.product(*(axis.values for axis in axes)) if axes else ())
    ]
    arms = [*product, *named] or [Arm("base")]
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two arms would be called {name}; name one with --arm NAME:key=value,...")
    return arms


def build_cells(path: Path, overrides: Sequence[str], arms: Iterable[Arm], seeds: Sequence[int]) -> list[Cell]:
    """Return a cell for each seed and arm, seeds outermost so that early results cover all arms; UserError for a config
    that cannot be.
    """
    arms = list(arms)
    for text in (*overrides, *(text for arm in arms for text in arm.overrides)):
        if text.partition("=")[0] == "seed":
            raise UserError(f"{text}: a comparison sets seeds with --seeds")
    schema = get_experiment_type(path).schema
    load_config(schema, path, overrides)  # so that an error in what all share names no arm
    return [_cell(schema, path, overrides, arm, seed) for seed in seeds for arm in arms]


def file_name(name: str) -> str:
    """Return the name with everything that a file system or a regular expression could take amiss as `_`."""
    return re.sub(r"[^\w.,=-]+", "_", name).strip("_.")


def _cell(schema: type, path: Path, overrides: Sequence[str], arm: Arm, seed: int) -> Cell:
    changes = (*overrides, *arm.overrides, f"seed={seed}")
    try:
        return Cell(arm, seed, changes, load_config(schema, path, changes))
    except UserError as error:
        raise UserError(f"arm {arm.name}: {error}") from None


def _labels(axes: Sequence[Axis]) -> dict[Axis, dict[str, str]]:
    """Return what each value of each axis is called: by itself where that says enough, else with its key before it."""
    labels: dict[Axis, dict[str, str]] = {}
    taken: set[str] = set()
    for axis in axes:
        nodes = {value: parse_override(f"{axis.keys[0]}={value}") for value in axis.values}
        for _ in axis.keys[0].split("."):
            nodes = {value: next(iter(node.value.values())) for value, node in nodes.items()}
        words = {value: _word(node) for value, node in nodes.items()}
        if all(words.values()) and taken.isdisjoint(words.values()):
            taken |= set(words.values())
            labels[axis] = {value: ",".join([words[value], *_options(node)]) for value, node in nodes.items()}
        else:
            key = _short_key(axis, axes)
            labels[axis] = {value: f"{key}={_value_label(value, node)}" for value, node in nodes.items()}
    return labels


def _word(node: Node) -> str:
    """Return the name of a choice that reads well by itself, or nothing."""
    name = node.value.get("name", node) if isinstance(node.value, dict) else node
    return name.value if isinstance(name.value, str) and WORD.match(name.value) else ""


def _options(node: Node) -> list[str]:
    """Return `option=value` for each option of a choice."""
    if not isinstance(node.value, dict):
        return []
    return [f"{key}={_text(child)}" for key, child in node.value.items() if key != "name"]


def _value_label(value: str, node: Node) -> str:
    if isinstance(node.value, list):
        return _text(node)
    if not isinstance(node.value, dict):
        return value.strip(QUOTES)  # as written: 1e-3 stays 1e-3
    return ",".join([*([_word(node)] if _word(node) else []), *_options(node)])


def _text(node: Node) -> str:
    match node.value:
        case dict():
            return "_".join(f"{key}_{_text(child)}" for key, child in node.value.items())
        case list():
            return "_".join(_text(child) for child in node.value)
        case None | bool():
            return {None: "null", True: "true", False: "false"}[node.value]
    return str(node.value)


def _short_key(axis: Axis, axes: Sequence[Axis]) -> str:
    """Return as many last parts of the axis's first key as tell it from those of the other axes."""
    parts = axis.keys[0].split(".")
    others = [key for other in axes if other is not axis for key in other.keys]
    for count in range(1, len(parts)):
        short = ".".join(parts[-count:])
        if not any(f".{key}".endswith(f".{short}") for key in others):
            return short
    return axis.keys[0]
