"""The metrics by name, and protocols: what a metric measures on how many images against which real ones.

A number without its protocol compares with nothing (FID is biased in the number of images, and CIFAR-10's is 14 against
the training set where it is 21 against the test set), so a protocol's name says all of it:

    fid50k_train        FID of 50,000 generated images to the whole training set
    fid5k_test10k       of 5,000 generated images to 10,000 held-out ones
    is50k               Inception score of 50,000 generated images
    fd_digits10k_test   Fréchet distance in the feature space `digits`
    kid_dinov2-vit-b-14-10k_train   KID in the feature space `dinov2-vit-b-14`, with a dash before the count

    fid50k_file         of 50,000 generated images to the statistics in a file (pytorch-fid's .npz)

    METRIC[_FEATURES][-]COUNT[_REFERENCE[COUNT]]
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from torch import Tensor

from metrics.extractors.base import Features
from metrics.frechet import FeatureStatistics, frechet_distance
from metrics.inception_score import inception_score
from metrics.kid import kid
from metrics.manifold import density_coverage, precision_recall
from metrics.modes import captured_modes, confident_fraction, kl_to_uniform


class Reference(Protocol):
    """The real images that a metric compares with: their features (M, d) and the statistics of them."""

    @property
    def features(self) -> Tensor:
        """(M, d)"""
        ...

    @property
    def statistics(self) -> FeatureStatistics:
        """Mean and covariance of the features."""
        ...


@dataclass(frozen=True)
class Metric:
    """A number that says how good generated images are.

    `compute` takes their features and the reference (None for a metric without one), `needs` says what of the
    reference it reads, `features` is the feature space that the short name stands for (None: must be named), and
    `needs_logits` that its extractor must classify.
    """

    compute: Callable[[Features, Any], float]
    higher_is_better: bool
    needs: Literal["nothing", "statistics", "features"]
    features: str | None
    needs_logits: bool = False
    fewest: int = 2
    """Images, generated and real, without which there is no number"""


def _from_logits(compute: Callable[[Tensor], float]) -> Callable[[Features, Any], float]:
    """Return a metric of the logits alone; its extractor classifies."""

    def of_features(fake: Features, real: None) -> float:
        if fake.logits is None:
            raise ValueError("these features come without logits")
        return compute(fake.logits)

    return of_features


def _frechet(fake: Features, real: Reference) -> float:
    return frechet_distance(FeatureStatistics.from_features(fake.features), real.statistics)


METRICS: dict[str, Metric] = {
    "fid": Metric(_frechet, False, "statistics", "inception"),
    "fd": Metric(_frechet, False, "statistics", None),
    "kid": Metric(lambda fake, real: kid(fake.features, real.features), False, "features", "inception"),
    "is": Metric(_from_logits(inception_score), True, "nothing", "inception", True, 10),
    "precision": Metric(
        lambda fake, real: precision_recall(fake.features, real.features)[0], True, "features", "inception", fewest=4
    ),
    "recall": Metric(
        lambda fake, real: precision_recall(fake.features, real.features)[1], True, "features", "inception", fewest=4
    ),
    "density": Metric(
        lambda fake, real: density_coverage(fake.features, real.features)[0], True, "features", "inception", fewest=6
    ),
    "coverage": Metric(
        lambda fake, real: density_coverage(fake.features, real.features)[1], True, "features", "inception", fewest=6
    ),
    "modes": Metric(_from_logits(captured_modes), True, "nothing", "digits", True),
    "kl": Metric(_from_logits(kl_to_uniform), False, "nothing", "digits", True),
    "confident": Metric(_from_logits(confident_fraction), True, "nothing", "digits", True),
}


@dataclass(frozen=True)
class MetricProtocol:
    """A metric with everything that its number depends on."""

    metric: str
    features: str
    count: int
    """Generated images"""
    reference: Literal["train", "test", "file"] | None
    """Split of the real images, or a file of their statistics; None for a metric that compares with none"""
    reference_count: int | None
    """Real images (None: the whole split)"""

    def __str__(self) -> str:
        space = "" if self.features == METRICS[self.metric].features else f"_{self.features}"
        dash = "-" if space[-1:].isdigit() else ""
        real = "" if self.reference is None else f"_{self.reference}{_short(self.reference_count)}"
        return f"{self.metric}{space}{dash}{_short(self.count)}{real}"

    @property
    def spec(self) -> Metric:
        """The metric itself."""
        return METRICS[self.metric]

    def with_count(self, count: int) -> "MetricProtocol":
        """Return the same protocol on another number of generated images."""
        return MetricProtocol(self.metric, self.features, count, self.reference, self.reference_count)


_GRAMMAR = re.compile(
    r"(?P<metric>[a-z]+)(_(?P<features>[a-z][\w.-]*?))?-?(?P<count>\d+k?)(_(?P<reference>train|test|file)(?P<real>\d+k?)?)?"
)


def parse_protocol(name: str) -> MetricProtocol:
    """Return the protocol that `name` stands for; ValueError when it stands for none."""
    match = _GRAMMAR.fullmatch(name)
    if match is None:
        raise ValueError(
            f"'{name}' is no metric with its protocol: write METRIC[_FEATURES]COUNT[_train|_test],"
            " as in fid50k_train, is50k or fd_digits10k_test"
        )
    if match["metric"] not in METRICS:
        raise ValueError(f"'{name}': unknown metric '{match['metric']}' (known: {', '.join(sorted(METRICS))})")
    metric = METRICS[match["metric"]]
    features = match["features"] or metric.features
    if features is None:
        raise ValueError(f"'{name}' must name its feature space, as in fd_digits10k_test")
    if match["metric"] == "fid" and features != "inception":
        raise ValueError(f"'{name}': FID is the Fréchet distance of Inception; write fd_{features} for another space")
    if metric.needs == "nothing" and match["reference"]:
        raise ValueError(f"'{name}': {match['metric']} compares with no real images; leave out _{match['reference']}")
    if metric.needs != "nothing" and not match["reference"]:
        raise ValueError(f"'{name}' must say what it compares with: {name}_train or {name}_test")
    if match["reference"] == "file" and (metric.needs == "features" or match["real"]):
        raise ValueError(f"'{name}': a file of statistics serves whole Fréchet distances alone, as in fid50k_file")
    count, real = _number(match["count"]), None if match["real"] is None else _number(match["real"])
    if min(count, real or count) < metric.fewest:
        raise ValueError(f"'{name}': {match['metric']} needs at least {metric.fewest} images")
    reference = cast(Literal["train", "test", "file"] | None, match["reference"])  # the grammar has no other
    return MetricProtocol(match["metric"], features, count, reference, real)


def higher_is_better(name: str) -> bool:
    """Tell whether a larger value of the protocol called `name` is a better one; ValueError when it is none."""
    return parse_protocol(name).spec.higher_is_better


def _number(text: str) -> int:
    return int(text[:-1]) * 1000 if text.endswith("k") else int(text)


def _short(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count // 1000}k" if count % 1000 == 0 else str(count)
