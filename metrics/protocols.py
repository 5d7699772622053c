"""Metric protocols such as `fid50k_train`.

A metric protocol is a metric together with everything that its value depends on: the feature space, the number of
generated images and the real images. Only values of the same protocol are comparable. FID, for example, is biased by
the number of images, and on CIFAR-10 an FID of 14 to the training set corresponds to an FID of 21 to the test set.
The name of a protocol contains all of this:

    fid50k_train        FID between 50,000 generated images and the whole training set
    fid5k_test10k       FID between 5,000 generated images and 10,000 held-out images
    is50k               Inception score of 50,000 generated images
    fd_digits10k_test   Fréchet distance in the feature space `digits`
    kid_dinov2-vit-b-14-10k_train   KID in the feature space `dinov2-vit-b-14`, with a dash before the count
    fid50k_file         FID between 50,000 generated images and the statistics in a file (.npz of pytorch-fid)
    intrafd50k_train    mean of the FIDs of each class, for a class-conditional generator (class-wise or intra FID)
    fdinf50k_train      FID extrapolated to infinitely many generated images (FID-infinity)
    authpct10k_train    percentage of generated images that are no copies of training images

The general form is `METRIC[_FEATURES][-]COUNT[_REFERENCE[COUNT]]`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from metrics.catalog import METRICS, Metric

MAX_IMAGES = 10_000_000  # of a protocol; more do not fit into memory, and would take days
MAX_METRICS = 100  # of a run
MAX_NAME = 1000  # characters


@dataclass(frozen=True)
class MetricProtocol:
    """A metric with everything that its value depends on."""

    metric: str
    features: str
    count: int
    """Number of generated images"""
    reference: Literal["train", "test", "file"] | None
    """Split of the real images, or a file of their statistics; None if the metric does not compare with real images"""
    reference_count: int | None
    """Number of real images; None for the whole split"""

    def __str__(self) -> str:
        features = "" if self.features == self.spec.default_features else f"_{self.features}"
        dash = "-" if features[-1:].isdigit() else ""
        reference = "" if self.reference is None else f"_{self.reference}{_format_count(self.reference_count)}"
        return f"{self.metric}{features}{dash}{_format_count(self.count)}{reference}"

    @property
    def spec(self) -> Metric:
        """The metric itself."""
        return METRICS[self.metric]

    def with_count(self, count: int) -> "MetricProtocol":
        """Return the same protocol with another number of generated images."""
        return replace(self, count=count)


_PROTOCOL_PATTERN = re.compile(
    r"(?P<metric>[a-z]+)(_(?P<features>[a-z][\w.-]*?))?-?(?P<count>\d+k?)(_(?P<reference>train|test|file)(?P<real>\d+k?)?)?"
)


def parse_protocol(name: str) -> MetricProtocol:
    """Return the protocol with this name. Raises ValueError if the name is invalid."""
    if len(name) > MAX_NAME:
        raise ValueError(f"'{name[:20]}...' is longer than {MAX_NAME} characters")
    match = _PROTOCOL_PATTERN.fullmatch(name)
    if match is None:
        raise ValueError(
            f"'{name}' is not a metric protocol: write METRIC[_FEATURES]COUNT[_train|_test],"
            " for example fid50k_train, is50k or fd_digits10k_test"
        )
    if match["metric"] not in METRICS:
        raise ValueError(f"'{name}': unknown metric '{match['metric']}' (choices: {', '.join(sorted(METRICS))})")
    metric = METRICS[match["metric"]]
    features = match["features"] or metric.default_features
    if features is None:
        raise ValueError(f"'{name}' does not name a feature space: write, for example, fd_digits10k_test")
    if match["metric"] == "fid" and features != "inception":
        raise ValueError(f"'{name}': FID is defined for Inception features only; write fd_{features} instead")
    if metric.required_reference == "none" and match["reference"]:
        raise ValueError(f"'{name}': {match['metric']} has no real images; remove _{match['reference']}")
    if metric.required_reference != "none" and not match["reference"]:
        raise ValueError(f"'{name}' does not name the real images: write {name}_train or {name}_test")
    if match["reference"] == "file" and (metric.required_reference != "statistics" or match["real"]):
        raise ValueError(
            f"'{name}': a file of statistics is only for Fréchet distances without a number of real images,"
            " for example fid50k_file"
        )
    count, real = _parse_count(match["count"]), None if match["real"] is None else _parse_count(match["real"])
    counts = [count, *([] if real is None else [real])]
    if min(counts) < metric.min_images:
        raise ValueError(f"'{name}': {match['metric']} needs at least {metric.min_images} images")
    if max(counts) > MAX_IMAGES:
        raise ValueError(f"'{name}': a metric has at most {MAX_IMAGES:,} images")
    reference = cast(Literal["train", "test", "file"] | None, match["reference"])  # guaranteed by the pattern
    return MetricProtocol(match["metric"], features, count, reference, real)


def parse_protocols(names: Sequence[str]) -> list[MetricProtocol]:
    """Return the protocols with these names. Raises ValueError for invalid names and for too many."""
    check_number(names)
    return [parse_protocol(name) for name in names]


def check_number(names: Sequence[str]) -> None:
    """Raise ValueError for too many names of metrics."""
    if len(names) > MAX_METRICS:
        raise ValueError(f"at most {MAX_METRICS} metrics are possible, not {len(names):,}")


def describe_metric(name: str) -> str:
    """Return what the metric of a protocol is, in words. The name may lack the real images, as in `fid150`."""
    metric = re.split("[^a-z]", name)[0]
    description = METRICS[metric].description or metric
    return description[0].upper() + description[1:]


def higher_is_better(name: str) -> bool:
    """Return True if larger values of the protocol `name` are better. Raises ValueError if the name is invalid."""
    return parse_protocol(name).spec.higher_is_better


def _parse_count(text: str) -> int:
    return int(text[:-1]) * 1000 if text.endswith("k") else int(text)


def _format_count(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count // 1000}k" if count % 1000 == 0 else str(count)
