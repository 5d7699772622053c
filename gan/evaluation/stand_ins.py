"""The metrics of a run when weights are missing on this machine: some are left out, and others stand in for them.

In place of FID and the other metrics of Inception, the same metrics are computed in the features of a classifier of
such images. They have names of their own, such as `fd_classifier10k_train`: they are no FID.
"""

import dataclasses
from collections.abc import Collection, Sequence

from gan.data import DatasetConfig
from gan.evaluation.extractors import MetricsConfig, get_feature_space, obtain
from gan.evaluation.reference import load_statistics
from gan.runtime.distributed import all_gather_objects, local_rank_zero_first
from gan.runtime.errors import UserError, collect_errors
from metrics.protocols import MetricProtocol, parse_protocol

REPLACED, STAND_IN = "inception", "classifier"  # feature spaces


def get_spaces(metrics: Sequence[str]) -> list[str]:
    """Return the feature spaces of metrics."""
    return list(dict.fromkeys(parse_protocol(name).features for name in metrics))


def find_missing_weights(metrics: Sequence[str], options: MetricsConfig) -> dict[str, str]:
    """Return the feature spaces of metrics whose weights are missing, each with a line that says what to do.

    Missing weights are downloaded first if the options allow it. With several processes, weights are missing if one of
    them lacks them. Raises UserError for unknown names, and for files that the options name and that cannot be used.
    """
    missing: dict[str, str] = {}
    errors: list[str] = []
    with local_rank_zero_first():
        for protocol in map(parse_protocol, metrics):
            errors += collect_errors(lambda protocol=protocol: get_feature_space(protocol))
            if protocol.reference == "file":
                errors += collect_errors(lambda: load_statistics(options.statistics, options.statistics_preprocessing))
        for space in get_spaces(metrics) if not errors else []:
            try:
                if lines := obtain(space, options):
                    missing[space] = "; ".join(lines)
            except UserError as error:
                errors += error.lines
    for missing_on_rank, errors_on_rank in all_gather_objects((missing, errors)):
        missing |= missing_on_rank
        errors += errors_on_rank
    if errors:
        raise UserError(*dict.fromkeys(errors))
    return missing


def replace_metrics(
    metrics: Sequence[str], options: MetricsConfig, data: DatasetConfig, without: Collection[str]
) -> tuple[list[str], MetricsConfig]:
    """Return metrics and options without the feature spaces `without`: metrics of a classifier stand in for Inception.

    The classifier is that of the options, or else the shipped one of such data. Without one, nothing stands in.
    """
    classifier = options.classifier or data.classifier
    names: dict[str, None] = {}
    for name in metrics:
        protocol = parse_protocol(name)
        if protocol.features in without:
            stand_in = get_stand_in(protocol) if classifier is not None else None
            names |= {} if stand_in is None else {stand_in: None}
        else:
            names[name] = None
    uses_classifier = any(name not in metrics for name in names)
    return list(names), dataclasses.replace(options, classifier=classifier) if uses_classifier else options


def get_stand_in(protocol: MetricProtocol) -> str | None:
    """Return the name of the same metric in the features of a classifier, or None if there is none."""
    if protocol.features != REPLACED or protocol.reference == "file":
        return None
    metric = "fd" if protocol.metric == "fid" else protocol.metric
    return str(dataclasses.replace(protocol, metric=metric, features=STAND_IN))


def describe_replacement(
    before: Sequence[str], after: Sequence[str], classifier: str | None, reasons: Collection[str]
) -> str:
    """Return a line on what is missing, and on the metrics that stand in or are left out."""
    gone, new = [name for name in before if name not in after], [name for name in after if name not in before]
    text = f"{'; '.join(reasons)}. "
    if new:
        text += f"Instead of {_join(gone)}, this run has {_join(new)} (no FID; classifier {classifier})"
    else:
        text += f"This run has no {_join(gone)}"
        if classifier is None and any(get_stand_in(parse_protocol(name)) is not None for name in gone):
            text += "; a new run with metrics.classifier=RUN, a run of train_classifier.py, has metrics that stand in"
    return text if after else f"{text}. Without metrics, there is no best.pt"


def _join(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
