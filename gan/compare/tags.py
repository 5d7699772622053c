"""Tags of logged values: which are metrics, and which are Lipschitz estimates."""

from collections.abc import Iterable, Mapping

from gan.compare.experiment_types import CLASSIFIER, GAN
from gan.run import summary
from gan.run.logging import METRIC
from metrics import protocols

ACCURACY, VALIDATION = "accuracy_", "_validation"  # prefix and suffix of the metrics of classifiers
LIPSCHITZ = {
    f"lipschitz/{experiment_type.network}/{name}": label
    for experiment_type in (GAN, CLASSIFIER)
    for name, label in summary.LIPSCHITZ.items()
}
LAYER_NORMS = tuple(f"lipschitz/{experiment_type.network}/layers/" for experiment_type in (GAN, CLASSIFIER))


def get_layer_tags(rows: Iterable[Mapping]) -> dict[str, str]:
    """Return the tags of layer norms in rows that map tags to values, with the names of the layers."""
    tags = dict.fromkeys(tag for row in rows for tag in row if tag.startswith(LAYER_NORMS))
    return {tag: tag.partition("/layers/")[2] for tag in tags}


def get_metric_tags(rows: Iterable[Mapping]) -> list[str]:
    """Return the tags of metrics in rows that map tags to values.

    Metrics on validation images come last, because the checkpoint is selected on these images.
    """
    tags = [tag for tag in dict.fromkeys(tag for row in rows for tag in row) if tag.startswith(METRIC)]
    return sorted(tags, key=lambda tag: tag.endswith(VALIDATION))


def get_primary_metric(rows: Iterable[Mapping]) -> str | None:
    """Return the tag of the first metric, the only one that is tested for significance, or None without metrics."""
    return next(iter(get_metric_tags(rows)), None)


def higher_is_better(tag: str) -> bool | None:
    """Return whether larger values of a metric are better, or None for an unknown metric."""
    if tag.removeprefix(METRIC).startswith(ACCURACY):
        return True
    try:
        return protocols.higher_is_better(tag.removeprefix(METRIC))
    except ValueError:  # a run of another version can have other metrics
        return None
