"""Batch normalization (Ioffe & Szegedy, ICML 2015), class-conditional too (Dumoulin et al., de Vries et al., 2017)."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from models.activation_norms.base import ACTIVATION_NORMS, ActivationNorm, ClassConditional
from models.ranges import Range


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that takes labels and ignores them."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Normalize (B, C, H, W) per channel: by the batch in training, by running statistics in evaluation."""
        return super().forward(x)


@ACTIVATION_NORMS.register("batch")
@dataclass(frozen=True, kw_only=True)
class BatchNormConfig(ActivationNorm):
    """Batch normalization with a learned scale and shift per channel.

    Class-conditional: the statistics are those of the whole batch, scale and shift belong to the class.
    """

    eps: Annotated[float, Range(min=1e-12)] = 1e-5
    """Added to the variance"""
    momentum: Annotated[float, Range(min=0, max=1)] = 0.1
    """Weight of the newest batch in the running statistics"""

    def build(self, channels: int, num_classes: int | None = None) -> nn.Module:
        """Return the batch norm of `channels` channels."""
        norm = BatchNorm(channels, eps=self.eps, momentum=self.momentum, affine=num_classes is None)
        return norm if num_classes is None else ClassConditional(norm, channels, num_classes)
