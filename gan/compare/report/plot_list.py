"""The plots of a report."""

from gan.compare.report.comparison import Comparison
from gan.compare.report.plots import Line, Plot
from gan.compare.tags import METRIC, get_layer_tags, get_metric_tags, higher_is_better

MAX_LAYER_PLOTS = 16  # networks with more layers only have a table

DIRECTIONS = {None: "", True: " (higher is better)", False: " (lower is better)"}


def get_metric_plots(comparison: Comparison) -> list[Plot]:
    """Return a plot for each metric that has more than one value in the curve of a cell."""
    curves = [curve for arm in comparison.curves.values() for curve in arm.seeds]
    names = {tag: tag.removeprefix(METRIC) for tag in get_metric_tags(comparison.rows)}
    return [
        Plot(name, name + DIRECTIONS[higher_is_better(name)], comparison.axis, name, [Line(tag)])
        for tag, name in names.items()
        if any(sum(tag in row for row in curve) > 1 for curve in curves)
    ]


def get_lipschitz_plots(comparison: Comparison) -> list[Plot]:
    """Return the plots of the network's certified bound with the steepest slope, and of its input gradient."""
    network = comparison.wording.network
    tag = f"lipschitz/{comparison.description.experiment_type.network}"
    return [
        Plot(
            "lipschitz",
            caption=f"certified upper bound of {network}'s Lipschitz constant, and the steepest slope found",
            axis=comparison.axis,
            label=f"Lipschitz constant of {network}",
            lines=[
                Line(f"{tag}/certified", "certified upper bound", "-"),
                Line(f"{tag}/slope", "steepest slope found", "--"),
            ],
            log_scale=True,
        ),
        Plot(
            "gradient",
            caption=f"largest input gradient of {network} at {comparison.wording.points}",
            axis=comparison.axis,
            label=f"input gradient of {network}",
            lines=[Line(f"{tag}/gradient_max")],
            log_scale=True,
        ),
    ]


def get_layer_plots(comparison: Comparison) -> list[Plot]:
    """Return a plot of the norm of each layer, or none if the network has many layers."""
    layers = get_layer_tags(comparison.rows)
    if len(layers) > MAX_LAYER_PLOTS:
        return []
    return [
        Plot(
            f"layer-{name}",
            caption=f"operator norm of {name}",
            axis=comparison.axis,
            label="operator norm",
            lines=[Line(tag)],
            log_scale=True,
        )
        for tag, name in layers.items()
    ]
