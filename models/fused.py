"""Convolutions next to resampling."""

from torch import Tensor, nn
from torch.nn import functional as F


def conv_then_pool(layer: nn.Module, x: Tensor) -> Tensor:
    """Convolve x (B, I, H, W), then average 2 x 2 pixels: (B, O, H / 2, W / 2)."""
    return F.avg_pool2d(layer(x), 2)


def upsample_then_conv(layer: nn.Module, x: Tensor, mode: str = "nearest") -> Tensor:
    """Double the side of x (B, I, H, W), then convolve: (B, O, 2H, 2W). `mode` is nearest or bilinear."""
    return layer(upsample(x, mode))


def upsample(x: Tensor, mode: str = "nearest") -> Tensor:
    """Double the side of x (B, C, H, W). `mode` is nearest or bilinear (pixels as areas, edges repeated)."""
    return F.interpolate(x, scale_factor=2, mode=mode)
