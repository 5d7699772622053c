"""Convolutions as exact rewrites that need a quarter of the multiplications: next to resampling, and on their own.

The side doubles or halves by two. Averaging 2 x 2 pixels is a blur of which every second pixel is kept, and upsampling
is a map with zeros between its pixels, then a blur: by the box [1, 1] (nearest) or by the tent [1, 3, 3, 1] / 4
(bilinear). A blur commutes with a convolution, so the convolution moves to where it has stride 2 (StyleGAN2's order:
Karras et al., CVPR 2020, there for speed too), and the blur costs one pass over the map. Both forms are the same
function of the same parameters, up to rounding. So it is with Winograd's algorithm for a convolution on its own.

The rewrite needs to know that the layer is a plain convolution: a wrapper such as ConvNorm keeps the plain form, and so
does everything under the eyes of a hook or of a tracer, who wants to see the layer itself.
"""

from typing import TypeGuard, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from models.kernels import winograd

SMALLEST_BILINEAR = 8
"""Side of the smallest map on which the bilinear rewrite is faster: below, its edges cost more than it saves"""


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """Convolve x (B, I, H, W), by Winograd's algorithm where that is faster: (B, O, H', W')."""
    if not _is_plain_3x3(layer, x):
        return layer(x)
    if not winograd.is_faster(x, layer.out_channels, 1):
        return layer(x)
    return winograd.conv3x3(x, layer.weight, layer.bias, 1)


def conv_then_pool(layer: nn.Module, x: Tensor) -> Tensor:
    """Convolve x (B, I, H, W), then average 2 x 2 pixels: (B, O, H / 2, W / 2)."""
    if not _is_plain(layer, x):
        return F.avg_pool2d(layer(x), 2)
    padding = cast("tuple[int, int]", layer.padding)
    blurred = [min(1, p) for p in padding]  # the blur of the zeros beyond is zero again
    rest = [p - b for p, b in zip(padding, blurred, strict=True)]
    return F.conv2d(F.avg_pool2d(x, 2, 1, blurred), layer.weight, layer.bias, 2, rest, 1, layer.groups)


def upsample_then_conv(layer: nn.Module, x: Tensor, mode: str = "nearest") -> Tensor:
    """Double the side of x (B, I, H, W), then convolve: (B, O, 2H, 2W). `mode` is nearest or bilinear."""
    if not _is_plain_3x3(layer, x):
        return layer(upsample(x, mode))
    if mode == "bilinear" and min(x.shape[2:]) < SMALLEST_BILINEAR:
        return layer(upsample(x, mode))
    weight = layer.weight  # read once: a parametrization may move at each access
    # One pixel more than needed, and a tap of 0 for it: oneDNN is several times slower for an odd output in bfloat16.
    z = F.conv_transpose2d(x, weight.transpose(0, 1).flip(2, 3), stride=2, output_padding=1)
    if mode == "nearest":
        taps = (torch.arange(3, device=z.device) < 2).to(z.dtype)
        return _Blur.apply(z, layer.bias, taps, 0)
    taps = (1 - (torch.arange(5, dtype=z.dtype, device=z.device) - 1.5).abs() / 2).clamp(min=0)
    y = _Blur.apply(z, layer.bias, taps, 1)
    y = y.clone().index_add_(2, *_lacking(x, weight, 2))  # a copy: under vmap, what the blur returns is a view
    return y.index_add_(3, *_lacking(x, weight, 3))


def upsample(x: Tensor, mode: str = "nearest") -> Tensor:
    """Double the side of x (B, C, H, W). `mode` is nearest or bilinear (pixels as areas, edges repeated)."""
    return F.interpolate(x, scale_factor=2, mode=mode)


def _is_plain(layer: nn.Module, x: Tensor) -> TypeGuard[nn.Conv2d]:
    """Tell whether `layer` does no more than convolve x (B, I, H, W) with its weight, zeros around, unobserved."""
    if isinstance(x, fx.Proxy) or parametrize.type_before_parametrizations(layer) is not nn.Conv2d:
        return False
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    dense = layer.stride == (1, 1) and layer.dilation == (1, 1)
    zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return dense and zeros and x.dim() == 4 and not any(hooks)


def _is_plain_3x3(layer: nn.Module, x: Tensor) -> TypeGuard[nn.Conv2d]:
    """Tell whether `layer` is plain, dense and 3 x 3, and keeps the size of x."""
    return _is_plain(layer, x) and (layer.kernel_size, layer.padding, layer.groups) == ((3, 3), (1, 1), 1)


class _Blur(torch.autograd.Function):
    """Convolve each channel of x (B, C, H, W) with taps ⊗ taps, (n,) each, and add the bias (C,) or None.

    The transpose is a blur again, so backward is the function itself: a depthwise convolution's own second derivative
    goes channel by channel, and its first would be taken with respect to the constant taps, too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bias: Tensor | None, taps: Tensor, padding: int) -> Tensor:
        kernel = torch.outer(taps, taps).expand(x.shape[1], 1, -1, -1)
        return F.conv2d(x, kernel, bias, 1, padding, 1, x.shape[1])

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        _, _, taps, ctx.padding = inputs
        ctx.save_for_backward(taps)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (taps,) = ctx.saved_tensors
        to_x, to_bias = ctx.needs_input_grad[:2]
        blurred = _Blur.apply(grad, None, taps.flip(0), len(taps) - 1 - ctx.padding) if to_x else None
        return blurred, grad.sum((0, 2, 3)) if to_bias else None, None, None


def _lacking(x: Tensor, weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the first and last two lines of the bilinear output along `dim`, and what to add to them.

    Bilinear upsampling repeats the edges of x, and the convolution has zeros around *its* output; the blur comes from
    zeros around x. Along one axis, with kernel (a, b, c), the first two outputs lack (b - a) x / 4 and a x / 4 of the
    first pixel x, and the last two c x / 4 and (b - c) x / 4 of the last. Along the other axis the lines are as they
    should be for `dim` 2, and as the blur has them for `dim` 3: so the corners are mended once.
    """
    ends = torch.stack([x.select(dim, -1), x.select(dim, 0)]).flatten(0, 1)  # (2 B, I, N)
    if dim == 2:
        lines = F.pad(F.interpolate(ends, scale_factor=2, mode="linear"), (1, 1))
    else:
        lines = F.interpolate(F.pad(ends, (1, 1)), scale_factor=2, mode="linear")[..., 1:-1]
    windows = torch.cat([lines[..., :-2], lines[..., 1:-1], lines[..., 2:]], dim=1).mT  # (2 B, 2 N, 3 I)
    a, b, c = (weight / 4).unbind(dim)
    kernels = torch.stack([torch.cat([c, b - c]), torch.cat([b - a, a])])  # (2, 2 O, I, 3)
    lacking = windows.reshape(2, -1, 3 * x.shape[1]) @ kernels.permute(0, 3, 2, 1).flatten(1, 2)  # (2, B 2 N, 2 O)
    lacking = lacking.view(2, len(x), -1, 2, len(weight)).permute(1, 4, 0, 3, 2).flatten(2, 3)  # (B, O, 4, 2 N)
    index = torch.arange(-2, 2, device=x.device) % (2 * x.shape[dim])
    return index, lacking if dim == 2 else lacking.mT
