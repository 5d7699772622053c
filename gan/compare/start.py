"""What is missing for the cells of a comparison: checked once, before the first of them starts."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from gan.compare.arms import Cell
from gan.compare.description import load_description
from gan.compare.experiment_types import ExperimentType
from gan.compare.folder import GridFolder
from gan.options.loader import dump_value
from gan.run.start import Start


class Starts(NamedTuple):
    """The base config and the cells with the metrics that they will have, and what is missing for each cell."""

    base: Any
    cells: list[Cell]
    by_cell: dict[str, Start]


def check_cells(folder: GridFolder, kind: ExperimentType, base: Any, cells: Sequence[Cell], device: str) -> Starts:
    """Return what is missing for each cell. All cells have the metrics of the first ones, see `check_start`.

    The metrics that stand in for others become overrides of the cells, so that no cell decides for itself.
    """
    description = load_description(folder)
    saved = None if description is None else description.base_config
    starts = {}
    for cell in cells:
        start = kind.check_start(cell.config, folder.run_folder(cell.name), device, saved)
        starts[cell.name] = start._replace(missing=[*start.missing, *folder.find_obstacles(cell.name)])
    chosen = [_override(cell, starts[cell.name].config) for cell in cells]
    return Starts(kind.check_start(base, folder.root, device, saved).config, chosen, starts)


def _override(cell: Cell, config: Any) -> Cell:
    if config == cell.config:
        return cell
    metrics, classifier = dump_value(config.eval.metrics), dump_value(config.metrics.classifier)
    overrides = (*cell.overrides, f"eval.metrics={metrics}", f"metrics.classifier={classifier}")
    return dataclasses.replace(cell, overrides=overrides, config=config)
