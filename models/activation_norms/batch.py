"""Batch normalization (Ioffe & Szegedy, ICML 2015), class-conditional too (Dumoulin et al., de Vries et al., 2017)."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.activation_norms.base import ACTIVATION_NORMS, ActivationNorm, ClassConditional
from models.kernels.eager import eager
from models.ranges import Range


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that takes labels and ignores them.

    With `across_processes` the batch is that of all processes of `torch.distributed`, in equal parts. Other than
    `nn.SyncBatchNorm` it works on CPUs too, and can be differentiated twice.
    """

    across_processes = False
    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Normalize (B, C, H, W) per channel: by the batch in training, by running statistics in evaluation."""
        if self.across_processes and self.training and dist.is_initialized():
            return self._by_whole_batch(x)
        return super().forward(x)

    def _by_whole_batch(self, x: Tensor) -> Tensor:
        values = x.float()
        mean = _average(values.mean(dim=(0, 2, 3)))[:, None, None]
        variance = _average((values - mean).square().mean(dim=(0, 2, 3)))[:, None, None]
        if self.track_running_stats:
            with torch.no_grad():
                count = x.numel() // x.shape[1] * dist.get_world_size()
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean.flatten(), self.momentum)
                self.running_var.lerp_(variance.flatten() * (count / (count - 1)), self.momentum)
        normalized = (values - mean) * (variance + self.eps).rsqrt()
        if self.affine:
            normalized = normalized * self.weight[:, None, None] + self.bias[:, None, None]
        return normalized.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over processes; what depends on it depends on it on every process."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient.contiguous())


@eager
def _average(x: Tensor) -> Tensor:
    return _Sum.apply(x) / dist.get_world_size()


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
