"""The metrics that a config can ask for by name, each a pure function of features."""

from collections.abc import Callable
from dataclasses import dataclass

from metrics.features import Features
from metrics.frechet import FeatureStatistics, frechet_distance
from metrics.inception_score import inception_score
from metrics.modes import captured_modes, confident_fraction, kl_to_uniform


@dataclass(frozen=True)
class Metric:
    """A number that says how good generated images are, by their features and the statistics of real ones."""

    compute: Callable[[Features, FeatureStatistics], float]
    higher_is_better: bool


METRICS: dict[str, Metric] = {
    "fd_digits": Metric(
        lambda fake, real: frechet_distance(real, FeatureStatistics.from_features(fake.features)), False
    ),
    "is_digits": Metric(lambda fake, real: inception_score(fake.logits, splits=1), True),
    "modes": Metric(lambda fake, real: captured_modes(fake.logits), True),
    "kl": Metric(lambda fake, real: kl_to_uniform(fake.logits), False),
    "confident": Metric(lambda fake, real: confident_fraction(fake.logits), True),
}
