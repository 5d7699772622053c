"""Build the arms and cells of a comparison from the command line options --vary, --arm and --seeds.

An arm is a set of config overrides. A cell is an arm with a seed, and is trained as one run. The names of cells, such
as `none-seed0`, `conv_norm,stride=strided-seed1` or `spectral,lr=1e-3-seed2`, are valid file names, and each is a
regular expression that matches itself, as TensorBoard's run filter needs.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from gan.compare.experiment_types import get_experiment_type
from gan.options.loader import load_config, to_plain
from gan.options.nodes import ConfigError, Loader, Node, describe_value, parse_yaml
from gan.run.folder import check_config_of_run, differing_keys
from gan.runtime.errors import UserError

WORD = re.compile(r"(?!(?:null|true|false)$)[A-Za-z]\w*$")
EVALUATION = re.compile(r"metrics\.|eval\.metrics$")
NEXT_OVERRIDE = re.compile(r",(?=\s*[\w.]+=)")


@dataclass(frozen=True)
class Arm:
    """A set of config overrides with a name. `axes` has the value of each key that --vary changes."""

    name: str
    overrides: tuple[str, ...] = ()
    axes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """An arm with a seed, trained as one run. `overrides` are all overrides of this run's command line."""

    arm: Arm
    seed: int
    overrides: tuple[str, ...]
    config: Any

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return f"{self.arm.name}-seed{self.seed}"


@dataclass(frozen=True)
class Axis:
    """Config keys that share a value, and the values as written on the command line."""

    keys: tuple[str, ...]
    values: tuple[str, ...]


def parse_axis(text: str) -> Axis:
    """Parse `key=v1,v2`, or `key,key=v1,v2` for keys that share a value.

    The values are the items of a YAML flow sequence: commas inside brackets, braces and quotes do not separate them.
    """
    keys, _, values = text.partition("=")
    try:
        axis = Axis(tuple(key.strip() for key in keys.split(",")), tuple(_split_values(values)))
    except ConfigError:
        axis = Axis((), ())
    if not axis.values or not all(axis.keys):
        raise UserError(f"--vary {text}: expected key=value,value,... with values in YAML (null for none)")
    if len(set(axis.values)) < len(axis.values):
        raise UserError(f"--vary {text}: a value is repeated; list each value once")
    return axis


def parse_arm(text: str) -> Arm:
    """Parse `NAME:key=value,key=value`, or `NAME` for an arm without overrides."""
    name, _, overrides = text.partition(":")
    if not name.strip():
        raise UserError(f"--arm {text}: expected NAME:key=value,key=value,...")
    parts = NEXT_OVERRIDE.split(overrides) if overrides.strip() else ()
    return Arm(to_file_name(name.strip()), tuple(part.strip() for part in parts))


