"""Winograd's minimal filtering for 3x3 convolutions of stride 1 on a CPU (Lavin & Gray, CVPR 2016).

A 4 x 4 output tile takes 36 multiplications per pair of channels instead of 144. With d the 6 x 6 input pixels that it
depends on and g the kernel, and summed over the input channels,

    y = A^T [Σ (G g G^T) ⊙ (B^T d B)] A

is the same function, and its two gradients are sums of the same form. The interpolation points are 0, ±3/4, ±3/2 and
infinity. Their rounding errors are half of those of the points 0, ±1, ±2 and infinity of Lavin & Gray.
"""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from models.kernels.buffers import BufferPool

TILE = 4  # side of an output tile
TAPS = TILE + 2  # side of the input tile that it depends on
POINTS = 0.0, 0.75, -0.75, 1.5, -1.5
TILES_AT_ONCE = 256  # large enough for efficient matrix products, small enough for the cache


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Convolve x (B, I, H, W) with weight (O, I, 3, 3) and zero padding: (B, O, H + 2 p - 2, W + 2 p - 2).

    `padding` p is 0, 1 or 2. All tensors have the same dtype, or are cast by autocast. The output is in channels-last
    format. It has derivatives of any order; under vmap and in forward mode they use PyTorch's own convolution.
    """
    dtype = compute_dtype(x)
    return _Convolution.apply(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype), padding)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which PyTorch's convolution would process x: that of autocast where it is enabled."""
    casts = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    return torch.get_autocast_dtype(x.device.type) if casts else x.dtype


def tile_counts(size: torch.Size, padding: int) -> tuple[int, int]:
    """Return the rows and columns of tiles that cover the output for an input of `size` (H, W)."""
    rows, columns = (math.ceil((n + 2 * padding - 2) / TILE) for n in size)
    return rows, columns


