"""The live objects of a training run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gan.config import Config
from gan.data.contents import Contents
from gan.data.labels import restore_labels
from gan.evaluation.evaluator import Evaluator
from gan.objectives.ada import AdaptiveAugmentation
from gan.run.divergence import Networks
from gan.run.state import check_contents, check_counts, check_module, check_numbers, check_optimizer, check_tensors
from gan.runtime.cuda_graphs import CUDAGraphs
from gan.runtime.distributed import average_batch_statistics, world_size
from gan.training.ema import EMA
from gan.training.generator_state import check_labels
from gan.training.inputs import Inputs, StepInputs
from gan.training.schedules import ScheduledOptions
from gan.training.standing_statistics import with_standing_statistics
from metrics.lipschitz import LipschitzTracker
from models import ImageShape


@dataclass
class Experiment:
    """The live objects of a training run, created by `gan.training.build`."""

    config: Config
    image_shape: ImageShape
    contents: Contents
    """What identifies the images of the data set"""
    device: torch.device
    G: nn.Module
    D: nn.Module
    ema: EMA
    optimizer_G: torch.optim.Optimizer
    optimizer_D: torch.optim.Optimizer
    scaler_G: torch.amp.GradScaler
    scaler_D: torch.amp.GradScaler
    inputs: Inputs
    step_inputs: StepInputs
    regularizer_states: dict[str, nn.Module]
    """What regularizers remember between updates, by name, of those that remember something"""
    ada: AdaptiveAugmentation | None
    """The augmentation `ada`, if it is used"""
    scheduled: ScheduledOptions
    """The values of the options that may follow a schedule"""
    graphs: CUDAGraphs | None
    """CUDA graphs of a training step; None runs it eagerly"""
    tracker: LipschitzTracker
    tracker_graphs: CUDAGraphs | None
    """CUDA graph of a measurement of the tracker; None runs it eagerly"""
    evaluator: Evaluator | None
    step: int = 0

    @property
    def d_steps(self) -> int:
        """Number of discriminator updates so far."""
        return self.step * self.config.train.n_critic

    @property
    def images(self) -> int:
        """Number of real images shown to the discriminator so far."""
        return self.d_steps * self.config.train.batch_size

    @property
    def counters(self) -> dict[str, int]:
        """The counters that are logged with every entry."""
        return {"step": self.step, "d_steps": self.d_steps, "images": self.images}

    @property
    def networks(self) -> Networks:
        """The networks by name, each with its optimizer."""
        return {"D": (self.D, self.optimizer_D), "G": (self.G, self.optimizer_G), "G_ema": (self.ema.network, None)}

    def average_batch_statistics(self) -> None:
        """Average the running statistics of batch norm over the processes, which collect those of their shards.

        Training does not read them. All processes must call this before anything else does, and before a checkpoint.
        """
        if world_size() > 1:
            average_batch_statistics(self.D)
            average_batch_statistics(self.G)
            self.ema.copy_buffers(self.G)

    def evaluated_generator(self, before_batch: Callable[[], None] = lambda: None) -> nn.Module:
        """Return the averaged generator with its own batch norm statistics; see `with_standing_statistics`."""
        return with_standing_statistics(self.ema.network, self.config, self.inputs.labels, before_batch)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later steps depend on, and what `restore_generator` needs without the data set."""
        state = {"step": self.step, "retries": self.inputs.rollbacks, "image": tuple(self.image_shape)}
        state["data"] = self.contents
        state["label_counts"] = None if self.inputs.labels is None else self.inputs.labels.counts
        return state | {name: part.state_dict() for name, part in self._stateful().items()}

    def check_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a state of this run unchanged. Raises ValueError if it cannot be loaded: it may be of another version.

        The experiment is not changed.
        """
        check_counts(state, "step", "retries")
        check_contents(state)
        check_labels(state, self.image_shape.num_classes)
        if state.get("image", shape := tuple(self.image_shape)) != shape:
            raise ValueError(f"it is of images of another shape than {shape}")
        for name, part in self._stateful().items():
            if isinstance(part, nn.Module):
                check_module(name, part, state)
            elif isinstance(part, torch.optim.Optimizer):
                check_optimizer(name, part, state)
            elif isinstance(part, LipschitzTracker):
                check_tensors(name, part.state_dict(), state)
            else:
                check_numbers(name, part.state_dict(), state)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `check_state` accepts. Labels are drawn as the run began, not from the data again."""
        self.step, self.inputs.rollbacks = state["step"], state["retries"]
        self.inputs.labels = restore_labels(state.get("label_counts"), self.image_shape.num_classes, self.device)
        for name, part in self._stateful().items():
            if isinstance(part, torch.optim.Optimizer):
                # The options are those of the config and of this device, not of the device that wrote the state.
                part.load_state_dict({"state": state[name]["state"], "param_groups": part.state_dict()["param_groups"]})
            else:
                part.load_state_dict(state[name])
        if self.graphs is not None:
            self.graphs.clear()  # the optimizers have new tensors

    def _stateful(self) -> dict[str, Any]:
        parts: dict[str, Any] = {}
        if self.scaler_D.is_enabled():
            parts |= {"scaler_G": self.scaler_G, "scaler_D": self.scaler_D}
        if self.ada is not None:
            parts["ada"] = self.ada
        parts |= {f"regularizers.{name}": state for name, state in self.regularizer_states.items()}
        return parts | {
            "G": self.G,
            "D": self.D,
            "G_ema": self.ema.network,
            "optimizer_G": self.optimizer_G,
            "optimizer_D": self.optimizer_D,
            "lipschitz": self.tracker,
        }
