"""The metrics by name: what each computes, and what it needs."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, Protocol

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
