"""The live objects of a classifier's training run."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from classification.config import Config
from classification.data import LabelledSets
from gan.data import Sampler
from gan.data.contents import Contents
from gan.objectives.regularizers.weight import WeightPenalty
from gan.run.divergence import Networks
from gan.run.state import (
    check_contents,
    check_counts,
    check_module,
    check_optimizer,
    check_options,
    check_tensors,
    get_entry,
)
from metrics.lipschitz import LipschitzTracker


@dataclass
class Experiment:
    """The live objects of a classifier's training run, created by `classification.build`."""

    config: Config
    contents: Contents
    """What identifies the images of the data set"""
    device: torch.device
    network: nn.Module
    """Images (B, C, H, W) in [0, 1] -> logits (B, num_classes)"""
    optimizer: torch.optim.Optimizer
    sets: LabelledSets
    sampler: Sampler
    regularizers: dict[str, WeightPenalty]
    tracker: LipschitzTracker
    delta: Tensor
    """Perturbation (batch_size, C, H, W) that free adversarial training keeps from step to step"""
    step: int = 0

    @property
    def images(self) -> int:
        """Number of training images in the updates so far."""
        return self.step * self.config.train.batch_size

    @property
    def counters(self) -> dict[str, int]:
        """The counters that are logged with every entry."""
        return {"step": self.step, "images": self.images}

    @property
    def networks(self) -> Networks:
        """The network by name, with its optimizer."""
        return {"classifier": (self.network, self.optimizer)}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later steps depend on."""
        state = {"step": self.step, "delta": self.delta, "data": self.contents}
        return state | {name: part.state_dict() for name, part in self._stateful().items()}

    def check_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a state of this run unchanged. Raises ValueError if it cannot be loaded: it may be of another version.

        The experiment is not changed.
        """
        check_counts(state, "step")
        check_contents(state)
        delta = get_entry(state, "delta")
        if not isinstance(delta, Tensor) or delta.shape != self.delta.shape:
            raise ValueError("its entry delta does not fit: it has another shape")
        check_module("network", self.network, state)
        check_optimizer("optimizer", self.optimizer, state)
        check_options("optimizer", self.optimizer, state)
        check_tensors("lipschitz", self.tracker.state_dict(), state)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `check_state` accepts."""
        self.step, self.delta = state["step"], state["delta"]
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])

    def _stateful(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self.optimizer, "lipschitz": self.tracker}
