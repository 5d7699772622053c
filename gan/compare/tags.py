"""What the tags of a run's numbers say to a comparison."""

from collections.abc import Iterable, Mapping

from metrics import catalog

METRIC = "metrics/"
LAYER_NORM = "lipschitz/D/layers/"
LIPSCHITZ = {
    "lipschitz/D/certified": "certified bound",
    "lipschitz/D/product": "product of layer norms",
    "lipschitz/D/slope": "steepest slope found",
    "lipschitz/D/gradient_max": "largest input gradient",
}


def metric_tags(rows: Iterable[Mapping]) -> list[str]:
    """Return the tags of the metrics in rows of numbers by tag, in their order."""
    return [tag for tag in dict.fromkeys(tag for row in rows for tag in row) if tag.startswith(METRIC)]


def primary_metric(rows: Iterable[Mapping]) -> str | None:
    """Return the tag of the metric that chooses a run's best checkpoint: the first; None when there is none."""
    return next(iter(metric_tags(rows)), None)


def higher_is_better(tag: str) -> bool | None:
    """Tell whether a metric is better when it is larger; None when that is not known."""
    try:
        return catalog.higher_is_better(tag.removeprefix(METRIC))
    except ValueError:  # of a run by a version that knew more metrics
        return None
