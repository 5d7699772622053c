"""The report of a comparison: report.md, report.html and, when asked for, tables.tex.

It is made from the files that are small enough for git alone: grid.json, results.csv, curves/ and samples/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from gan.compare.description import Description, get_base_config
from gan.compare.experiment_types import Kind
from gan.compare.folder import GridFolder, write_text
from gan.compare.outcome import FINISHED
from gan.compare.report import plots, statistics, tables
from gan.compare.report.document import (
    Block,
    Code,
    Gallery,
    Heading,
    Paragraph,
    Picture,
    Table,
    to_html,
    to_latex,
    to_markdown,
)
from gan.compare.report.plots import Line
from gan.compare.results import Row, read_table
from gan.compare.tags import METRIC, higher_is_better, layer_tags, metric_tags, primary_metric
from gan.options.nodes import Dumper

MAX_ARMS = 8  # on one plot; more are drawn in groups
MAX_LAYERS = 16  # with a plot each; of more the table alone


def write_report(folder: GridFolder, description: Description, latex: bool) -> list[Path]:
    """Write the report of a folder in which `gan.compare.results.collect` has kept the numbers; return its files."""
    rows = read_table(folder.results)
    blocks = _blocks(folder, description, rows)
    written = {
        folder.root / "report.md": to_markdown(blocks, folder.root),
        folder.root / "report.html": to_html(blocks, _title(description)),
    }
    if latex:
        written[folder.root / "tables.tex"] = to_latex([block for block in blocks if isinstance(block, Table)])
    for path, text in written.items():
        write_text(path, text)
    return list(written)


def _blocks(folder: GridFolder, description: Description, rows: Sequence[Row]) -> list[Block]:
    primary = primary_metric(rows)
    return [
        Heading(_title(description), 1),
        Paragraph(_summary(description, rows)),
        *_quality(description, rows, primary),
        *_curves(folder, description, rows),
        *_samples(folder, rows),
        Heading("Cost"),
        tables.costs(rows, description.kind),
        *_endings(rows),
        *_reproduction(description, rows),
    ]


def _title(description: Description) -> str:
    path = Path(description.config)
    return f"Comparison on {path.parent.name}/{path.stem}".replace("on /", "on ")


def _summary(description: Description, rows: Sequence[Row]) -> str:
    finished = sum(row["status"] == FINISHED for row in rows)
    seeds = sorted({cell["seed"] for cell in description.cells.values()})
    kind, train = description.kind, get_base_config(description).train
    return (
        f"{len(description.arms)} arms, seeds {', '.join(map(str, seeds))}: {finished} of {len(rows)} cells finished. "
        f"The base config trains for {train.steps} {kind.step}s ({train.steps * train.images_per_step} {kind.images}). "
        f"Baseline: {description.baseline}. Values are mean ± sample standard deviation over the n finished seeds of "
        "an arm; the best mean of a column is marked, which does not say that it differs from the others by more than "
        "chance."
    )


def _quality(description: Description, rows: Sequence[Row], primary: str | None) -> list[Block]:
    if primary is None:
        return []
    table = tables.significance(rows, primary, description.baseline)
    tested = [row[0].text for row in table.rows]
    untested = [arm for arm in description.arms if arm not in (*tested, description.baseline)]
    return [
        Heading("Metrics"),
        tables.quality(rows, description.kind),
        Heading("Differences", 3),
        *([Paragraph(TEST), table] if tested else []),
        *([Paragraph(_caution(rows, primary, description.baseline, untested))] if untested else []),
    ]


TEST = (
    "Exact two-sided two-sample permutation test of the difference of means, each arm against the baseline, for the "
    "first metric of the config alone (the one chosen before the runs); Holm's correction for the number of arms. Arms "
    "with fewer than 5 seeds, or with a seed that diverged or failed, are not tested."
)


def _caution(rows: Sequence[Row], tag: str, baseline: str, untested: Sequence[str]) -> str:
    counts = {arm: len(seen) for arm, seen in tables.get_values(rows, tag).items()}
    least = min(counts[arm] for arm in (*untested, baseline))
    reach = f" ({least} seeds a side cannot reach p < {statistics.smallest_p(least):.2g})" if least else ""
    several = f"{len(untested)} of {len(counts) - 1} arms"
    return (
        f"No significance is claimed for {', '.join(untested) if len(untested) <= MAX_ARMS else several}: a test takes "
        f"{statistics.MIN_SEEDS} finished seeds or more of the arm and of the baseline{reach}. Of these the tables "
        "show the spread alone; a difference within it may be chance."
    )


def _curves(folder: GridFolder, description: Description, rows: Sequence[Row]) -> list[Block]:
    """Return the sections of plots, drawing them on the way; of many arms, a plot for each group of them."""
    curves: dict[str, list[list[Row]]] = {}
    for row in rows:
        curves.setdefault(row["arm"], []).append(read_table(folder.curve(row["cell"])))
    all_curves, of_layers = [curve for seeds in curves.values() for curve in seeds], layer_tags(rows)
    panels = _panels(description, list(curves))
    kind, images = description.kind, description.kind.images
    kinds = {arm: arm.removesuffix(f",{_group(arm, list(curves))}") for arm in curves}
    colors = plots.choose_colors(kinds, description.baseline)

    def gallery(figures: Sequence[Figure]) -> list[Block]:
        pictures = []
        for figure in figures:
            for panel, arms in panels.items():
                path = folder.plots / "-".join(filter(None, [figure.name, panel]))
                if plots.draw(
                    path, {arm: curves[arm] for arm in arms}, figure.lines, colors, figure.label, figure.log, images
                ):
                    caption = ", ".join(filter(None, [figure.caption, panel]))
                    pictures.append(Picture(path.with_name(path.name + ".png"), caption))
        return [Gallery(pictures)] if pictures else []

    tags = [tag for tag in metric_tags(rows) if any(sum(tag in row for row in curve) > 1 for curve in all_curves)]
    names = [tag.removeprefix(METRIC) for tag in tags]
    metrics = [Figure(name, name, name + ARROWS[higher_is_better(name)], [Line(METRIC + name)]) for name in names]
    layers = [
        Figure(f"layer-{name}", "operator norm", f"operator norm of {name}", [Line(tag)], log=True)
        for tag, name in of_layers.items()
        if len(of_layers) <= MAX_LAYERS
    ]
    return [
        Heading("Over training"),
        Paragraph("Lines are means over seeds, bands reach from the lowest to the highest seed."),
        *gallery(metrics),
        Heading(f"Lipschitz constant of {kind.subject}"),
        Paragraph(BOUNDS),
        tables.lipschitz(rows, kind),
        *gallery(_lipschitz_figures(kind)),
        Heading(f"Layers of {kind.subject}"),
        tables.layers(rows, kind),
        *gallery(layers),
    ]


@dataclass(frozen=True)
class Figure:
    """A plot: name of its file, label of its axis, caption, what it draws, and on what axis."""

    name: str
    label: str
    caption: str
    lines: Sequence[Line]
    log: bool = False


ARROWS = {None: "", True: " (higher is better)", False: " (lower is better)"}
BOUNDS = (
    "The Lipschitz constant itself lies between the certified bound, which no input exceeds, and the steepest slope "
    "that gradient ascent has found. Where there is no bound (layers that have none) none is shown."
)


def _lipschitz_figures(kind: Kind) -> list[Figure]:
    tag, subject = f"lipschitz/{kind.network}", kind.subject
    bracket = Figure(
        "lipschitz",
        f"Lipschitz constant of {subject}",
        f"certified upper bound of {subject}'s Lipschitz constant, and the steepest slope found",
        [
            Line(f"{tag}/certified", "certified upper bound", "-"),
            Line(f"{tag}/slope", "steepest slope found", "--"),
        ],
        log=True,
    )
    gradient = Figure(
        "gradient",
        f"input gradient of {subject}",
        f"largest input gradient of {subject} at {kind.points}",
        [Line(f"{tag}/gradient_max")],
        log=True,
    )
    return [bracket, gradient]


def _panels(description: Description, arms: Sequence[str]) -> dict[str, list[str]]:
    """Return the arms of each plot, the baseline on all: one plot when they are few, else one for each group."""
    if len(arms) <= MAX_ARMS:
        return {"": list(arms)}
    panels: dict[str, list[str]] = {}
    for arm in arms:
        panels.setdefault(_group(arm, arms), []).append(arm)
    return {name: list(dict.fromkeys([description.baseline, *members])) for name, members in panels.items()}


def _group(arm: str, arms: Sequence[str]) -> str:
    """Return the end of an arm's name after its last comma, as `lr=1e-3` of `spectral,lr=1e-3`, if others share it."""
    end = arm.rpartition(",")[2]
    return end if sum(other.endswith(f",{end}") for other in arms) > 1 else ""


