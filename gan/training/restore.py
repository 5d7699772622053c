"""Runs of the past: their networks as a checkpoint holds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gan.config import Config
from gan.options.loader import load_config
from gan.run import folder as run_folder
from gan.run.checkpoint import Which, newest_or_best
from gan.training.build import build_experiment
from gan.training.experiment import Experiment
from models import ImageShape, build_generator


def restore_experiment(
    folder: Path, device: torch.device, overrides: Sequence[str] = (), which: Which = "newest"
) -> Experiment:
    """Return the run in `folder` as a checkpoint holds it, its config changed by `overrides`; UserError without one."""
    config = load_config(Config, run_folder.config_path(folder), overrides)
    state = newest_or_best(folder, config, device, which)
    run = build_experiment(config, config.data.load(), folder, device)
    run.load_state_dict(state)
    return run


@dataclass(frozen=True)
class TrainedGenerator:
    """The averaged generator of a run, and what it was trained for."""

    network: nn.Module
    config: Config
    image: ImageShape
    step: int


def restore_generator(folder: Path, device: torch.device, which: Which = "newest") -> TrainedGenerator:
    """Return the generator of the run in `folder`; needs no data set. UserError without a checkpoint."""
    config = load_config(Config, run_folder.config_path(folder))
    state = newest_or_best(folder, config, device, which)
    image = ImageShape(*state["image"])
    network = build_generator(config.generator, image).to(device)
    network.load_state_dict(state["G_ema"])
    return TrainedGenerator(network.eval().requires_grad_(False), config, image, state["step"])
