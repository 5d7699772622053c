"""Runs of the past: their networks as a checkpoint holds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from gan import run_folder
from gan.build import build_experiment
from gan.checkpoint import Checkpoints
from gan.config import Config
from gan.errors import UserError
from gan.experiment import Experiment
from gan.yaml_config import load_config
from models import ImageShape, build_generator

Which = Literal["newest", "best"]


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


def newest_or_best(folder: Path, config: Any, device: torch.device, which: Which) -> dict[str, Any]:
    """Return the state in a checkpoint of the run of `config` in `folder`; UserError when there is none."""
    checkpoints = Checkpoints(folder, config)
    state = checkpoints.load_newest(device) if which == "newest" else checkpoints.load_best(device)
    if state is None:
        raise UserError(
            f"{folder} has no checkpoint yet; train on with --resume"
            if which == "newest"
            else f"{folder} has no best checkpoint yet, since no metric was evaluated; take the newest"
        )
    return state
