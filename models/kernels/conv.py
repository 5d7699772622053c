"""Convolutions that choose the fastest exact algorithm: `Conv2d`, alone or next to 2x resampling."""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from models.kernels import fused, switch, winograd
from models.kernels.symbol import effective_kernel_size

Upsampling = Literal["nearest", "bilinear"]

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
"""PyTorch's convolution by the number of dimensions"""


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with optional 2x resampling, computed by a faster algorithm where that is the same function.

    Parameters, initialization and state dict are those of `nn.Conv2d`. A network calls `conv(x)`, `conv_then_pool` or
    `upsample_then_conv`; hooks see the input and output of the call, whichever algorithm runs. `plain_kernels` turns
    the faster algorithms off.
    """

    def forward(self, x: Tensor, resample: Upsampling | Literal["average"] | None = None) -> Tensor:
        """Convolve x (B, I, H, W): (B, O, H', W').

        `resample` "nearest" or "bilinear" upsamples x by 2 before the convolution; "average" averages 2 x 2 pixels
        after it.
        """
        if resample is None:
            if self._keeps_size_3x3() and switch.winograd_is_faster(x, self.out_channels, 1):
                return winograd.conv3x3(x, self.weight, self.bias, 1)
            return super().forward(x)
        if resample == "average":
            if self._is_dense() and (fusion := switch.choose_resampling(x, resample)) is not None:
                padding = cast("tuple[int, int]", self.padding)
                return fused.conv_pool(x, self.weight, self.bias, padding, self.groups, fusion)
            return F.avg_pool2d(super().forward(x), 2)
        if self._keeps_size_3x3() and (fusion := switch.choose_resampling(x, resample)) is not None:
            return fused.upsample_conv(x, self.weight, self.bias, resample, fusion)
        return super().forward(upsample(x, resample))

    def _is_dense(self) -> bool:
        """Return whether the convolution has stride 1, no dilation, and zero padding given as numbers."""
        zeros = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        return zeros and self.stride == (1, 1) and self.dilation == (1, 1)

    def _keeps_size_3x3(self) -> bool:
        """Return whether the convolution is dense, ungrouped and 3x3, with padding 1."""
        return self._is_dense() and (self.kernel_size, self.padding, self.groups) == ((3, 3), (1, 1), 1)


def conv_then_pool(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply `layer` to x (B, I, H, W), then average 2 x 2 pixels: (B, O, H / 2, W / 2).

    A `Conv2d` does both at once. Any other module, such as a wrapper around a convolution, is followed by the pooling.
    """
    return layer(x, resample="average") if _resamples(layer, x) else F.avg_pool2d(layer(x), 2)


def upsample_then_conv(layer: nn.Module, x: Tensor, mode: Upsampling = "nearest") -> Tensor:
    """Upsample x (B, I, H, W) by 2, then apply `layer`: (B, O, 2H, 2W).

    A `Conv2d` does both at once. Any other module, such as a wrapper around a convolution, gets the upsampled map.
    """
    return layer(x, resample=mode) if _resamples(layer, x) else layer(upsample(x, mode))


def upsample(x: Tensor, mode: Upsampling = "nearest") -> Tensor:
    """Upsample x (B, C, H, W) by 2. Bilinear upsampling treats pixels as areas and repeats the edges."""
    if not switch.is_enabled(x):
        return F.interpolate(x, scale_factor=2, mode=mode)
    if switch.channels_last_is_faster(x):
        x = x.contiguous(memory_format=torch.channels_last)
        if mode == "nearest":  # the backward pass of `interpolate`, compiled, adds the pixels one by one
            rows = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
            return rows.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    with switch.without_autocast(x.device):  # it would convert the map to fp32
        return F.interpolate(x, scale_factor=2, mode=mode)


def conv2d(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """Convolve x (B, I, H, W) with weight (O, I / groups, kh, kw) and zero padding, by the fastest algorithm.

    The same function as `F.conv2d` without bias. `padding` may exceed the kernel.
    """
    size = effective_kernel_size(weight.shape[2:], dilation)
    dense = tuple(stride) == tuple(dilation) == (1, 1) and groups == 1
    if dense and size == (3, 3) and padding[0] == padding[1] and switch.winograd_is_faster(x, len(weight), padding[0]):
        return winograd.conv3x3(x, weight, None, padding[0])
    if switch.explicit_padding_is_faster(x, stride):
        implicit = [min(p, k // 2) for p, k in zip(padding, size, strict=True)]
        rest = [p - i for p, i in zip(padding, implicit, strict=True)]
        if any(rest):  # F.pad copies x even if the padding is zero
            x, padding = F.pad(x, (rest[1], rest[1], rest[0], rest[0])), implicit
    return F.conv2d(x, weight, None, stride, padding, dilation, groups)


def _resamples(layer: nn.Module, x: Tensor) -> bool:
    """Return whether `layer` is a `Conv2d`, parametrized or not, that should resample x itself.

    A subclass may override `forward`, and is treated as any other module.
    """
    return parametrize.type_before_parametrizations(layer) is Conv2d and switch.is_enabled(x)
