"""The live objects of a run, and what every step draws from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan.config import Config
from gan.data import Sampler
from gan.evaluation.evaluator import Evaluator
from gan.objectives.losses import Loss
from gan.objectives.regularizers import Regularizer
from gan.runtime import rng
from gan.runtime.distributed import local_shard
from gan.training.ema import EMA
from metrics.lipschitz import LipschitzTracker
from models import ImageShape

RETRY_DISTANCE = 2**48  # in the endless stream of real images: a retry sees them in another order


@dataclass
class Experiment:
    """The live objects of a run, wired by `gan.training.build`."""

    config: Config
    folder: Path
    device: torch.device
    G: nn.Module
    D: nn.Module
    ema: EMA
    optimizer_G: torch.optim.Optimizer
    optimizer_D: torch.optim.Optimizer
    sampler: Sampler
    image: ImageShape
    loss: Loss
    regularizers: dict[str, Regularizer]
    evaluator: Evaluator | None
    metrics_left_out: dict[str, str]
    """Metrics asked for that cannot be had here, and why"""
    tracker: LipschitzTracker
    step: int = 0
    retries: int = 0
    """How often training has diverged and been taken back to a checkpoint"""
    best: float | None = None
    measured: dict[str, dict[str, Any]] | None = None
    """What this step has given to log, while its evaluation has not ended: `numbers` and `spectra` by tag"""

    @property
    def num_classes(self) -> int | None:
        """Number of classes of a conditional GAN; None without labels."""
        return self.image.num_classes

    @property
    def seed(self) -> int:
        """The seed of all that training draws from here on: another one after each retry."""
        return rng.derive_seed(self.config.seed, "retry", self.retries) if self.retries else self.config.seed

    @property
    def d_steps(self) -> int:
        """Discriminator updates so far."""
        return self.step * self.config.train.n_critic

    @property
    def images(self) -> int:
        """Real images that the discriminator has seen so far."""
        return self.d_steps * self.config.train.batch_size

    @property
    def logged_step(self) -> int:
        """The newest step whose numbers are in the log."""
        return self.step if self.measured is None else self.step - 1

    @property
    def networks(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer | None]]:
        """The networks by name, each with what trains it."""
        return {"D": (self.D, self.optimizer_D), "G": (self.G, self.optimizer_G), "G_ema": (self.ema.network, None)}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a later step depends on."""
        about = {"step": self.step, "best": self.best, "best_by": self._best_by, "image": tuple(self.image)}
        about |= {"measured": self.measured, "retries": self.retries}
        return about | {name: part.state_dict() for name, part in self._stateful().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` was taken."""
        self.step, self.measured, self.retries = state["step"], state["measured"], state["retries"]
        self.best = state["best"] if state["best_by"] == self._best_by else None
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])

    @property
    def _best_by(self) -> str | None:
        """The protocol that the best value is a value of: it compares with no other."""
        return None if self.evaluator is None else str(self.evaluator.protocols[0])

    def _stateful(self) -> dict[str, Any]:
        return {
            "G": self.G,
            "D": self.D,
            "G_ema": self.ema.network,
            "optimizer_G": self.optimizer_G,
            "optimizer_D": self.optimizer_D,
            "lipschitz": self.tracker,
        }


def real_images(run: Experiment, position: int, count: int) -> tuple[Tensor, Tensor | None]:
    """Return this process's share of `count` real images of the stream from `position` on; labels if conditional."""
    x, y = run.sampler.batch(position + run.retries * RETRY_DISTANCE, count)
    if run.config.train.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x, y if run.num_classes else None


def latents(run: Experiment, count: int, *purpose: str | int) -> tuple[Tensor, Tensor | None]:
    """Return z (count, z_dim) ~ N(0, I) to look at, the same after a retry, and for a conditional generator uniform
    labels (count,).
    """
    return _latents(run, count, rng.generator(run.device, run.config.seed, "latents", *purpose))


def local_latents(run: Experiment, count: int, *purpose: str | int) -> tuple[Tensor, Tensor | None]:
    """Return this process's share of `count` such latents to train on, others after each retry."""
    z, y = _latents(run, count, rng.generator(run.device, run.seed, "latents", *purpose))
    return local_shard(z), None if y is None else local_shard(y)


def _latents(run: Experiment, count: int, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
    return draw_latents(count, run.config.generator.z_dim, run.num_classes, random)


def join_labels(*parts: Tensor | None) -> Tensor | None:
    """Return the labels (B,) of several batches as those of one; None without labels."""
    labels = [part for part in parts if part is not None]
    return torch.cat(labels) if labels else None


def draw_latents(
    count: int, z_dim: int, num_classes: int | None, random: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Return z (count, z_dim) ~ N(0, I) and, where there are classes, uniform labels (count,)."""
    z = torch.randn(count, z_dim, generator=random, device=random.device)
    if num_classes is None:
        return z, None
    return z, torch.randint(num_classes, (count,), generator=random, device=random.device)


def generator_batch_size(config: Config) -> int:
    """Return the number of fakes in a generator update."""
    return config.train.generator_batch_size or config.train.batch_size
