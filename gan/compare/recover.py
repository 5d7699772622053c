"""The cells of a comparison whose grid.json is lost or damaged, from its results and its run folders."""

import json
import re
from contextlib import suppress
from typing import Any

from gan.compare.csv_files import Row, read_results
from gan.compare.folder import GridFolder
from gan.options.loader import load_config, to_plain
from gan.run import folder as run_folder
from gan.runtime.errors import UserError

NAME = re.compile(r"(?P<arm>[\w.,=-]+)-seed(?P<seed>[0-9]{1,18})")


def find_cells(folder: GridFolder, base: Any) -> dict[str, dict[str, Any]]:
    """Return the entry in grid.json of each cell that has a row in results.csv or a run folder, by name.

    `base` is the base config. The overrides of a cell without a run folder are unknown, and empty. A run folder whose
    config cannot be read is left out.
    """
    rows = read_results(folder.results_file)
    paths = {path.parent.name: path for path in sorted(folder.root.glob(f"cells/*-seed*/{run_folder.CONFIG}"))}
    cells = {}
    for name in [*rows, *(name for name in paths if name not in rows)]:
        if (match := NAME.fullmatch(name)) is None:
            continue
        arm, seed, overrides = match["arm"], int(match["seed"]), []
        if name in paths:
            try:
                config = load_config(type(base), paths[name])
            except UserError:
                continue
            overrides = [*_get_overrides(to_plain(base), to_plain(config)), f"seed={seed}"]
        cells[name] = {"arm": arm, "seed": seed, "axes": _get_axes(rows.get(name, {}), arm), "overrides": overrides}
    return cells


def _get_axes(row: Row, arm: str) -> dict[str, str]:
    """Return the values of the axes of a cell, whose columns are those between `arm` and `seed`.

    A number is written as in the name of the arm: `1e-3` and not `0.001`, which would be another value.
    """
    keys = list(row)
    names = keys[keys.index("arm") + 1 : keys.index("seed")] if row else []
    return {name: _write(name, row[name], arm) if isinstance(row[name], float) else row[name] for name in names}


def _write(key: str, value: float, arm: str) -> str:
    for part in arm.split(","):
        suffix, _, text = part.partition("=")
        with suppress(ValueError):
            if f".{key}".endswith(f".{suffix}") and float(text) == value:
                return text
    return f"{value:g}"


def _get_overrides(old: Any, new: Any, key: str = "") -> list[str]:
    """Return the overrides that change plain options into others, without the seed."""
    if old == new or key == "seed":
        return []
    are_dicts = isinstance(old, dict) and isinstance(new, dict)
    if are_dicts and old.keys() == new.keys() and old.get("name") == new.get("name"):
        return [text for k in new for text in _get_overrides(old[k], new[k], f"{key}.{k}" if key else k)]
    # Another class has other options. An entry that is not named would be inherited.
    removed = dict.fromkeys(old.keys() - new.keys()) if are_dicts and "name" not in new else {}
    return [f"{key}={json.dumps({**removed, **new} if removed else new)}"]  # JSON is YAML
