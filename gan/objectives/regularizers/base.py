"""The base class of penalties on the discriminator and on the generator."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gan.options.schedules import Scheduled
from models.ranges import AT_LEAST_0, AT_LEAST_1
from models.registry import Registry

REGULARIZERS: Registry["Regularizer"] = Registry("regularizer")


class Batch(NamedTuple):
    """The inputs of D in one update: images (B, C, H, W) and their labels (B,), or None if there are no labels.

    With augmentation, `x_real` and `x_fake` are the augmented images, and their autograd graphs lead to `raw_real` and
    `raw_fake`, the images before it. In training, the logits of the update and where the fakes come from are given too.
    """

    x_real: Tensor
    y_real: Tensor | None
    x_fake: Tensor
    y_fake: Tensor | None
    raw_real: Tensor | None = None
    raw_fake: Tensor | None = None
    logits_real: Tensor | None = None
    """D(x_real) (B,), of the forward pass of the loss and with its autograd graph"""
    logits_fake: Tensor | None = None
    """D(x_fake) (B,), likewise"""
    G: nn.Module | None = None
    """The generator"""
    z: Tensor | None = None
    """Latents (B, z_dim) of the fake images"""
    state: nn.Module | None = None
    """What the penalty's `build_state` has returned"""


@dataclass(frozen=True, kw_only=True)
class Regularizer(ABC):
    """Base class of all penalties on D, which may have a part for G.

    With `every` = k the training loop applies the penalty at every k-th D step and multiplies it by k. It is part of
    the same update as the loss. StyleGAN2's code makes a separate update for it, and therefore changes Adam's options.
    """

    registry: ClassVar[Registry["Regularizer"]] = REGULARIZERS

    weight: Annotated[Scheduled, AT_LEAST_0] = 1.0
    """Factor of the penalty in the loss"""
    every: Annotated[int, AT_LEAST_1] = 1
    """Apply at every k-th D step, with k times the weight (lazy regularization, Karras et al., CVPR 2020)"""

    def is_due(self, d_step: int) -> bool:
        """Return whether the penalty is applied at this D step. A schedule may start at 0."""
        return self.weight != 0 and d_step % self.every == 0

    @abstractmethod
    def penalty(self, D: nn.Module, batch: Batch, random: torch.Generator) -> Tensor:
        """Return the unweighted penalty, a scalar that is differentiable with respect to the parameters of D.

        `batch` is a shard of the global batch, but `random` has the same state for all of them. Random numbers for each
        image are therefore drawn with `gan.runtime.distributed.draw_shard`.
        """

    def generator_penalty(
        self, G: nn.Module, z: Tensor, y: Tensor | None, x_fake: Tensor, random: torch.Generator
    ) -> Tensor | None:
        """Return the unweighted penalty on G in each of its updates, a scalar; None, the default, if there is none.

        `x_fake` (B, C, H, W) is G(z, y) before any augmentation, with its autograd graph.
        """
        return None

    def build_state(self) -> nn.Module | None:
        """Return a module whose buffers are what the penalty remembers between updates; None, the default, if nothing.

        `penalty` gets it as `batch.state`. It is saved in checkpoints and restored, also after a divergence. A CUDA
        graph repeats the step, so the buffers are changed in place and never read by the host.
        """
        return None
