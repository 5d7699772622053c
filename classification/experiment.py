"""The live objects of a classifier's run, and what every step draws from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classification.config import Config
from classification.data import LabelledSets
from gan.data import Sampler
from gan.objectives.augment import augment
from gan.objectives.regularizers.weight import WeightPenalty
from gan.runtime import rng
from metrics.lipschitz import LipschitzTracker


class Standardize(nn.Module):
    """(x - mean) / std by channel: what the classifier does to images (B, C, H, W) in [0, 1] first."""

    is_layer = True
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return (x - self.mean) / self.std

    def lipschitz_bound(self, input_shape, get_bound) -> float:
        """Return the largest factor."""
        return (1 / self.std).max().item()


@dataclass
class Experiment:
    """The live objects of a run, wired by `classification.build`."""

    config: Config
    folder: Path
    device: torch.device
    network: nn.Module
    """Images (B, C, H, W) in [0, 1] -> logits (B, num_classes)"""
    optimizer: torch.optim.Optimizer
    sets: LabelledSets
    sampler: Sampler
    regularizers: dict[str, WeightPenalty]
    tracker: LipschitzTracker
    delta: Tensor
    """Perturbation (batch_size, C, H, W) that free adversarial training carries from step to step"""
    step: int = 0
    best: float | None = None

    @property
    def images(self) -> int:
        """Training images in the updates so far."""
        return self.step * self.config.train.batch_size

    @property
    def networks(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer | None]]:
        """The network by name, with what trains it."""
        return {"classifier": (self.network, self.optimizer)}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a later step depends on."""
        about = {"step": self.step, "best": self.best, "delta": self.delta}
        return about | {name: part.state_dict() for name, part in self._stateful().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` was taken."""
        self.step, self.best, self.delta = state["step"], state["best"], state["delta"]
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])

    def _stateful(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self.optimizer, "lipschitz": self.tracker}


def training_batch(run: Experiment) -> tuple[Tensor, Tensor]:
    """Return the images (B, C, H, W) in [0, 1], augmented, and labels (B,) of this step."""
    config = run.config.train
    position = run.step // max(1, config.free.replays) * config.batch_size
    x, y = run.sampler.batch(position, config.batch_size)
    random = rng.generator(run.device, run.config.seed, "augmentation", position)
    x = augment((x + 1) / 2, config.augment, random)  # of [0, 1], so that black comes in
    if config.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x, y
