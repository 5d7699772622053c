"""What ConvNorm may have besides its filter: the learned depthwise kernel, and the authors' running average."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseAffine(nn.Module):
    """The learned depthwise kernel r_o and bias after the preconditioner; starts as the identity plus conv's bias.

    It takes the convolution's bias over (two biases in a row would be one too many) and keeps the map's size, for
    even kernels too.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d):
        super().__init__()
        self.kernel_size: Sequence[int] = conv.kernel_size
        weight = conv.weight.detach()
        delta = weight.new_zeros(conv.out_channels, 1, *conv.kernel_size)
        delta[:, :, (conv.kernel_size[0] - 1) // 2, (conv.kernel_size[1] - 1) // 2] = 1.0
        self.weight = nn.Parameter(delta)
        bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().clone()
        self.bias = nn.Parameter(bias)
        conv.bias = None

    def forward(self, y: Tensor) -> Tensor:
        """Map (B, O, H, W) to (B, O, H, W)."""
        kh, kw = self.kernel_size
        out = F.conv2d(y, self.weight, self.bias, padding=(kh // 2, kw // 2), groups=y.shape[1])
        # An even kernel has one row and column too many; the first are those before the delta's position.
        return out[..., (kh + 1) % 2 :, (kw + 1) % 2 :]


class RunningAverage(nn.Module):
    """The authors' running average of V for evaluation, with weight max(cosine ramp-down over 40000 steps, 0.01).

    It is kept for the grid seen last in training; another grid in evaluation gets the exact V. Buffers take their
    shape from the state dict when loaded.
    """

    average: Tensor
    steps: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.empty(0))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, v: Tensor) -> Tensor:
        """In training average V (O, m_h, m_w // 2 + 1) in and return V; in evaluation return the average."""
        if not self.training:
            return self.average.to(v.dtype) if self.average.shape == v.shape else v
        if self.average.shape != v.shape:
            self.average, self.steps = v.detach().clone(), torch.zeros_like(self.steps)
        progress = (self.steps / 40000).clamp(max=1)
        weight = (0.5 * (torch.cos(math.pi * progress) + 1)).clamp(min=0.01)
        self.average = torch.lerp(self.average, v.detach(), weight.to(v))
        self.steps = self.steps + 1
        return v

    def _load_from_state_dict(self, state_dict, prefix, *args):
        stored = state_dict.get(prefix + "average")
        if stored is not None:
            self.average = self.average.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
