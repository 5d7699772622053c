"""The metrics by name, and metric protocols such as `fid50k_train`.

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
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, cast

from torch import Tensor

from metrics.authenticity import authentic_percentage
from metrics.classwise import classwise_frechet_distance
from metrics.extractors.base import Features, LabeledFeatures
from metrics.frechet import FeatureStatistics, frechet_distance
from metrics.frechet_infinity import frechet_distance_infinity
from metrics.inception_score import inception_score
from metrics.kid import kid
from metrics.manifold import manifold_metrics
from metrics.modes import captured_modes, confident_fraction, kl_to_uniform

MAX_IMAGES = 10_000_000  # of a protocol; more do not fit into memory, and would take days
MAX_METRICS = 100  # of a run
MAX_NAME = 1000  # characters


class Reference(Protocol):
    """The real images that a metric compares with: their features and the statistics of the features."""

    @property
    def features(self) -> Tensor:
        """Features (M, d)."""
        ...

    @property
    def statistics(self) -> FeatureStatistics:
        """Mean and covariance of the features."""
        ...

    @property
    def neighbor_distances(self) -> Tensor:
        """Squared distances (M, min(5, M - 1)) of the features to their nearest neighbors, sorted."""
        ...

    @property
    def labels(self) -> Tensor:
        """Classes (M,) of the images."""
        ...


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measure of the quality of generated images."""

    compute: Callable[[Features, Any], float]
    """Function of the features of the generated images and of the `Reference` (None if the metric needs none)

    A metric that is a mean over parts of the images returns an `Estimate`, a float with a standard deviation.
    """
    higher_is_better: bool
    required_reference: Literal["none", "statistics", "features", "neighbors", "labels"]
    """What `compute` reads of the `Reference`; "none" if the metric does not compare with real images

    "neighbors" and "labels" include the features. With "labels", `compute` gets `LabeledFeatures`.
    """
    default_features: str | None
    """Feature space of a protocol whose name contains none; None if the name must contain it"""
    needs_logits: bool = False
    """True if `compute` reads the logits, which only a classifier returns"""
    min_images: int = 2
    """Minimum number of generated images and of real images"""
    description: str = ""
    """What it is, in a few words, for TensorBoard"""
    joint: Callable[[Collection[str], Features, Any], dict[str, float]] | None = None
    """Function that computes several metrics by name in less time than `compute` one after the other, or None"""

    @property
    def needs_labels(self) -> bool:
        """Whether the generated and the real images need labels."""
        return self.required_reference == "labels"


def _from_logits(compute: Callable[[Tensor], float]) -> Callable[[Features, Any], float]:
    """Turn a function of the logits into a function of the features and the reference."""

    def compute_from_features(fake: Features, real: None) -> float:
        if fake.logits is None:
            raise ValueError("these features have no logits; choose a feature space with a classifier")
        return compute(fake.logits)

    return compute_from_features


def _frechet(fake: Features, real: Reference) -> float:
    return frechet_distance(FeatureStatistics.from_features(fake.features), real.statistics)


def _frechet_infinity(fake: Features, real: Reference) -> float:
    return frechet_distance_infinity(fake.features, real.statistics)


def _classwise(fake: Features, real: Reference) -> float:
    if not isinstance(fake, LabeledFeatures):
        raise ValueError("the generated images have no labels; choose a class-conditional generator")
    return classwise_frechet_distance(fake.features, fake.labels, real.features, real.labels)


def _manifold(names: Collection[str], fake: Features, real: Reference) -> dict[str, float]:
    return manifold_metrics(names, fake.features, real.features, real.neighbor_distances)


def _manifold_metric(name: str, description: str, min_images: int) -> Metric:
    return Metric(
        description=description,
        compute=lambda fake, real: _manifold((name,), fake, real)[name],
        joint=_manifold,
        higher_is_better=True,
        required_reference="neighbors",
        default_features="inception",
        min_images=min_images,
    )


METRICS: dict[str, Metric] = {
    "fid": Metric(
        description="Fréchet inception distance",
        compute=_frechet,
        higher_is_better=False,
        required_reference="statistics",
        default_features="inception",
    ),
    "fd": Metric(
        description="Fréchet distance",
        compute=_frechet,
        higher_is_better=False,
        required_reference="statistics",
        default_features=None,
    ),
    "intrafd": Metric(
        description="mean Fréchet distance of the classes",
        compute=_classwise,
        higher_is_better=False,
        required_reference="labels",
        default_features="inception",
    ),
    "fdinf": Metric(
        description="Fréchet distance extrapolated to infinitely many generated images",
        compute=_frechet_infinity,
        higher_is_better=False,
        required_reference="statistics",
        default_features="inception",
        min_images=10,
    ),
    "kid": Metric(
        description="kernel inception distance",
        compute=lambda fake, real: kid(fake.features, real.features),
        higher_is_better=False,
        required_reference="features",
        default_features="inception",
    ),
    "is": Metric(
        description="inception score",
        compute=_from_logits(inception_score),
        higher_is_better=True,
        required_reference="none",
        default_features="inception",
        needs_logits=True,
        min_images=10,
    ),
    "precision": _manifold_metric("precision", "fraction of generated images near real ones", min_images=4),
    "recall": _manifold_metric("recall", "fraction of real images near generated ones", min_images=4),
    "density": _manifold_metric(
        "density", "number of real neighborhoods around generated images, relative to the expected one", min_images=6
    ),
    "coverage": _manifold_metric(
        "coverage", "fraction of real images with a generated one in their neighborhood", min_images=6
    ),
    "authpct": Metric(
        description="percentage of generated images that are no near copies of training images",
        compute=lambda fake, real: authentic_percentage(fake.features, real.features, real.neighbor_distances),
        higher_is_better=True,
        required_reference="neighbors",
        default_features="inception",
    ),
    "modes": Metric(
        description="number of classes among the generated images",
        compute=_from_logits(captured_modes),
        higher_is_better=True,
        required_reference="none",
        default_features="digits",
        needs_logits=True,
    ),
    "kl": Metric(
        description="KL divergence of the classes of the generated images from equally frequent ones",
        compute=_from_logits(kl_to_uniform),
        higher_is_better=False,
        required_reference="none",
        default_features="digits",
        needs_logits=True,
    ),
    "confident": Metric(
        description="fraction of the generated images that the classifier recognizes with confidence",
        compute=_from_logits(confident_fraction),
        higher_is_better=True,
        required_reference="none",
        default_features="digits",
        needs_logits=True,
    ),
}


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


def compute_metrics(names: Collection[str], fake: Features, real: Reference | None) -> dict[str, float]:
    """Return metrics of the same images by name. What several of them have in common is computed once."""
    scores: dict[str, float] = {}
    for name in names:
        metric = METRICS[name]
        if metric.joint is None:
            scores[name] = metric.compute(fake, real)
        elif name not in scores:
            scores |= metric.joint([other for other in names if METRICS[other].joint is metric.joint], fake, real)
    return {name: scores[name] for name in names}


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
