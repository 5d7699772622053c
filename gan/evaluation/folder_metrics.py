"""Metrics of folders or archives of images without a run: compare two of them, or save the statistics of one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from gan.evaluation.extractors import EXTRACTORS, MetricsConfig, build_extractor, get_feature_space
from gan.evaluation.features import get_origin
from gan.evaluation.image_folders import Decoding, ImageFolder, get_mismatch
from gan.evaluation.reference import Reference
from gan.runtime.distributed import broadcast_object, rank
from gan.runtime.errors import UserError
from gan.runtime.files import write_atomically
from metrics.catalog import METRICS, compute_metrics
from metrics.frechet import FeatureStatistics
from metrics.protocols import MetricProtocol, check_number, parse_protocol


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """The config keys that apply to image folders."""

    metrics: MetricsConfig = field(default_factory=MetricsConfig)


class Comparison(NamedTuple):
    """The metrics of two folders, the images that were skipped, each with a reason, and the classifier of metrics."""

    scores: dict[str, float]
    skipped: list[str]
    classifier: str | None


def compare_folders(
    fake: Path,
    real: Path,
    names: Sequence[str],
    decoding: Decoding,
    options: MetricsConfig,
    device: torch.device,
    report: Callable[[Mapping[str, float]], None],
) -> Comparison:
    """Return metrics such as `fid`, `kid` or `fd_digits` of the images in `fake` compared with those in `real`.

    The names of the result contain the number of generated images, as in `fid50k`. All real images are used. Rank 0
    calls `report` with the metrics of each feature space as soon as they are known. Raises UserError if the two folders
    have images of different sizes.
    """
    fakes, reals = ImageFolder(fake, decoding), ImageFolder(real, decoding)
    protocols = _parse_metrics(names, len(fakes))
    if fakes.size != reals.size:
        raise get_mismatch(reals.first, reals.size, fakes.first, fakes.size)
    spaces = dict.fromkeys(protocol.features for protocol in protocols)
    # All of them first: one whose weights are missing must not end a comparison after hours in another space.
    extractors = {space: build_extractor(space, options, fakes.get_shape(space), device) for space in spaces}
    scores: dict[MetricProtocol, float] = {}
    count = len(fakes)
    skipped: list[str] = []
    for space, extractor in extractors.items():
        keep_gray = EXTRACTORS.get(space).keeps_gray
        generated, given = (folder.extract_features(extractor, keep_gray, device) for folder in (fakes, reals))
        skipped = generated.skipped + given.skipped
        count = len(generated.features.features)
        of_space = {protocol.metric: protocol for protocol in protocols if protocol.features == space}
        if rank() == 0:
            try:
                values = compute_metrics(of_space, generated.features, Reference(given.features.features))
            except ValueError as error:  # such as too few images
                failed = (_get_name(protocol, count) for protocol in of_space.values())
                raise UserError(f"{', '.join(failed)}: {error}") from None
            scores |= {of_space[metric]: value for metric, value in values.items()}
            report({_get_name(of_space[metric], count): value for metric, value in values.items()})
    for folder in (fakes, reals):
        folder.remove_parts()
    named = {_get_name(protocol, count): scores[protocol] for protocol in protocols if protocol in scores}
    classifier = options.classifier if any(protocol.features == "classifier" for protocol in protocols) else None
    return Comparison(broadcast_object(named), skipped, classifier)


def _get_name(protocol: MetricProtocol, count: int) -> str:
    return str(protocol.with_count(count)).removesuffix("_train")


def save_statistics(
    folder: Path, path: Path, decoding: Decoding, options: MetricsConfig, device: torch.device
) -> Sequence[str]:
    """Write the statistics of the Inception features of a folder's images in the format of pytorch-fid.

    The file also records what they depend on. Returns the images that were skipped, each with a reason.
    """
    if path.exists():
        raise UserError(f"--save-statistics: {path} already exists; choose another name")
    images = ImageFolder(folder, decoding)
    extractor = build_extractor("inception", options, images.get_shape("inception"), device)
    features, data, skipped = images.extract_features(extractor, False, device)
    if rank() == 0:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            statistics = FeatureStatistics.from_features(features.features)
            write_atomically(path, replace(statistics, origin=get_origin(extractor, images.size), data=data).save)
        except (OSError, ValueError) as error:
            raise UserError(f"--save-statistics: {error}") from None
    images.remove_parts()
    return skipped


def _parse_metrics(names: Sequence[str], count: int) -> list[MetricProtocol]:
    """Return the protocols of metrics that are named without the number of images and without a reference."""
    try:
        check_number(names)
        protocols = [_parse_metric(name, count) for name in names]
    except ValueError as error:
        raise UserError(f"--metrics: {error}") from None
    for protocol in protocols:
        get_feature_space(protocol)  # raises UserError
    return protocols


def _parse_metric(name: str, count: int) -> MetricProtocol:
    dash = "-" if name[-1:].isdigit() else ""
    metric = METRICS.get(name.partition("_")[0])
    reference = "" if metric is None or metric.required_reference == "none" else "_train"
    return parse_protocol(f"{name}{dash}{count}{reference}")
