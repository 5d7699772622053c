"""Experiments on random images, to time their steps."""

import torch

from gan.config import Config
from gan.data import ImageData, Splits
from gan.training.build import build_experiment
from gan.training.experiment import Experiment

NUM_IMAGES = 2048


def random_images_experiment(config: Config, device: torch.device, side: int = 32) -> Experiment:
    """Return the experiment of a config, with random images (3, side, side) of one of ten classes for its data."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (NUM_IMAGES, 3, side, side), generator=random, dtype=torch.uint8)
    data = ImageData(images, torch.zeros(NUM_IMAGES, dtype=torch.int64), 10)
    return build_experiment(config, Splits(data, data), device)
