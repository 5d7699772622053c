"""What a run of a classifier needs before it starts."""

from pathlib import Path

from classification.config import Config
from gan.evaluation.trained_classifiers import CLASSIFIER
from gan.run import start as run_start
from gan.run.start import Start, get_checkpoint_space
from gan.runtime.disk import Space
from gan.runtime.weights import count_parameters
from models import ImageShape


def check_start(config: Config, folder: Path, device: str, saved: Config | None = None) -> Start:
    """Return everything that is missing for a run, in a new folder or in that of a run with the config `saved`."""
    return run_start.check_start(config, folder, device, CLASSIFIER, estimate_space(config, folder))


def estimate_space(config: Config, folder: Path) -> list[Space]:
    """Return the space of the checkpoints of a run, if the size of its images is known before they are loaded."""
    if config.data.image_size is None:
        return []
    channels, resolution = config.data.image_size
    numbers = count_parameters(lambda: config.classifier.build(ImageShape(channels, resolution, 1)))
    if numbers is None:
        return []
    return [get_checkpoint_space(config, folder, 2 * numbers)]  # with the momentum of SGD
