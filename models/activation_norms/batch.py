"""Batch normalization (Ioffe & Szegedy, ICML 2015).

The class-conditional form is from Dumoulin et al. (ICLR 2017) and de Vries et al. (NeurIPS 2017).
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.activation_norms.base import ACTIVATION_NORMS, ActivationNorm, ClassConditional
from models.kernels.eager import eager
from models.ranges import AT_LEAST_0, Range


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that accepts and ignores labels.

    If `across_processes` is True, the statistics are computed over the batches of all `torch.distributed` processes,
    which must have equal sizes. Unlike `nn.SyncBatchNorm`, this also works on CPUs and can be differentiated twice.
    """

    across_processes = False
    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Normalize x (B, C, H, W) by batch statistics in training mode and by running statistics in eval mode."""
        if self.across_processes and self.training and dist.is_initialized():
            return self._forward_across_processes(x)
        return super().forward(x)

    def _forward_across_processes(self, x: Tensor) -> Tensor:
        values = x.float()
        mean = _all_reduce_mean(values.mean(dim=(0, 2, 3)))[:, None, None]
        variance = _all_reduce_mean((values - mean).square().mean(dim=(0, 2, 3)))[:, None, None]
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


class _AllReduceSum(torch.autograd.Function):
    """Sum over all processes. Its gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _AllReduceSum.apply(gradient.contiguous())


@eager
def _all_reduce_mean(x: Tensor) -> Tensor:
    return _AllReduceSum.apply(x) / dist.get_world_size()


@ACTIVATION_NORMS.register("batch")
@dataclass(frozen=True, kw_only=True)
class BatchNormConfig(ActivationNorm):
    """Batch normalization with a learned scale and shift per channel.

    The class-conditional form computes the statistics over the whole batch, not per class.
    """

    eps: Annotated[float, Range(min=1e-12)] = 1e-5
    """Added to the variance"""
    momentum: Annotated[float, Range(min=0, max=1)] = 0.1
    """Weight of the current batch in the running statistics"""
    class_gain_std: Annotated[float, AT_LEAST_0] = 0.0
    """Standard deviation of the initial scales of the classes around 1 (torch-mimicry: 0.02)"""

    def build(self, channels: int, num_classes: int | None = None) -> nn.Module:
        """Return a batch norm for `channels` channels, class-conditional with `num_classes`."""
        norm = BatchNorm(channels, eps=self.eps, momentum=self.momentum, affine=num_classes is None)
        if num_classes is None:
            return norm
        conditional = ClassConditional(norm, channels, num_classes)
        if self.class_gain_std > 0:
            nn.init.normal_(conditional.weight, 1.0, self.class_gain_std)
        return conditional
