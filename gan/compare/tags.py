"""What the tags of a run's numbers say to a comparison."""

from collections.abc import Iterable, Mapping

from gan.compare.experiment_types import CLASSIFIER, GAN
from metrics import catalog

METRIC = "metrics/"
ACCURACY, VALIDATION = "accuracy_", "_validation"  # how the tags of classifiers begin and end
LIPSCHITZ = {
    f"lipschitz/{kind.network}/{name}": words
    for kind in (GAN, CLASSIFIER)
    for name, words in (
        ("certified", "certified bound"),
        ("product", "product of layer norms"),
        ("slope", "steepest slope found"),
        ("gradient_max", "largest input gradient"),
    )
}
LAYER_NORMS = tuple(f"lipschitz/{kind.network}/layers/" for kind in (GAN, CLASSIFIER))


def layer_tags(rows: Iterable[Mapping]) -> dict[str, str]:
    """Return the tags of the layers' norms in rows of numbers by tag, with the layers' names."""
    tags = dict.fromkeys(tag for row in rows for tag in row if tag.startswith(LAYER_NORMS))
    return {tag: tag.partition("/layers/")[2] for tag in tags}


def metric_tags(rows: Iterable[Mapping]) -> list[str]:
    """Return the tags of the metrics in rows of numbers by tag, in their order, but those on validation images last:
    what a checkpoint is chosen by proves nothing.
    """
    tags = [tag for tag in dict.fromkeys(tag for row in rows for tag in row) if tag.startswith(METRIC)]
    return sorted(tags, key=lambda tag: tag.endswith(VALIDATION))


def primary_metric(rows: Iterable[Mapping]) -> str | None:
    """Return the tag of the first metric, which alone is tested; None when there is none."""
    return next(iter(metric_tags(rows)), None)


def higher_is_better(tag: str) -> bool | None:
    """Tell whether a metric is better when it is larger; None when that is not known."""
    if tag.removeprefix(METRIC).startswith(ACCURACY):
        return True
    try:
        return catalog.higher_is_better(tag.removeprefix(METRIC))
    except ValueError:  # of a run by a version that knew more metrics
        return None