def parse_seeds(text: str) -> list[int]:
    """Parse `0,1,2`."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: expected integers, as in 0,1,2") from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"--seeds {text}: seeds must be distinct and not negative")
    return seeds


def build_arms(axes: Sequence[Axis], named: Sequence[Arm]) -> list[Arm]:
    """Return the Cartesian product of the axes, then the named arms. Without either, return one arm named `base`."""
    keys = [key for axis in axes for key in axis.keys]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--vary {key}: the key is repeated; list all its values in one --vary")
    labels = _get_labels(axes)
    product = [
        Arm(
            to_file_name(",".join(labels[axis][value] for axis, value in zip(axes, values, strict=True))),
            tuple(f"{key}={value}" for axis, value in zip(axes, values, strict=True) for key in axis.keys),
            {key: value for axis, value in zip(axes, values, strict=True) for key in axis.keys},
        )
        for values in (itertools.product(*(axis.values for axis in axes)) if axes else ())
    ]
    arms = [*product, *named] or [Arm("base")]
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two arms have the name {name}; rename one with --arm NAME:key=value,...")
    return arms


def build_cells(path: Path, overrides: Sequence[str], arms: Iterable[Arm], seeds: Sequence[int]) -> list[Cell]:
    """Return a cell for each seed and arm. Seeds are the outer loop, so that early results cover all arms.

    Raises UserError for an invalid config, and for an arm that is evaluated in another way than the others.
    """
    arms = list(arms)
    for text in (*overrides, *(text for arm in arms for text in arm.overrides)):
        if text.partition("=")[0] == "seed":
            raise UserError(f"{text}: set the seeds of a comparison with --seeds")
    check_config_of_run(path)
    schema = get_experiment_type(path).schema
    # First, so that an error in the shared part is reported without the name of an arm
    base = load_config(schema, path, overrides, imports_plugins=True)
    cells = [_build_cell(schema, path, overrides, arm, seed) for seed in seeds for arm in arms]
    for cell in cells:
        _check_evaluation(base, cell)
    return cells


def to_file_name(name: str) -> str:
    """Replace all characters that are special in file names or in regular expressions by `_`."""
    return re.sub(r"[^\w.,=-]+", "_", name).strip("_.")


def _build_cell(schema: type, path: Path, overrides: Sequence[str], arm: Arm, seed: int) -> Cell:
    all_overrides = (*overrides, *arm.overrides, f"seed={seed}")
    try:
        return Cell(arm, seed, all_overrides, load_config(schema, path, all_overrides, imports_plugins=True))
    except UserError as error:
        raise UserError(f"arm {arm.name}: {error}") from None


def _check_evaluation(base: Any, cell: Cell) -> None:
    """Raise UserError if the arm of a cell has other metrics than the base config, or computes them in another way.

    The same name would stand for numbers that cannot be compared.
    """
    keys = [key for key in differing_keys(to_plain(base), to_plain(cell.config)) if EVALUATION.match(key)]
    if keys:
        raise UserError(
            f"arm {cell.arm.name}: arms cannot differ in how they are evaluated ({', '.join(keys)}); give these keys"
            " for all of them"
        )


def _split_values(text: str) -> list[str]:
    """Return the items of a YAML flow sequence that is written without its brackets, each as written."""
    sequence = f"[{text}]"
    parse_yaml(sequence, "--vary")
    if text.rstrip().endswith(","):  # YAML would ignore the comma
        raise ConfigError("--vary: the last value is empty")
    items = cast(yaml.SequenceNode, yaml.compose(sequence, Loader=Loader)).value
    return [sequence[item.start_mark.index : item.end_mark.index] for item in items]


def _get_labels(axes: Sequence[Axis]) -> dict[Axis, dict[str, str]]:
    """Return the part of the arm's name for each value of each axis.

    A choice such as `spectral` is its own label. The values of an axis are labelled `key=value` if any of them is not a
    word or if an earlier axis uses the same word.
    """
    labels: dict[Axis, dict[str, str]] = {}
    used: set[str] = set()
    for axis in axes:
        nodes = {text: parse_yaml(text, f"--vary {axis.keys[0]}={text}") for text in axis.values}
        choices = [node.value.get("name", node) if isinstance(node.value, dict) else node for node in nodes.values()]
        names = [node.value if isinstance(node.value, str) else "" for node in choices]
        is_clear = all(map(WORD.match, names)) and used.isdisjoint(names)
        used |= set(names) if is_clear else set()
        prefix = "" if is_clear else f"{_shorten_key(axis, axes)}="
        labels[axis] = {text: prefix + _get_label(text, node) for text, node in nodes.items()}
    return labels


def _get_label(text: str, node: Node) -> str:
    """Return the label of a value: `conv_norm,stride=strided` for a choice with options, a scalar as written."""
    if isinstance(node.value, dict):
        options = [f"{key}={_flatten(child)}" for key, child in node.value.items() if key != "name"]
        return ",".join([_flatten(node.value["name"]), *options] if "name" in node.value else options)
    return _flatten(node) if isinstance(node.value, list) else text.strip("'\"")


def _flatten(node: Node) -> str:
    """Return a value as one word: `0.5_0.9` for [0.5, 0.9], `a_1` for {a: 1}."""
    match node.value:
        case dict():
            return "_".join(f"{key}_{_flatten(child)}" for key, child in node.value.items())
        case list():
            return "_".join(_flatten(child) for child in node.value)
        case None | bool():
            return describe_value(node)
    return str(node.value)


def _shorten_key(axis: Axis, axes: Sequence[Axis]) -> str:
    """Return the shortest suffix of the axis's first key that no key of another axis shares: `lr`, `generator.lr`."""
    first = axis.keys[0]
    others = [key for other in axes if other is not axis for key in other.keys]
    parts = first.split(".")
    suffixes = (".".join(parts[-count:]) for count in range(1, len(parts)))
    return next((suffix for suffix in suffixes if not any(f".{key}".endswith(f".{suffix}") for key in others)), first)