def _samples(folder: GridFolder, rows: Sequence[Row]) -> list[Block]:
    """Return the pictures of the seed that most arms have one of."""
    there = [row for row in rows if folder.sample(row["cell"]).exists()]
    if not there:
        return []
    seeds = [row["seed"] for row in there]
    seed = max(dict.fromkeys(seeds), key=seeds.count)
    pictures = [
        Picture(folder.sample(row["cell"]), row["arm"] + ("" if row["status"] == FINISHED else f" ({row['status']})"))
        for row in there
        if row["seed"] == seed
    ]
    return [
        Heading("Samples"),
        Paragraph(f"From the same latents, of the averaged generator at the end of seed {seed:.0f}, not selected."),
        Gallery(pictures),
    ]


def _endings(rows: Sequence[Row]) -> list[Block]:
    if all(row["status"] == FINISHED for row in rows):
        return []
    troubles = tables.troubles(rows)
    return [Heading("Cells that did not finish"), tables.endings(rows), *([troubles] if troubles.rows else [])]


def _reproduction(description: Description, rows: Sequence[Row]) -> list[Block]:
    hardware = dict.fromkeys(row["hardware"] for row in rows if "hardware" in row)
    blocks: list[Block] = [Heading("How to do it again")]
    for run in description.runs:
        packages = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        blocks += [Code(run["command"]), Paragraph(f"Revision {run['revision']}; {packages}; on {run['hardware']}.")]
    return [
        *blocks,
        Paragraph(f"The cells ran on: {'; '.join(hardware) or 'hardware not recorded'}. The base config, resolved:"),
        Code(yaml.dump(description.base, Dumper=Dumper, sort_keys=False, default_flow_style=None).rstrip()),
    ]
