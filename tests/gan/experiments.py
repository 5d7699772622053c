"""Experiments of shipped configs on random images, which need no data set."""

from pathlib import Path

import torch

from gan.config import Config
from gan.data import ImageData, Splits
from gan.options.loader import load_config
from gan.training.build import build_experiment
from gan.training.experiment import Experiment

CONFIGS = Path(__file__).parents[2] / "configs"


def build_on_random_images(
    name: str, *overrides: str, side: int = 32, channels: int = 3, device: str = "cuda"
) -> Experiment:
    """Return the experiment of configs/`name`.yaml with narrow networks, in training mode and without metrics."""
    narrow = ["generator.width=32", "discriminator.width=32", "eval.metrics=[]"]
    config = load_config(Config, CONFIGS / f"{name}.yaml", [*narrow, *overrides])
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (512, channels, side, side), generator=random, dtype=torch.uint8)
    data = ImageData(images, torch.arange(512) % 10, 10)
    experiment = build_experiment(config, Splits(data, data), torch.device(device))
    experiment.G.train()
    experiment.D.train()
    return experiment
