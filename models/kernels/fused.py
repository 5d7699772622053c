"""A 3x3 convolution fused with 2x resampling: the same function with fewer multiplications.

Averaging 2 x 2 pixels is a blur of which every second pixel is kept. Upsampling inserts zeros between the pixels and
then blurs, with the box [1, 1] (nearest) or the tent [1, 3, 3, 1] / 4 (bilinear). A blur commutes with a convolution,
so the convolution can run with stride 2. There are two forms, which equal the plain form up to rounding:

- The map is blurred (the order of operations in StyleGAN2: Karras et al., CVPR 2020). This has a quarter of the
  multiplications, and costs one pass over the map.
- The kernel is blurred, and becomes 4x4 (Progressive GAN: Karras et al., ICLR 2018, in the authors' code). This has
  four ninths of the multiplications, and needs no pass over the map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.kernels.constants import constant, fake_mode
from models.kernels.switch import Fusion, without_autocast


def conv_pool(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int], groups: int, blurred: Fusion
) -> Tensor:
    """Convolve x (B, I, H, W) with zero padding at stride 1, then average 2 x 2 pixels: (B, O, H' / 2, W' / 2)."""
    if blurred == "kernel":
        return F.conv2d(x, _blur_kernel(weight, 0.25), bias, 2, tuple(padding), 1, groups)
    blur_padding = [min(1, p) for p in padding]  # beyond that, the blurred map is zero
    rest = [p - b for p, b in zip(padding, blur_padding, strict=True)]
    return F.conv2d(F.avg_pool2d(x, 2, 1, blur_padding), weight, bias, 2, rest, 1, groups)


def upsample_conv(x: Tensor, weight: Tensor, bias: Tensor | None, mode: str, blurred: Fusion) -> Tensor:
    """Upsample x (B, I, H, W) by 2, then convolve with weight (O, I, 3, 3) and padding 1: (B, O, 2H, 2W).

    `mode` is nearest or bilinear. The kernel can be blurred for nearest only.
    """
    if blurred == "kernel":
        kernel = _blur_kernel(weight, 1.0, flip=True).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)
    # The output has one more pixel than needed: oneDNN is several times slower for an odd output in bfloat16.
    z = F.conv_transpose2d(x, weight.transpose(0, 1).flip(2, 3), stride=2, output_padding=1)
    if mode == "nearest":
        taps = (torch.arange(3, device=z.device) < 2).to(z.dtype)  # the third tap, 0, skips that pixel
        return _Blur.apply(z, bias, taps, 0)
    taps = (1 - (torch.arange(5, dtype=z.dtype, device=z.device) - 1.5).abs() / 2).clamp(min=0)
    y = _Blur.apply(z, bias, taps, 1)
    y = y.clone().index_add_(2, *_edge_correction(x, weight, 2))  # a copy: under vmap the blur returns a view
    return y.index_add_(3, *_edge_correction(x, weight, 3))


def _blur_kernel(weight: Tensor, factor: float, flip: bool = False) -> Tensor:
    """Return `factor` times the sum of a kernel (O, I, kh, kw) and its shifts by one tap: (O, I, kh + 1, kw + 1).

    It is in channels last, and flipped on request.
    """
    size = tuple(weight.shape[2:])
    blur = _blur_matrix(size, factor, flip, weight.dtype, weight.device, fake_mode(weight))
    with without_autocast(weight.device):
        taps = torch.bmm(blur.expand(len(weight), -1, -1), weight.permute(0, 2, 3, 1).flatten(1, 2))
    return taps.unflatten(1, [k + 1 for k in size]).permute(0, 3, 1, 2)


@constant
def _blur_matrix(
    size: tuple[int, ...], factor: float, flip: bool, dtype: torch.dtype, device: torch.device, mode: object
) -> Tensor:
    """Return the matrix from the taps of a kernel to those of the blurred kernel, ((kh + 1) (kw + 1), kh kw)."""
    rows, columns = (torch.eye(k + 1, k, device=device) + torch.eye(k + 1, k, device=device).roll(1, 0) for k in size)
    matrix = factor * torch.kron(rows, columns)
    return (matrix.flip(1) if flip else matrix).to(dtype)


class _Blur(torch.autograd.Function):
    """Convolve each channel of x (B, C, H, W) with taps ⊗ taps, where taps is (n,), and add the bias (C,) or None.

    The transpose of a blur is a blur, so backward calls the function itself. The derivatives of PyTorch's depthwise
    convolution are slower: its second derivative runs channel by channel, and its first includes the constant taps.
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


def _edge_correction(x: Tensor, weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the first and last two lines of the bilinear output along `dim`, and what to add to them.

    The plain form repeats the edges of x in bilinear upsampling, and pads the upsampled map with zeros. The fused form
    pads x with zeros. Along one axis, with kernel (a, b, c), the first two outputs lack (b - a) p / 4 and a p / 4, with
    p the first pixel. The last two lack c q / 4 and (b - c) q / 4, with q the last pixel. Along the other axis,
    the lines are upsampled with repeated edges for `dim` 2 and with zeros for `dim` 3, so that the corners are
    corrected once.
    """
    ends = torch.stack([x.select(dim, -1), x.select(dim, 0)]).flatten(0, 1)  # (2 B, I, N)
    if dim == 2:
        lines = F.pad(_upsample_lines(ends), (1, 1))
    else:
        lines = _upsample_lines(F.pad(ends, (1, 1)))[..., 1:-1]
    windows = torch.cat([lines[..., :-2], lines[..., 1:-1], lines[..., 2:]], dim=1).mT  # (2 B, 2 N, 3 I)
    a, b, c = (weight / 4).unbind(dim)
    kernels = torch.stack([torch.cat([c, b - c]), torch.cat([b - a, a])])  # (2, 2 O, I, 3)
    missing = windows.reshape(2, -1, 3 * x.shape[1]) @ kernels.permute(0, 3, 2, 1).flatten(1, 2)  # (2, B 2 N, 2 O)
    missing = missing.view(2, len(x), -1, 2, len(weight)).permute(1, 4, 0, 3, 2).flatten(2, 3)  # (B, O, 4, 2 N)
    index = torch.arange(-2, 2, device=x.device) % (2 * x.shape[dim])
    return index, missing if dim == 2 else missing.mT


def _upsample_lines(lines: Tensor) -> Tensor:
    """Upsample lines (B, C, N) by 2: (B, C, 2 N). The backward pass of mode="linear" is not deterministic on CUDA."""
    return F.interpolate(lines[:, :, None], scale_factor=(1, 2), mode="bilinear")[:, :, 0]
