"""The learned affine part and the running average of ConvNorm (`models.normalizations.conv_norm`)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from models.kernels.conv import CONVOLVE
from models.kernels.symbol import riesz_cosines

AFFINE_GRID = 64  # frequencies per axis at which the response of the affine kernel is evaluated
AFFINE_CHANNELS = 16  # channels for which this is done at once


class DepthwiseAffine(nn.Module):
    """The learned depthwise kernel r_o and bias c_o after the preconditioner; keeps the size of the map.

    It is initialized with a delta and the bias of `conv`, and replaces that bias. With `random` it is initialized as
    PyTorch initializes a depthwise convolution, and the bias of `conv` is added.
    """

    def __init__(self, conv: _ConvNd, random: bool):
        super().__init__()
        self.kernel_size: Sequence[int] = conv.kernel_size
        weight = conv.weight.detach()
        delta = weight.new_zeros(conv.out_channels, 1, *conv.kernel_size)
        delta[(..., *((k - 1) // 2 for k in conv.kernel_size))] = 1.0
        self.weight = nn.Parameter(delta)
        bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().clone()
        if random:  # as _ConvNd.reset_parameters, with a fan-in of prod(k)
            bound = 1 / math.sqrt(math.prod(conv.kernel_size))
            nn.init.uniform_(self.weight, -bound, bound)
            bias += torch.empty_like(bias).uniform_(-bound, bound)
        self.bias = nn.Parameter(bias)
        conv.bias = None

    def forward(self, y: Tensor) -> Tensor:
        """Map (B, O, *n) to (B, O, *n)."""
        size = self.kernel_size
        out = CONVOLVE[len(size)](y, self.weight, self.bias, padding=tuple(k // 2 for k in size), groups=y.shape[1])
        # The output for an even kernel has one extra row and column, before the position of the delta.
        return out[(..., *(slice((k + 1) % 2, None) for k in size))]

    def gains(self) -> Tensor:
        """Return an upper bound of the norm of each channel's kernel, (O,), in double precision."""
        kernel, axes = self.weight[:, 0].double(), tuple(range(1, self.weight.dim() - 1))
        grid = [AFFINE_GRID] * len(axes)
        responses = [torch.fft.rfftn(k, s=grid, dim=axes).abs().amax(dim=axes) for k in kernel.split(AFFINE_CHANNELS)]
        return torch.cat(responses) / math.prod(riesz_cosines(kernel.shape[1:], grid))


class RunningAverage(nn.Module):
    """The authors' running average of V for evaluation, with weight max(cosine ramp-down over 40000 steps, 0.01).

    The average is kept for the grid of the last training step; evaluation on another grid uses the exact V. The
    buffers take their shape from the state dict when loaded.
    """

    average: Tensor
    steps: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.empty(0))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, v: Tensor) -> Tensor:
        """In training, update the average with V (O, *m) and return V; else return the average."""
        if not self.training:
            return self.average.to(v.dtype) if self.average.shape == v.shape else v
        if self.average.shape != v.shape:
            with torch.inference_mode(False):  # or the buffer could not be updated outside of inference mode
                self.average = v.detach().clone()
            self.steps.zero_()
        progress = (self.steps / 40000).clamp(max=1)
        weight = (0.5 * (torch.cos(math.pi * progress) + 1)).clamp(min=0.01)
        self.average.lerp_(v.detach(), weight.to(v))  # in place, as a CUDA graph requires
        self.steps.add_(1)
        return v

    def _load_from_state_dict(self, state_dict, prefix, *args):
        stored = state_dict.get(prefix + "average")
        if stored is not None:
            self.average = self.average.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
