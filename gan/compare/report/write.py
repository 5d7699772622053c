"""Write the report of a comparison: report.md, report.html and, if requested, tables.tex.

The report only needs the files that git tracks: grid.json, results.csv, curves/ and samples/.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from gan.compare.csv_files import read_results
from gan.compare.description import Description
from gan.compare.folder import GridFolder
from gan.compare.report import equal_time, plot_list, plots, significance, statistics, tables
from gan.compare.report.comparison import MINUTES, Comparison
from gan.compare.report.document import (
    Block,
    Code,
    Contents,
    Gallery,
    Heading,
    Paragraph,
    Picture,
    Table,
    render_html,
    render_latex,
    render_markdown,
)
from gan.compare.report.families import sort_arms
from gan.compare.report.plots import Plot
from gan.compare.status import FINISHED
from gan.compare.tags import get_primary_metric
from gan.options.nodes import Dumper
from gan.runtime.files import write_text


def write_report(folder: GridFolder, description: Description, latex: bool) -> list[Path]:
    """Write the report of a folder from the saved results, and return the paths of its files."""
    rows = list(read_results(folder.results_file).values())
    arms = sort_arms(list(dict.fromkeys(row["arm"] for row in rows)))
    comparison = Comparison(folder, description, sorted(rows, key=lambda row: arms.index(row["arm"])))
    blocks = build_blocks(comparison)
    files = {
        folder.root / "report.md": render_markdown(blocks, folder.root),
        folder.root / "report.html": render_html(blocks, comparison.title),
    }
    if latex:
        files[folder.root / "tables.tex"] = render_latex([block for block in blocks if isinstance(block, Table)])
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def build_blocks(comparison: Comparison) -> list[Block]:
    """Return the contents of the report, and draw its plots."""
    return [
        Heading(comparison.title, 1),
        Paragraph(_get_summary(comparison)),
        Contents(),
        *_build_metric_section(comparison),
        *_build_curve_sections(comparison),
        *_build_sample_section(comparison),
        Heading("Cost"),
        tables.build_cost_table(comparison.rows, comparison.wording),
        *_build_problem_section(comparison),
        *_build_reproduction_section(comparison),
    ]


def _get_summary(comparison: Comparison) -> str:
    description, rows, wording = comparison.description, comparison.rows, comparison.wording
    finished = sum(row["status"] == FINISHED for row in rows)
    seeds = sorted({cell["seed"] for cell in description.cells.values()})
    train = description.base_config.train
    return (
        f"{len(description.arms)} arms, seeds {', '.join(map(str, seeds))}: {finished} of {len(rows)} cells finished. "
        f"The base config trains for {train.steps} {wording.step}s "
        f"({train.steps * train.images_per_step} {wording.images}). "
        f"Baseline: {description.baseline}. Values are mean ± sample standard deviation over the n finished seeds of "
        f"an arm. In the first metric, an arm is marked as the best if all arms have at least {statistics.MIN_SEEDS} "
        f"seeds and it is better than each other one with p < {statistics.ALPHA}."
    )


def _build_metric_section(comparison: Comparison) -> list[Block]:
    rows, description = comparison.rows, comparison.description
    primary = get_primary_metric(rows)
    if primary is None:
        return []
    best = [row for row in rows if row["arm"] in comparison.best] if plots.BEST in comparison.groups else []
    return [
        Heading("Metrics"),
        *([Paragraph(FAMILIES), tables.build_metric_table(best, comparison.wording)] if best else []),
        tables.build_metric_table(rows, comparison.wording),
        Heading("Differences", 3),
        *significance.build_test_blocks(rows, primary, description.baseline),
        *_build_equal_time_section(comparison, primary),
    ]


FAMILIES = (
    "First, of the arms whose names differ in the learning rate (lr) alone, the one with the most seeds, and of "
    f"several such the one with the best mean in the first metric. The plots with the name {plots.BEST} show them."
)


def _build_equal_time_section(comparison: Comparison, tag: str) -> list[Block]:
    rows = comparison.rows
    if (seconds := equal_time.find_equal_time(rows)) is None:
        return []
    at_time = equal_time.read_at_time(rows, comparison.points, tag, seconds)
    over_time = [
        replace(plot, name=f"{plot.name}-time", caption=f"{plot.caption} over time", axis=MINUTES)
        for plot in plot_list.get_metric_plots(comparison)
        if plot.lines[0].tag == tag
    ]
    (group, arms), *_ = comparison.groups.items()
    return [
        Heading("After equal training time", 3),
        tables.build_equal_time_table(at_time, tag, seconds),
        *_draw_gallery(comparison, over_time, {group: arms}),
    ]


def _build_curve_sections(comparison: Comparison) -> list[Block]:
    rows, wording = comparison.rows, comparison.wording
    return [
        Heading("Over training"),
        Paragraph("Lines are means over seeds, bands reach from the lowest to the highest seed."),
        *_draw_gallery(comparison, plot_list.get_metric_plots(comparison)),
        Heading(f"Lipschitz constant of {wording.network}"),
        Paragraph(BOUNDS),
        tables.build_lipschitz_table(rows, wording),
        *_draw_gallery(comparison, plot_list.get_lipschitz_plots(comparison)),
        Heading(f"Layers of {wording.network}"),
        tables.build_layer_table(rows, wording),
        *_draw_gallery(comparison, plot_list.get_layer_plots(comparison)),
    ]


BOUNDS = (
    "The Lipschitz constant itself lies between the certified bound, which no input exceeds, and the steepest slope "
    "that gradient ascent has found. Where there is no bound (layers that have none) none is shown."
)


def _draw_gallery(
    comparison: Comparison, gallery: Sequence[Plot], groups: dict[str, list[str]] | None = None
) -> list[Block]:
    """Draw the plots, one for each of the groups, by default all groups of arms. Plots without data are skipped."""
    pictures = []
    for plot in gallery:
        for group, arms in (groups or comparison.groups).items():
            path = comparison.folder.plot_folder / "-".join(filter(None, [plot.name, group]))
            if plots.draw_plot(path, plot, [comparison.curves[arm] for arm in arms]):
                caption = ", ".join(filter(None, [plot.caption, group]))
                pictures.append(Picture(path.with_name(f"{path.name}.png"), caption))
    return [Gallery(pictures)] if pictures else []


def _build_sample_section(comparison: Comparison) -> list[Block]:
    """Show the samples of the seed for which most arms have samples."""
    folder = comparison.folder
    rows = [row for row in comparison.rows if folder.sample_file(row["cell"]).exists()]
    if not rows:
        return []
    seeds = [row["seed"] for row in rows]
    seed = max(dict.fromkeys(seeds), key=seeds.count)
    pictures = [Picture(folder.real_file, "real images")] if folder.real_file.exists() else []
    for row in rows:
        if row["seed"] == seed:
            caption = row["arm"] if row["status"] == FINISHED else f"{row['arm']} ({row['status']})"
            pictures.append(Picture(folder.sample_file(row["cell"]), caption))
    return [
        Heading("Samples"),
        Paragraph(f"From the same latents, of the averaged generator at the end of seed {seed:.0f}, not selected."),
        Gallery(pictures),
    ]


def _build_problem_section(comparison: Comparison) -> list[Block]:
    rows = comparison.rows
    if all(row["status"] == FINISHED for row in rows):
        return []
    problems = tables.build_problem_table(rows)
    blocks: list[Block] = [Heading("Cells that did not finish"), tables.build_status_table(rows)]
    return [*blocks, problems] if problems.rows else blocks


def _build_reproduction_section(comparison: Comparison) -> list[Block]:
    hardware, precisions = (
        "; ".join(dict.fromkeys(row[column] for row in comparison.rows if column in row))
        for column in ("hardware", "precision")
    )
    blocks: list[Block] = [Heading("How to do it again")]
    for run in comparison.description.runs:
        packages = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        blocks += [Code(run["command"]), Paragraph(f"Revision {run['revision']}; {packages}; on {run['hardware']}.")]
    base = yaml.dump(comparison.description.base, Dumper=Dumper, sort_keys=False, default_flow_style=None)
    return [
        *blocks,
        Paragraph(
            f"The cells ran on: {hardware or 'hardware not recorded'}; number format: {precisions or 'not recorded'}."
        ),
        Code(base.rstrip(), title="The base config, resolved"),
    ]
