"""The curves of the report: a line for the mean over seeds, a band for their range."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gan.compare.results import Row
from gan.runtime.files import write_atomically

# Nothing random or dated in the files, so that an unchanged plot is an unchanged file.
RC: dict[Any, Any] = {  # matplotlib has a type of its keys, but only of late
    "svg.hashsalt": "convnorm-gan",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# Okabe & Ito's colors, for all eyes; more arms than those take matplotlib's, dark before light, without its grays.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b")
_TAB20 = [to_hex(color) for color in mpl.color_sequences["tab20"]]
MANY_COLORS = [color for start in (0, 1) for i, color in enumerate(_TAB20[start::2]) if i != 7]
BLACK, GRAY = "#000000", "#8a8a8a"
SIZE = (4.8, 3.2)  # inches: on a phone the letters shrink to three quarters
LEGEND_ROW = 0.2  # inches
DPI = 150
FORMATS: dict[str, dict[str, Any]] = {"png": {"dpi": DPI}, "svg": {"metadata": {"Date": None}}}

Curves = Mapping[str, Sequence[Sequence[Row]]]  # by arm: a curve (rows of numbers by tag) for each seed


@dataclass(frozen=True)
class Line:
    """A tag to draw, what it is called in the legend (nothing when it is the only one), and its line style."""

    tag: str
    name: str = ""
    style: str = "-"


def choose_colors(kinds: Mapping[str, str], baseline: str) -> dict[str, str]:
    """Return a color for each arm: one for all of a kind (`kinds[arm]`), black for the baseline, gray for its kind."""
    own = kinds.get(baseline)
    others = list(dict.fromkeys(kind for kind in kinds.values() if kind != own))
    palette = COLORS if len(others) <= len(COLORS) else MANY_COLORS
    colors = {kind: palette[i % len(palette)] for i, kind in enumerate(others)}
    return {arm: colors.get(kind, GRAY) for arm, kind in kinds.items()} | {baseline: BLACK}


def draw(
    path: Path, curves: Curves, lines: Sequence[Line], colors: Mapping[str, str], label: str, log: bool, images: str
) -> bool:
    """Write path.png and path.svg of tags against the images seen so far, which the axis calls `images`; False when
    there is nothing to draw.
    """
    drawn = [arm for arm, seeds in curves.items() if any(_band(seeds, line.tag) is not None for line in lines)]
    if not drawn:
        return False
    entries = len(drawn) + (len(lines) if len(lines) > 1 else 0)
    width, height = SIZE
    legend = LEGEND_ROW * -(-entries // 2) + 0.1
    with mpl.rc_context(RC):
        figure = Figure((width, height + legend), layout="constrained")
        axes = figure.add_subplot()
        for arm in drawn:
            for line in lines:
                _draw_line(axes, _band(curves[arm], line.tag), colors[arm], line.style, 0.9 / max(6, len(drawn)))
        axes.set_xlabel(f"{images} (thousands)")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3, linewidth=0.6)
        if log:
            axes.set_yscale("log")
        handles = [Line2D([], [], color=colors[arm], label=arm) for arm in drawn]
        if len(lines) > 1:
            handles += [Line2D([], [], color="gray", ls=line.style, label=line.name) for line in lines]
        figure.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=9, frameon=False)
        for kind, options in FORMATS.items():
            write_atomically(
                path.with_name(f"{path.name}.{kind}"),
                lambda file, kind=kind, options=options: figure.savefig(file, format=kind, **options),
            )
    return True


def _draw_line(axes: Axes, band: np.ndarray | None, color: str, style: str, alpha: float) -> None:
    if band is None:
        return
    x, low, mean, high = band
    axes.plot(x, mean, style, color=color, linewidth=1.5, marker="." if len(x) == 1 else None)
    axes.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)


def _band(seeds: Sequence[Sequence[Row]], tag: str) -> np.ndarray | None:
    """Return thousands of images, and lowest, mean and highest value over seeds (4, points); None of no values."""
    points: dict[float, list[float]] = {}
    for rows in seeds:
        for row in rows:
            if isinstance(row.get(tag), float):
                points.setdefault(row["images"] / 1000, []).append(row[tag])
    if not points:
        return None
    return np.array([(x, min(seen), np.mean(seen), max(seen)) for x, seen in sorted(points.items())]).T
