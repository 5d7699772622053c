"""The contract of a penalty on the discriminator: a small callable, applied every `every`-th step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from models.ranges import AT_LEAST_0, AT_LEAST_1
from models.registry import Registry

REGULARIZERS: Registry["Regularizer"] = Registry("regularizer")


class Batch(NamedTuple):
    """What D is shown in a step: images (B, C, H, W) and their labels (B,), or None without labels."""

    x_real: Tensor
    y_real: Tensor | None
    x_fake: Tensor
    y_fake: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Regularizer(ABC):
    """Base of all penalties on D. With `every` = k the penalty is applied at every k-th D step, k times as strong."""

    registry: ClassVar[Registry["Regularizer"]] = REGULARIZERS

    weight: Annotated[float, AT_LEAST_0] = 1.0
    """Factor of the penalty in D's loss"""
    every: Annotated[int, AT_LEAST_1] = 1
    """Apply at every k-th D step, with k times the weight (lazy regularization, Karras et al. 2020)"""

    def due(self, d_step: int) -> bool:
        """Tell whether the penalty is applied at this D step."""
        return self.weight > 0 and d_step % self.every == 0

    @abstractmethod
    def penalty(self, D: nn.Module, batch: Batch, random: torch.Generator) -> Tensor:
        """Return the unweighted penalty, a scalar with a graph to D's parameters.

        The batch is this process's share of a larger one, while `random` is the same on every process: numbers for
        each image are drawn for all and cut by `gan.runtime.distributed.local_shard`.
        """
