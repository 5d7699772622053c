"""grid.json: what is compared, and by which commands, on what. A grid asked for again with more arms or seeds grows."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gan.compare.arms import Cell
from gan.compare.experiment_types import Kind, get_type_by_sections
from gan.compare.folder import GridFolder, read_json, write_json
from gan.options.loader import construct, load_config, to_plain
from gan.options.nodes import parse_override
from gan.run import folder as run_folder
from gan.runtime.errors import UserError
from gan.runtime.provenance import hardware, revision, versions


@dataclass
class Description:
    """What grid.json holds.

    `base` is the resolved config that all cells change, `cells` has for each cell its arm, axes, overrides and seed,
    `runs` how each command was given: command, revision, versions, hardware.
    """

    config: str
    base: dict[str, Any]
    baseline: str
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        """The names of the arms, in the order in which they were asked for."""
        return list(dict.fromkeys(cell["arm"] for cell in self.cells.values()))

    @property
    def kind(self) -> Kind:
        """What is compared."""
        return get_type_by_sections(self.base)

    def choose_baseline(self, name: str | None) -> None:
        """Compare with this arm (None: as before); UserError when there is no such arm."""
        if name is not None and name not in self.arms:
            raise UserError(f"--baseline {name}: no such arm (arms: {'  '.join(self.arms)})")
        self.baseline = name or self.baseline


def load(folder: GridFolder) -> Description | None:
    """Return the description in a folder, or None when there is none."""
    held = read_json(folder.description)
    return Description(**held) if held else None


def save(folder: GridFolder, description: Description) -> None:
    """Write grid.json."""
    write_json(folder.description, vars(description))


def extended(folder: GridFolder, path: Path, base: Any, cells: Sequence[Cell], baseline: str | None) -> Description:
    """Return the folder's description with these cells added; UserError for one of another base."""
    arms = list(dict.fromkeys(cell.arm.name for cell in cells))
    description = load(folder) or Description(str(path), to_plain(base), "none" if "none" in arms else arms[0])
    if changed := run_folder.differences(to_plain(get_base_config(description)), to_plain(base)):
        keys = ", ".join(changed)
        raise UserError(
            f"--out {folder.root} holds a comparison on another base (it differs in {keys}); choose another --out"
        )
    for cell in cells:
        held = description.cells.get(cell.name)
        if held and load_config(type(base), path, held["overrides"]) != cell.config:
            raise UserError(
                f"--out {folder.root} holds another {cell.name} ({' '.join(held['overrides'])}); "
                "name one of the two with --arm NAME:key=value,..."
            )
        asked = {"arm": cell.arm.name, "seed": cell.seed, "axes": cell.arm.axes, "overrides": list(cell.overrides)}
        description.cells.setdefault(cell.name, asked)
    description.choose_baseline(baseline)
    return description


def get_base_config(description: Description) -> Any:
    """Return the base config; keys that it does not know yet have their defaults."""
    node = parse_override(f"base={json.dumps(description.base)}").value["base"]
    return construct(description.kind.schema, node, "")


def describe_run(command: Sequence[str]) -> dict[str, Any]:
    """Return how a command is given here: for `Description.runs`."""
    return {
        "command": shlex.join(command),
        "revision": revision(),
        "versions": versions(),
        "hardware": hardware(),
    }
