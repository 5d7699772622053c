"""What a report is written from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gan.compare.csv_files import Row, read_curve
from gan.compare.description import Description
from gan.compare.folder import GridFolder
from gan.compare.report import equal_time, plots, tables
from gan.compare.report.families import choose_best
from gan.compare.report.plots import ArmCurves, Axis
from gan.compare.report.wording import Wording, get_wording
from gan.compare.tags import get_primary_metric, higher_is_better

MINUTES = Axis("minutes", "training time (minutes)")  # a column that `Comparison.curves` adds


@dataclass(frozen=True)
class Comparison:
    """A comparison whose report is written: its folder, description and results."""

    folder: GridFolder
    description: Description
    rows: Sequence[Row]

    @property
    def title(self) -> str:
        """The title of the report."""
        path = Path(self.description.config)
        return f"Comparison on {path.parent.name}/{path.stem}".replace("on /", "on ")

    @property
    def wording(self) -> Wording:
        """The phrases for the type of the experiments."""
        return get_wording(self.description.experiment_type)

    @cached_property
    def points(self) -> dict[str, list[Row]]:
        """The rows of the curve of each cell."""
        return {row["cell"]: read_curve(self.folder.curve_file(row["cell"])) for row in self.rows}

    @cached_property
    def curves(self) -> dict[str, ArmCurves]:
        """The curves of each arm, with the training time in minutes if the arm's mean time per step is known."""
        seconds = equal_time.get_seconds_per_step(self.rows)
        seeds: dict[str, list[list[Row]]] = {}
        for row in self.rows:
            curve = self.points[row["cell"]]
            if row["arm"] in seconds:
                curve = [point | {MINUTES.column: point["step"] * seconds[row["arm"]] / 60} for point in curve]
            seeds.setdefault(row["arm"], []).append(curve)
        colors = plots.choose_colors(list(seeds), self.description.baseline)
        return {arm: ArmCurves(arm, colors[arm], curves) for arm, curves in seeds.items()}

    @property
    def axis(self) -> Axis:
        """The x-axis of most plots."""
        return Axis("images", f"{self.wording.images} (thousands)", 1000)

    @cached_property
    def best(self) -> list[str]:
        """The arm with the best learning rate of each family in the first metric, if there is one."""
        tag = get_primary_metric(self.rows)
        if tag is None or (higher := higher_is_better(tag)) is None:
            return []
        return choose_best(tables.get_values(self.rows, tag), higher)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """The arms of each plot."""
        return plots.group_arms(list(self.curves), self.description.baseline, self.best)
