"""The kinds of experiments that a comparison can train, recognised by a section that only their configs have."""

import importlib
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from gan.options.nodes import read_layers


@dataclass(frozen=True)
class Kind:
    """A config's schema by the module that has it, the script that trains it, and the words of its report."""

    section: str
    module: str
    script: str
    network: str
    """The network whose Lipschitz constant is tracked, as its tags call it"""
    subject: str
    """The same in a sentence"""
    evaluated: str
    step: str
    long_step: str
    images: str
    points: str
    """Where its input gradients are measured"""

    @property
    def schema(self) -> type:
        """The dataclass of the config; its module is imported only when it is needed."""
        return importlib.import_module(self.module).Config


GAN = Kind(
    section="discriminator",
    module="gan.config",
    script="train_gan.py",
    network="D",
    subject="D",
    evaluated="the averaged generator",
    step="generator update",
    long_step="a generator update with its D updates",
    images="real images seen by D",
    points="real, fake and mixed images",
)
CLASSIFIER = Kind(
    section="classifier",
    module="classification.config",
    script="train_classifier.py",
    network="classifier",
    subject="the classifier",
    evaluated="the classifier",
    step="update",
    long_step="an update",
    images="training images seen",
    points="test images",
)


def get_type_by_sections(sections: Container[str]) -> Kind:
    """Return the kind of a config that has these sections: a GAN unless one says otherwise."""
    return CLASSIFIER if CLASSIFIER.section in sections else GAN


def get_experiment_type(path: Path) -> Kind:
    """Return the kind of the config in a file and its bases; UserError when they cannot be read."""
    return get_type_by_sections({key for layer in read_layers(path) for key in layer.value})