class _Convolution(torch.autograd.Function):
    """The gradient of the input is again a convolution, with the transposed kernel."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        return _convolve(x, weight, bias, padding)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        x, weight, _, ctx.padding = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias, _ = ctx.needs_input_grad
        grad_x = _Convolution.apply(grad, _transposed_kernel(weight), None, 2 - ctx.padding) if to_x else None
        grad_weight = _WeightGradient.apply(x, grad, ctx.padding) if to_weight else None
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if to_bias else None, None

    @staticmethod
    def jvp(ctx, x_tangent: Tensor, weight_tangent: Tensor, bias_tangent: Tensor | None, _: None):
        x, weight = ctx.saved_tensors  # PyTorch passes zeros for missing tangents
        tangent = F.conv2d(x_tangent, weight, bias_tangent, padding=ctx.padding)
        return tangent + F.conv2d(x, weight_tangent, padding=ctx.padding)

    @staticmethod
    def vmap(info, in_dims: tuple, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int):
        plain = functools.partial(F.conv2d, padding=padding)
        return torch.vmap(plain, in_dims[:3])(x, weight, bias), 0


class _WeightGradient(torch.autograd.Function):
    """The gradient of `_Convolution` with respect to its weight. Its own gradients are convolutions."""

    @staticmethod
    def forward(x: Tensor, grad: Tensor, padding: int) -> Tensor:
        return _weight_gradient(x, grad, padding)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        x, grad, ctx.padding = inputs
        ctx.save_for_backward(x, grad)

    @staticmethod
    def backward(ctx, weight: Tensor):
        x, grad = ctx.saved_tensors
        to_x, to_grad, _ = ctx.needs_input_grad
        grad_x = _Convolution.apply(grad, _transposed_kernel(weight), None, 2 - ctx.padding) if to_x else None
        return grad_x, _Convolution.apply(x, weight, None, ctx.padding) if to_grad else None, None

    @staticmethod
    def vmap(info, in_dims: tuple, x: Tensor, grad: Tensor, padding: int):
        def plain(x: Tensor, grad: Tensor) -> Tensor:
            return conv2d_weight(x, (grad.shape[1], x.shape[1], 3, 3), grad, padding=padding)

        return torch.vmap(plain, in_dims[:2])(x, grad), 0


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    _, to_kernels, to_outputs = _matrices(x.dtype, POINTS)
    outputs, inputs = weight.shape[:2]
    height, width = (n + 2 * padding - 2 for n in x.shape[2:])
    rows, columns = tile_counts(x.shape[2:], padding)
    padded_shape = len(x), outputs, rows * TILE, columns * TILE
    y = torch.empty(padded_shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    bias = x.new_zeros(()) if bias is None else bias
    buffers = BufferPool(x)
    with torch.autocast("cpu", enabled=False):
        taps = weight.permute(2, 3, 1, 0).reshape(9, -1).to(to_kernels.dtype)
        kernels = (to_kernels @ taps).to(x.dtype).view(TAPS**2, inputs, outputs)
        for images, results in zip(_split(x, rows * columns), _split(y, rows * columns), strict=True):
            tiles = _input_tiles(images, padding, rows, columns, buffers)
            products = buffers("products", TAPS**2, len(tiles), outputs)
            torch.bmm(tiles.transpose(0, 1), kernels, out=products)
            tiles = _transform(to_outputs, products.transpose(0, 1), buffers("outputs", len(tiles), TILE**2, outputs))
            tiles = tiles.view(-1, rows, columns, TILE, TILE, outputs).transpose(2, 3)
            torch.add(tiles, bias, out=results.view(tiles.shape))
    cropped = y[:, :, :height, :width]
    return y if cropped.shape == padded_shape else cropped.contiguous(memory_format=torch.channels_last)


def _weight_gradient(x: Tensor, grad: Tensor, padding: int) -> Tensor:
    _, to_kernels, to_outputs = _matrices(x.dtype, POINTS)
    inputs, outputs = x.shape[1], grad.shape[1]
    rows, columns = tile_counts(x.shape[2:], padding)
    total = x.new_zeros(TAPS**2, inputs, outputs, dtype=to_kernels.dtype)
    missing = 0, columns * TILE - grad.shape[3], 0, rows * TILE - grad.shape[2]
    buffers = BufferPool(x)
    with torch.autocast("cpu", enabled=False):
        for images, grads in zip(_split(x, rows * columns), _split(grad, rows * columns), strict=True):
            tiles = _input_tiles(images, padding, rows, columns, buffers)
            whole = F.pad(grads, (0, 0, *missing)).view(-1, rows, TILE, columns, TILE, outputs).transpose(2, 3)
            parts = buffers("outputs", *whole.shape).copy_(whole).view(-1, TILE**2, outputs)
            others = _transform(to_outputs.T, parts, buffers("others", len(parts), TAPS**2, outputs))
            # Without this copy the product takes twice as long in bfloat16.
            sides = buffers("sides", TAPS**2, len(tiles), inputs).copy_(tiles.transpose(0, 1)).mT
            total += torch.bmm(sides, others.transpose(0, 1), out=buffers("products", TAPS**2, inputs, outputs))
        taps = to_kernels.T @ total.view(TAPS**2, -1)
    return taps.view(3, 3, inputs, outputs).permute(3, 2, 0, 1).to(x.dtype)


def _split(maps: Tensor, tiles: int) -> tuple[Tensor, ...]:
    """Split (B, C, H, W) into parts (b, H, W, C) of about TILES_AT_ONCE tiles, where an image has `tiles` tiles."""
    return maps.permute(0, 2, 3, 1).split(max(1, TILES_AT_ONCE // tiles))


def _input_tiles(images: Tensor, padding: int, rows: int, columns: int, buffers: BufferPool) -> Tensor:
    """Cut images (b, H, W, C) into overlapping tiles and transform them: (b rows columns, TAPS², C)."""
    count, height, width, channels = images.shape
    padded = buffers("padded", count, rows * TILE + 2, columns * TILE + 2, channels).zero_()
    padded[:, padding : padding + height, padding : padding + width] = images
    parts = padded.unfold(1, TAPS, TILE).unfold(2, TAPS, TILE).permute(0, 1, 2, 4, 5, 3)
    parts = buffers("parts", *parts.shape).copy_(parts).view(-1, TAPS**2, channels)
    return _transform(_matrices(images.dtype, POINTS)[0], parts, buffers("tiles", *parts.shape))


def _transform(matrix: Tensor, tiles: Tensor, out: Tensor) -> Tensor:
    """Write `matrix` (m, n) times each of the tiles (T, n, C) into `out` (T, m, C), and return it."""
    return torch.bmm(matrix.expand(len(tiles), -1, -1), tiles, out=out)


def _transposed_kernel(weight: Tensor) -> Tensor:
    """Return the kernels of the transposed convolution: (O, I, 3, 3) -> (I, O, 3, 3)."""
    return weight.flip(2, 3).transpose(0, 1)


@functools.cache
def _matrices(dtype: torch.dtype, points: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return B^T ⊗ B^T (36, 36), G ⊗ G (36, 9) and A^T ⊗ A^T (16, 36), the second in float32 or wider.

    With V_n the matrix of the powers 1, x, ..., x^(n - 1) of the points, A = V_4, G = V_3 and B = V_6^-1 (the transpose
    of Toom and Cook's product of polynomials). Each row of B^T is scaled to a norm near 1 by a power of two, and G by
    its inverse.
    """
    rows = [[p**i for i in range(TAPS)] for p in points]
    values = torch.tensor([*rows, [0.0] * TAPS], dtype=torch.float64, device="cpu")

    def powers(count: int) -> Tensor:
        matrix = values[:, :count].clone()
        matrix[-1, -1] = 1  # the point at infinity gives the leading coefficient
        return matrix

    to_tiles = powers(TAPS).inverse().T
    scale = to_tiles.norm(dim=1, keepdim=True).log2().round().exp2()
    matrices = to_tiles / scale, scale * powers(3), powers(TILE).T
    wide = torch.promote_types(dtype, torch.float32)
    b, g, a = (torch.kron(m, m).to(d) for m, d in zip(matrices, (dtype, wide, dtype), strict=True))
    return b, g, a
