"""grid.json: the config, arms, cells and commands of a comparison. Later commands can add arms and seeds."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from gan.compare.arms import Cell, to_file_name
from gan.compare.experiment_types import ExperimentType, get_type_by_sections
from gan.compare.folder import GridFolder
from gan.compare.recover import find_cells
from gan.compare.status import differing_keys
from gan.options.loader import from_plain, load_config, to_plain
from gan.run.lock import check_lock
from gan.runtime.damaged import read_json
from gan.runtime.errors import UserError
from gan.runtime.files import write_json
from gan.runtime.provenance import hardware, revision, versions


@dataclass
class Description:
    """The contents of grid.json.

    `config` is the path of the config file and `base` the resolved config that the arms change. `cells` has the arm,
    axes, overrides and seed of each cell by name. `runs` has the command, revision, versions and hardware of each
    command that trained cells.
    """

    config: str
    base: dict[str, Any]
    baseline: str
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        """The names of the arms in the order in which they were added."""
        return list(dict.fromkeys(cell["arm"] for cell in self.cells.values()))

    def get_cells(self, arm: str) -> list[str]:
        """Return the names of the cells of an arm."""
        return [name for name, cell in self.cells.items() if cell["arm"] == arm]

    @property
    def experiment_type(self) -> ExperimentType:
        """The type of the experiments."""
        return get_type_by_sections(self.base)

    @property
    def base_config(self) -> Any:
        """The base config as a dataclass. Keys that are missing in `base` have their defaults."""
        return from_plain(self.experiment_type.schema, self.base, "grid.json: base")

    def set_baseline(self, name: str | None) -> None:
        """Set the baseline, or keep it if `name` is None. Raises UserError if there is no such arm."""
        if name is not None and name not in self.arms:
            raise UserError(f"--baseline {name}: no such arm (arms: {'  '.join(self.arms)})")
        self.baseline = name or self.baseline


def load_description(folder: GridFolder) -> Description | None:
    """Return the description in a folder, or None if the folder has no grid.json, or only a damaged one."""
    content = read_json(folder.description_file, _is_description, None)
    return Description(**content) if content else None


def save_description(folder: GridFolder, description: Description) -> None:
    """Write grid.json."""
    check_lock(folder.root)
    write_json(folder.description_file, vars(description))


def _is_description(value: Any) -> bool:
    """Return whether a value has the form of the contents of grid.json."""
    if not isinstance(value, dict) or not value.keys() <= {field.name for field in fields(Description)}:
        return False
    cells, runs = value.get("cells"), value.get("runs", [])
    return (
        all(isinstance(value.get(key), str) for key in ("config", "baseline"))
        and isinstance(value.get("base"), dict)
        and isinstance(cells, dict)
        and len(cells) > 0
        and all(_is_cell(name, cell) for name, cell in cells.items())
        and isinstance(runs, list)
        and all(isinstance(run, dict) and _is_run(run) for run in runs)
    )


def _is_cell(name: str, cell: Any) -> bool:
    """Return whether a value is the entry of a cell. Its name becomes a part of paths."""
    return (
        isinstance(cell, dict)
        and isinstance(cell.get("arm"), str)
        and cell["arm"] == to_file_name(cell["arm"])
        and type(cell.get("seed")) is int
        and name == f"{cell['arm']}-seed{cell['seed']}"
        and isinstance(cell.get("overrides"), list)
        and all(isinstance(text, str) for text in cell["overrides"])
        and isinstance(cell.get("axes"), dict)
        and all(isinstance(text, str) for text in cell["axes"].values())
    )


def _is_run(run: dict[str, Any]) -> bool:
    """Return whether a mapping is the entry of a command."""
    texts = (run.get(key) for key in ("command", "revision", "hardware"))
    return all(isinstance(text, str) for text in texts) and isinstance(run.get("versions"), dict)


def extend_description(
    folder: GridFolder, path: Path, base: Any, cells: Sequence[Cell], baseline: str | None
) -> Description:
    """Return the description in a folder, or a new one, with these cells added.

    A new one also has the other cells that have been trained in this folder, as its grid.json may have been lost.
    `path` is the config file and `base` its config. Raises UserError if the folder has a comparison with another base
    config, or cells with the same names but other configs.
    """
    arms = list(dict.fromkeys(cell.arm.name for cell in cells))
    description = load_description(folder)
    lost = {} if description is not None else find_cells(folder, base)
    description = description or Description(str(path), to_plain(base), baseline="none" if "none" in arms else arms[0])
    if keys := differing_keys(description.base_config, base):
        raise UserError(
            f"--out {folder.root} contains a comparison with another base config (different keys: {', '.join(keys)}); "
            "choose another --out"
        )
    for cell in cells:
        existing = description.cells.get(cell.name)
        if existing is not None and existing["overrides"]:  # otherwise they are unknown
            if differing_keys(
                load_config(type(base), path, existing["overrides"], trusts_overrides=False), cell.config
            ):
                raise UserError(
                    f"--out {folder.root} contains another cell {cell.name} ({' '.join(existing['overrides'])}); "
                    "rename the new arm with --arm NAME:key=value,..."
                )
            continue
        new = {"arm": cell.arm.name, "seed": cell.seed, "axes": cell.arm.axes, "overrides": list(cell.overrides)}
        description.cells[cell.name] = new
    description.cells |= {name: cell for name, cell in lost.items() if name not in description.cells}
    description.set_baseline(baseline)
    return description


def describe_command(command: Sequence[str]) -> dict[str, Any]:
    """Return an entry of `Description.runs`: a command with the revision, versions and hardware that it runs on."""
    return {
        "command": shlex.join(command),
        "revision": revision(),
        "versions": versions(),
        "hardware": hardware(),
    }
