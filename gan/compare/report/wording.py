"""The phrases in which the reports on GANs and on classifiers differ."""

from dataclasses import dataclass

from gan.compare.experiment_types import CLASSIFIER, GAN, ExperimentType


@dataclass(frozen=True)
class Wording:
    """The phrases for one type of experiment."""

    network: str
    """The network whose Lipschitz constant is tracked"""
    evaluated: str
    """The network that the metrics evaluate"""
    step: str
    """A training step"""
    timed_step: str
    """What the time per step includes"""
    images: str
    """The images that the x-axis of the plots counts"""
    points: str
    """The inputs at which the input gradient is measured"""


_WORDINGS = {
    GAN: Wording(
        network="D",
        evaluated="the averaged generator",
        step="generator update",
        timed_step="a generator update with its D updates",
        images="real images seen by D",
        points="real, fake and mixed images",
    ),
    CLASSIFIER: Wording(
        network="the classifier",
        evaluated="the classifier",
        step="update",
        timed_step="an update",
        images="training images seen",
        points="test images",
    ),
}


def get_wording(experiment_type: ExperimentType) -> Wording:
    """Return the phrases for a type of experiment."""
    return _WORDINGS[experiment_type]
