"""The plots of the report: a line for the mean over seeds, and a band from the lowest to the highest seed."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from gan.compare.csv_files import Row
from gan.compare.report.families import split_arm
from gan.runtime.files import write_atomically

# The salt makes SVG files reproducible: equal plots are equal files.
RC: dict[Any, Any] = {  # Any: only recent versions of matplotlib define the type of the keys
    "svg.hashsalt": "convnorm-gan",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# Colors for color-blind readers (Okabe and Ito). Many families use matplotlib's tab20, dark colors first, without gray.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b")
_TAB20 = [to_hex(color) for color in mpl.color_sequences["tab20"]]
MANY_COLORS = [color for start in (0, 1) for i, color in enumerate(_TAB20[start::2]) if i != 7]
BLACK, GRAY = "#000000", "#8a8a8a"
SIZE = (4.8, 3.2)  # inches, small enough that the text is readable on a phone
LEGEND_ROW = 0.2  # inches
DPI = 150  # of PNG files
MAX_ARMS = 8  # in one plot
BEST = "best"  # the group of the best learning rate of each family
MAX_VALUE = 1e30  # matplotlib cannot scale axes to the largest floats


@dataclass(frozen=True)
class Line:
    """A tag to plot, with its line style and its name in the legend. A single line needs no name."""

    tag: str
    name: str = ""
    style: str = "-"


@dataclass(frozen=True)
class Axis:
    """The x-axis of plots: column of the curves, label, and the value of the column that is 1 on the axis."""

    column: str
    label: str
    unit: float = 1.0


@dataclass(frozen=True)
class Plot:
    """A plot of tags: file name, caption, x-axis, label of the y-axis, and lines."""

    name: str
    caption: str
    axis: Axis
    label: str
    lines: Sequence[Line]
    log_scale: bool = False


@dataclass(frozen=True)
class ArmCurves:
    """The curves of an arm, one for each seed. A curve is a list of rows that map tags to values."""

    arm: str
    color: str
    seeds: Sequence[Sequence[Row]]

    def compute_band(self, tag: str, axis: Axis) -> np.ndarray | None:
        """Return the position and the lowest, mean and highest value over seeds, (4, N), or None if N = 0.

        Values beyond MAX_VALUE are left out.
        """
        points: dict[float, list[float]] = {}
        for rows in self.seeds:
            for row in rows:
                values = [row.get(key) for key in (axis.column, tag)]
                if all(isinstance(value, float) and abs(value) <= MAX_VALUE for value in values):
                    points.setdefault(row[axis.column] / axis.unit, []).append(row[tag])
        if not points:
            return None
        return np.array([(x, min(values), np.mean(values), max(values)) for x, values in sorted(points.items())]).T


def group_arms(arms: Sequence[str], baseline: str, best: Sequence[str]) -> dict[str, list[str]]:
    """Return the arms of each plot by group: one plot for up to MAX_ARMS arms, else `best` and one for each group.

    The plots of groups have the baseline.
    """
    if len(arms) <= MAX_ARMS:
        return {"": list(arms)}
    groups: dict[str, list[str]] = {}
    for arm in arms:
        groups.setdefault(split_arm(arm, arms)[1], [baseline]).append(arm)
    all_groups = {group: list(dict.fromkeys(members)) for group, members in groups.items()}
    return ({BEST: list(best)} if len(groups) > 1 and best else {}) | all_groups


def choose_colors(arms: Sequence[str], baseline: str) -> dict[str, str]:
    """Return a color for each arm. Arms whose names only differ in the group share a color.

    The baseline is black. The arms that would share its color are gray.
    """
    families = {arm: split_arm(arm, arms)[0] for arm in arms}
    others = list(dict.fromkeys(family for family in families.values() if family != families.get(baseline)))
    palette = COLORS if len(others) <= len(COLORS) else MANY_COLORS
    colors = {family: palette[i % len(palette)] for i, family in enumerate(others)}
    return {arm: colors.get(family, GRAY) for arm, family in families.items()} | {baseline: BLACK}


def draw_plot(path: Path, plot: Plot, curves: Sequence[ArmCurves]) -> bool:
    """Write `path`.png and `path`.svg.

    Return False without data to plot, and, with a warning, if matplotlib refuses the data.
    """
    drawn = [arm for arm in curves if any(arm.compute_band(line.tag, plot.axis) is not None for line in plot.lines)]
    if not drawn:
        return False
    try:
        _draw_arms(path, plot, drawn)
    except (ValueError, ArithmeticError) as error:
        reason = " ".join(str(error).split())  # in one line
        warnings.warn(f"{path}: cannot draw this plot ({reason}); continuing without it", stacklevel=2)
        return False
    return True


def _draw_arms(path: Path, plot: Plot, drawn: Sequence[ArmCurves]) -> None:
    entries = len(drawn) + (len(plot.lines) if len(plot.lines) > 1 else 0)
    width, height = SIZE
    legend = LEGEND_ROW * -(-entries // 2) + 0.1
    with mpl.rc_context():
        mpl.rcdefaults()  # not the settings of the user, such as `text.usetex`, which needs LaTeX
        mpl.rcParams.update(RC)
        layout = ConstrainedLayoutEngine()
        figure = Figure((width, height + legend), layout=layout)
        axes = figure.add_subplot()
        for arm in drawn:
            for line in plot.lines:
                _draw_line(axes, arm.color, line, arm.compute_band(line.tag, plot.axis), alpha=0.9 / max(6, len(drawn)))
        axes.set_xlabel(plot.axis.label)
        axes.set_ylabel(plot.label)
        axes.grid(alpha=0.3, linewidth=0.6)
        if plot.log_scale:
            set_log_scale(axes, "y")
        handles = [Line2D([], [], color=arm.color, label=arm.arm) for arm in drawn]
        if len(plot.lines) > 1:
            handles += [Line2D([], [], color="gray", ls=line.style, label=line.name) for line in plot.lines]
        figure.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=9, frameon=False)
        layout.execute(figure)
        figure.set_layout_engine("none")  # once, and not again for each format
        figure.dpi = DPI
        # Not by `figure.savefig`, which draws everything twice
        write_atomically(path.with_name(f"{path.name}.png"), FigureCanvasAgg(figure).print_png)
        write_atomically(
            path.with_name(f"{path.name}.svg"),
            lambda file: FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None}),
        )


def _draw_line(axes: Axes, color: str, line: Line, band: np.ndarray | None, alpha: float) -> None:
    if band is None:
        return
    x, low, mean, high = band
    axes.plot(x, mean, line.style, color=color, linewidth=1.5, marker="." if len(x) == 1 else None)
    axes.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)


def set_log_scale(axes: Axes, name: Literal["x", "y"]) -> None:
    """Use a logarithmic x- or y-axis with plain numbers: powers of ten, and others if the axis has few of these.

    An axis of less than a decade, which may have neither 1, 2 nor 5, has the numbers of a linear one.
    """
    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    locator = ticker.LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)) if decades >= 1 else ticker.AutoLocator()
    axis.set_major_locator(locator)
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(ticker.NullFormatter())
