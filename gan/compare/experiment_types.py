"""The types of experiments that a comparison can train. The sections of a config determine its type."""

import importlib
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

from gan.evaluation.trained_classifiers import CLASSIFIER as CLASSIFIER_FILE
from gan.options.nodes import read_layers
from gan.run.start import Start
from gan.runtime.weights import GENERATOR


@dataclass(frozen=True)
class ExperimentType:
    """How to recognize, load and train the configs of one type."""

    section: str
    """A section that only configs of this type have"""
    module: str
    """The module with the config's dataclass `Config`"""
    start: str
    """The module with the function `check_start`"""
    script: str
    """The training script"""
    export: str
    """The file with the trained network, the last one that a run writes"""
    network: str
    """The network whose Lipschitz constant is tracked, as named in the tags of the log"""

    @property
    def schema(self) -> type:
        """The dataclass of the config. Its module is imported on first use."""
        return importlib.import_module(self.module).Config

    @property
    def check_start(self) -> Callable[..., Start]:
        """The function that returns what is missing for a run. Its module is imported on first use."""
        return importlib.import_module(self.start).check_start


GAN = ExperimentType(
    section="discriminator",
    module="gan.config",
    start="gan.training.start",
    script="train_gan.py",
    export=GENERATOR,
    network="D",
)
CLASSIFIER = ExperimentType(
    section="classifier",
    module="classification.config",
    start="classification.start",
    script="train_classifier.py",
    export=CLASSIFIER_FILE,
    network="classifier",
)


def get_type_by_sections(sections: Container[str]) -> ExperimentType:
    """Return the type of a config with these sections. The default is a GAN."""
    return CLASSIFIER if CLASSIFIER.section in sections else GAN


def get_experiment_type(path: Path) -> ExperimentType:
    """Return the type of a config file, including its `base` files. Raises UserError if they cannot be read."""
    return get_type_by_sections({key for layer in read_layers(path) for key in layer.value})
