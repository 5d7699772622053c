"""Draw the plots of docs/paper.md from the committed results of the studies: `python docs/paper_plots.py`."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))

from figure_sources import ROOT, Study

from gan.compare.report.families import RATE, choose_best, split_arm
from gan.compare.report.plots import BLACK, COLORS, GRAY, RC, set_log_scale

IMAGES = ROOT / "docs" / "images" / "paper"
STUDIES = ROOT / "docs" / "studies"
SHOWN = ("none", "spectral", "spectral_conv", "oni", "conv_norm", "conv_norm,strided")  # the arms with colors
ARM_COLORS: dict[str, str] = dict(zip(SHOWN, (BLACK, *COLORS), strict=False))
Draw = Callable[[Figure], None]


@cache
def read_study(folder: str) -> Study:
    """Return the results of a study."""
    return Study(STUDIES / folder)


def find_best(study: Study) -> dict[str, str]:
    """Return the arm with the best learning rate of each family, by family."""
    values = {arm: study.values(arm) for arm in study.arms()}
    best = choose_best(values, higher=False)
    return {split_arm(arm, list(values))[0]: arm for arm in best} or {arm: arm for arm in values}


def read_rates(study: Study, family: str) -> dict[float, str]:
    """Return the arms of a family by learning rate, in ascending order."""
    parts = {arm: split_arm(arm, study.arms()) for arm in study.arms()}
    found = {float(group.removeprefix(RATE)): arm for arm, (name, group) in parts.items() if name == family and group}
    return dict(sorted(found.items()))


def draw_distances(figure: Figure) -> None:
    """Each seed of each arm at its best learning rate, with the mean, for each data set."""
    panels = {"stacked digits": "stacked_digits", "CIFAR-10": "cifar10", "STL-10": "stl10"}
    heights = [len(find_best(read_study(folder))) for folder in panels.values()]
    axes_of_panels = figure.subplots(len(panels), height_ratios=heights)
    for axes, (title, folder) in zip(axes_of_panels, panels.items(), strict=True):
        study = read_study(folder)
        arms = find_best(study)
        order = sorted(arms, key=lambda family: study.mean(arms[family]) or 0, reverse=True)
        for y, family in enumerate(order):
            values, color = study.values(arms[family]), ARM_COLORS.get(family, GRAY)
            axes.plot(values, [y] * len(values), "o", color=color, markersize=4, alpha=0.6, markeredgewidth=0)
            axes.plot([study.mean(arms[family])], [y], "|", color=color, markersize=13, markeredgewidth=2)
        axes.set_yticks(range(len(order)), order)
        axes.set_title(title)
        axes.set_xlabel("Fréchet distance")
        set_log_scale(axes, "x")
        axes.grid(axis="x", alpha=0.3, linewidth=0.6)


def draw_rates(figure: Figure) -> None:
    """The distance of one seed at each learning rate, for each data set."""
    panels = {"stacked digits": "stacked_digits-lr", "CIFAR-10": "cifar10"}
    for axes, (title, folder) in zip(figure.subplots(2, sharex=True), panels.items(), strict=True):
        study = read_study(folder)
        for family, color in ARM_COLORS.items():
            rates = read_rates(study, family)
            axes.plot(list(rates), [study.values(arm)[0] for arm in rates.values()], "o-", color=color, label=family)
        axes.set_title(title)
        axes.set_ylabel("Fréchet distance")
        axes.set_xscale("log")
        set_log_scale(axes, "y")
        axes.grid(alpha=0.3, linewidth=0.6)
    axes.set_xlabel("learning rate")
    _add_legend(figure)


def draw_layers(figure: Figure) -> None:
    """The mean norm of each convolution of D during training, each arm at its best learning rate."""
    panels = [
        (f"{title}, layer {i + 1}", folder, f"layers/downs.{i}")
        for title, folder, layers in (("stacked digits", "stacked_digits", 2), ("CIFAR-10", "cifar10", 3))
        for i in range(layers)
    ]
    grid = figure.subplots(3, 2, sharey=True).T.flatten().tolist()
    grid.pop(2).remove()  # stacked digits has two layers
    for axes, (title, folder, column) in zip(grid, panels, strict=True):
        study = read_study(folder)
        best = find_best(study)
        for family, color in ARM_COLORS.items():
            norms = {step: study.mean(best[family], column, step) for step in _read_steps(study, best[family], column)}
            axes.plot(list(norms), list(norms.values()), color=color, label=family)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.set_ylabel("norm")
        set_log_scale(axes, "y")
        axes.tick_params(labelleft=True)  # of the column whose first panel is missing, too
        axes.grid(alpha=0.3, linewidth=0.6)
    _add_legend(figure)


def draw_constants(figure: Figure) -> None:
    """The distance of each arm and rate against the certified bound of D and the steepest slope found."""
    columns = {"D/certified": "certified bound", "D/slope": "steepest slope found"}
    panels = {"stacked digits": "stacked_digits-lr", "CIFAR-10": "cifar10"}
    rows = figure.subplots(2, 2, sharex="col", sharey="row")
    for row, (title, folder) in zip(rows, panels.items(), strict=True):
        study = read_study(folder)
        for axes, (column, label) in zip(row, columns.items(), strict=True):
            for family, color in ARM_COLORS.items():
                arms = read_rates(study, family).values()
                points = [(study.mean(arm, column), study.mean(arm)) for arm in arms]
                axes.plot(*zip(*points, strict=True), "o", color=color, markersize=4, label=family)
            axes.set_xscale("log")
            set_log_scale(axes, "y")
            axes.grid(alpha=0.3, linewidth=0.6)
            if folder == "cifar10":
                axes.set_xlabel(label)
        row[0].set_ylabel(f"Fréchet distance\n{title}")
    _add_legend(figure)


PLOTS: dict[str, tuple[tuple[float, float], Draw]] = {  # size in inches
    "distances": ((5, 7.5), draw_distances),
    "rates": ((5, 6), draw_rates),
    "layers": ((5, 6.5), draw_layers),
    "constants": ((5, 5.5), draw_constants),
}


def draw(folder: Path) -> None:
    """Write each plot as an SVG file, without the settings of the user."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (size, function) in PLOTS.items():
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(RC)
            figure = Figure(size, layout="constrained")
            function(figure)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def _read_steps(study: Study, arm: str, name: str) -> list[float]:
    cell = next(row["cell"] for row in study.rows if row["arm"] == arm)
    return [row["step"] for row in study.read_curve(cell) if any(tag.endswith(name) for tag in row)]


def _add_legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)


if __name__ == "__main__":
    draw(IMAGES)
