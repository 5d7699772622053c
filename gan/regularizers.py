"""Penalties added to the discriminator's loss: small callables, applied every `every`-th step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from models.ranges import AT_LEAST_0, AT_LEAST_1
from models.registry import Registry

REGULARIZERS: Registry["Regularizer"] = Registry("regularizer")


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
    def penalty(self, D: nn.Module, x_real: Tensor, x_fake: Tensor, y: Tensor | None) -> Tensor:
        """Return the unweighted penalty, a scalar; images are (B, C, H, W), y the real labels (B,) or None."""


@REGULARIZERS.register("r1")
@dataclass(frozen=True, kw_only=True)
class R1(Regularizer):
    """½ E[||∇ₓ D(x)||²] on real images (Mescheder et al., ICML 2018, eq. 9); `weight` is the paper's γ."""

    def penalty(self, D: nn.Module, x_real: Tensor, x_fake: Tensor, y: Tensor | None) -> Tensor:
        """Return half the mean squared gradient norm at the real images."""
        return 0.5 * squared_gradient_norm(D, x_real, y).mean()


def squared_gradient_norm(D: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    """Return ||∇ₓ D(x)||² for each image, (B,), with a graph to D's parameters."""
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(D(x, y).sum(), x, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3))
