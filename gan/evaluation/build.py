"""Builds the evaluator of a run from its options, and checks these options."""

from collections.abc import Sequence

import torch

from gan.data import DATASETS, DatasetConfig, ImageData, Splits
from gan.evaluation.evaluator import Evaluator
from gan.evaluation.extractors import MetricsConfig, build_extractor, get_feature_space
from gan.evaluation.features import extract_image_features, get_origin
from gan.evaluation.reference import load_statistics
from gan.runtime.distributed import local_rank_zero_first
from gan.runtime.errors import UserError
from metrics.checks import check_same_origin
from metrics.extractors.base import FeatureExtractor
from metrics.frechet import FeatureStatistics
from metrics.protocols import MetricProtocol, parse_protocol
from models import ImageShape

MIN_EXPECTED = 20  # with 20 expected images of a class, fewer than 2 are drawn once in 2e7 times


def build_evaluator(
    metrics: Sequence[str], options: MetricsConfig, splits: Splits, device: torch.device
) -> Evaluator | None:
    """Return the evaluator of the metrics, or None without metrics.

    Raises UserError if something that they need is missing, or if the statistics file has other features.
    """
    if not metrics:
        return None
    protocols = [parse_protocol(name) for name in metrics]
    image = get_image_shape(splits.train)
    extractors: dict[str, FeatureExtractor] = {}
    for space in dict.fromkeys(protocol.features for protocol in protocols):
        with local_rank_zero_first():
            extractors[space] = build_extractor(space, options, image, device)
    real: dict[str, ImageData | FeatureStatistics] = {"train": splits.train}
    if splits.held_out is not None:
        real["test"] = splits.held_out
    file_protocols = [protocol for protocol in protocols if protocol.reference == "file"]
    if file_protocols:
        real["file"] = statistics = load_statistics(options.statistics, options.statistics_preprocessing)
        for protocol in file_protocols:
            extractor = extractors[protocol.features]
            dimension = extract_image_features(extractor, splits.train.images[:1], device).features.shape[1]
            if dimension != len(statistics.mean):
                raise UserError(
                    f"metrics.statistics: {options.statistics} has {len(statistics.mean)} features per image,"
                    f" but {protocol} has {dimension}; choose the file of the same feature space"
                )
            try:
                check_same_origin(statistics.origin, get_origin(extractor, splits.train.images.shape[2:]))
            except ValueError as error:
                raise UserError(
                    f"metrics.statistics: {options.statistics}: {error} of {protocol}; choose another file or"
                    " metrics.fid_preprocessing, or set metrics.statistics_preprocessing if the file does not record it"
                ) from None
    return Evaluator(protocols, extractors, real, device)


def get_image_shape(data: ImageData) -> ImageShape:
    """Return the shape of the images of a dataset, and the number of their classes if they have more than one."""
    _, channels, resolution, _ = data.images.shape
    return ImageShape(channels, resolution, data.num_classes if data.num_classes > 1 else None)


def check_metrics(metrics: Sequence[str], data: DatasetConfig, splits: Splits) -> None:
    """Raise UserError if a metric cannot be computed for this dataset."""
    dataset = DATASETS.get_name(type(data))
    for name in metrics:
        protocol = parse_protocol(name)
        space = get_feature_space(protocol)
        if space.digits_only and not data.shows_digits:
            raise UserError(f"eval.metrics: {name} works only for images of digits, not for {dataset}; remove it")
        if protocol.spec.needs_labels and not data.conditional:
            raise UserError(f"eval.metrics: {name} needs a class-conditional generator; set data.conditional=true")
        if protocol.reference in ("train", "test"):
            split = splits.train if protocol.reference == "train" else splits.held_out
            if split is None:
                raise UserError(
                    f"eval.metrics: {name}: {dataset} has no held-out images; choose a metric that ends in _train"
                )
            if len(split) < (protocol.reference_count or protocol.spec.min_images):
                raise UserError(
                    f"eval.metrics: {name}: {dataset} has {len(split)} images in its {protocol.reference} split;"
                    " choose a smaller number of real images, or remove the metric"
                )
            if protocol.spec.needs_labels:
                _check_classes(protocol, splits.train, split)


def _check_classes(protocol: MetricProtocol, train: ImageData, real: ImageData) -> None:
    """Raise UserError if a class has too few images for metrics of single classes."""
    smallest_real = torch.bincount(real.labels, minlength=train.num_classes).min().item()
    shares = torch.bincount(train.labels, minlength=train.num_classes) / len(train)
    expected = protocol.count * min(shares.min().item(), 1 / train.num_classes)
    if protocol.reference_count is not None:
        smallest_real *= min(1, protocol.reference_count / len(real))
        expected = min(expected, smallest_real)
    # The labels of generated images, and a subset of the real ones, are drawn at random.
    if smallest_real < 2 or expected < MIN_EXPECTED:
        raise UserError(
            f"eval.metrics: {protocol}: the smallest class has {smallest_real:g} real images and about {expected:g}"
            f" generated ones; choose numbers with which it has at least 2 and {MIN_EXPECTED}, or remove the metric"
        )
