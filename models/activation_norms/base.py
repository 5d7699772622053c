"""The contract of an activation norm: a frozen dataclass of options that builds a module(x, y=None)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.registry import Registry

ACTIVATION_NORMS: Registry["ActivationNorm"] = Registry("activation norm")


@dataclass(frozen=True, kw_only=True)
class ActivationNorm(ABC):
    """Base of all norms of activations. The fields of a subclass are its YAML options.

    Every norm has a class-conditional form, so that a conditional generator listens to its labels with any of them:
    the learned scale and shift per channel become a scale and a shift per class and channel.
    """

    registry: ClassVar[Registry["ActivationNorm"]] = ACTIVATION_NORMS

    @abstractmethod
    def build(self, channels: int, num_classes: int | None = None) -> nn.Module:
        """Return a module called as `module(x, y)`: x is (B, channels, H, W), y the labels (B,) or None.

        With `num_classes` it is class-conditional and needs y, otherwise it ignores y.
        """


class ClassConditional(nn.Module):
    """gamma_y * norm(x) + beta_y (Dumoulin et al., ICLR 2017, eq. 5; de Vries et al., NeurIPS 2017, eq. 4).

    `norm` has no scale and shift of its own. gamma starts at 1 and beta at 0. They are bare parameters and no
    `nn.Embedding`, because normalizations of weights must leave them alone, as they do the gamma of batch norm.
    """

    def __init__(self, norm: nn.Module, channels: int, num_classes: int):
        super().__init__()
        self.norm = norm
        self.weight = nn.Parameter(torch.ones(num_classes, channels))
        self.bias = nn.Parameter(torch.zeros(num_classes, channels))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map (B, C, H, W) and labels (B,) to (B, C, H, W)."""
        gamma, beta = (F.embedding(y, table)[:, :, None, None].to(x.dtype) for table in (self.weight, self.bias))
        return gamma * self.norm(x) + beta

    def extra_repr(self) -> str:
        """Show the number of classes."""
        return f"num_classes={len(self.weight)}"
