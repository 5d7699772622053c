"""Preconditioners of convolution kernels in the Fourier domain, and circular filters."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.kernels import switch
from models.kernels.buffers import BufferPool

Pair = Sequence[int]  # (height, width)

CHUNK_BYTES = 2**21  # size of the maps that a dense transform processes at once; they should fit into the cache


class Window(NamedTuple):
    """`count` positions of a periodic axis: `start`, `start + step`, and so on."""

    start: int
    count: int
    step: int

    def positions(self, period: int, device: torch.device | None = None) -> Tensor:
        """Return the positions (count,) in 0 .. period - 1."""
        return torch.arange(self.start, self.start + self.count * self.step, self.step, device=device) % period


def row_spectrum(kernel: Tensor, grid: Pair) -> Tensor:
    """Return Σ_i |W^_oi|² on `grid` in double precision: (O, I, kh, kw) -> (O, m_h, m_w // 2 + 1).

    This is the DFT of the summed autocorrelation of the kernels. One small Gram matrix per output channel and O
    transforms replace O x I transforms. Double precision keeps the result accurate near a zero of the spectrum.
    """
    out_channels, _, kh, kw = kernel.shape
    taps = kernel.double().flatten(2).transpose(1, 2)  # (O, kh kw, I)
    gram = taps @ taps.transpose(1, 2)  # (O, kh kw, kh kw)
    rows = torch.arange(kh, device=kernel.device).repeat_interleave(kw)
    cols = torch.arange(kw, device=kernel.device).repeat(kh)
    lag_h = (rows[:, None] - rows[None, :]) % grid[0]
    lag_w = (cols[:, None] - cols[None, :]) % grid[1]
    autocorrelation = gram.new_zeros(out_channels, grid[0] * grid[1]).index_add(
        1, (lag_h * grid[1] + lag_w).flatten(), gram.flatten(1)
    )
    return torch.fft.rfft2(autocorrelation.unflatten(1, grid)).real


def preconditioner(kernel: Tensor, grid: Pair, eps: float) -> Tensor:
    """Return V = (Σ_i |W^_oi|²)^(-1/2) on `grid`: (O, I, kh, kw) -> (O, m_h, m_w // 2 + 1), double precision.

    The spectrum is clamped from below to `eps` times its mean over the frequencies. For a filter of zeros V = 1.
    """
    spectrum = row_spectrum(kernel, grid)
    mean = kernel.double().square().sum(dim=(1, 2, 3))[:, None, None]  # Parseval
    alive = mean > 0
    return torch.where(alive, torch.maximum(spectrum, eps * mean), 1.0).rsqrt()


def circular_filter(y: Tensor, v: Tensor, window: tuple[Window, Window]) -> Tensor:
    """Return a window of F⁻¹[V · F[y]], channel by channel: (B, O, m_h, m_w) -> (B, O, h, w).

    v is real, (O, m_h, m_w // 2 + 1), and even in frequency. A v of shape (O, 1, 1) is constant over the frequencies.
    The computation has the dtype of v, the result the dtype of y.
    """
    if v.shape[-2:] == (1, 1):
        return _crop(y * v, window).to(y.dtype)
    if switch.dense_filter_is_faster(y) and not v.requires_grad:
        whole = tuple(Window(0, m, 1) for m in y.shape[-2:])
        return _DenseFilter.apply(y, v, tuple(y.shape[-2:]), whole, window)
    filtered = _filter if v.requires_grad else _SelfAdjointFilter.apply
    return _crop(filtered(y.to(v.dtype), v), window).to(y.dtype)


class _SelfAdjointFilter(torch.autograd.Function):
    """y -> F⁻¹[V · F[y]] for a real, even, constant V. It is self-adjoint: backward is the function itself."""

    @staticmethod
    def forward(ctx, y: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return _filter(y, v)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (v,) = ctx.saved_tensors
        return _SelfAdjointFilter.apply(grad, v), None


def _filter(y: Tensor, v: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(y) * v, s=y.shape[-2:])


def _crop(y: Tensor, window: tuple[Window, Window]) -> Tensor:
    for dim, (start, count, step) in zip((2, 3), window, strict=True):
        if start + (count - 1) * step < y.shape[dim]:
            y = y.narrow(dim, start, (count - 1) * step + 1)[(slice(None),) * dim + (slice(None, None, step),)]
        else:
            y = y.index_select(dim, window[dim - 2].positions(y.shape[dim], y.device))
    return y


class _DenseFilter(torch.autograd.Function):
    """The circular filter from an input window of the grid to an output window, by small matrix products.

    It processes a few images at a time, which fit into the cache, and computes only the output window. V is constant
    and the filter is self-adjoint, so backward swaps the two windows.
    """

    @staticmethod
    def forward(ctx, y: Tensor, v: Tensor, grid: Pair, inputs: tuple[Window, Window], outputs: tuple[Window, Window]):
        ctx.save_for_backward(v)
        ctx.geometry = grid, inputs, outputs
        return _dense_filter(y, v, grid, inputs, outputs)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (v,) = ctx.saved_tensors
        grid, inputs, outputs = ctx.geometry
        return _DenseFilter.apply(grad, v, grid, outputs, inputs), None, None, None, None


def _dense_filter(
    y: Tensor, v: Tensor, grid: Pair, inputs: tuple[Window, Window], outputs: tuple[Window, Window]
) -> Tensor:
    """Filter by separable Hartley transforms, in the dtype of v.

    Let T be the transform of y, and T'(p, q) = T(-p, -q). Then T + T' is 2 Re F[y](p, -q) and T - T' is
    -2 Im F[y](p, q), so the filter multiplies the first by V(p, -q) and the second by V(p, q). Channels are last in all
    intermediate results, so that they are contiguous in each product.
    """
    rows, columns = (_hartley(m, v) for m in grid)
    rows_in, columns_in = rows[:, inputs[0].positions(grid[0])], columns[:, inputs[1].positions(grid[1])]
    rows_out, columns_out = rows[outputs[0].positions(grid[0])], columns[outputs[1].positions(grid[1])]
    q = torch.arange(grid[1], device=v.device)
    half = v.shape[-1]
    folded = torch.cat([v, v[:, -torch.arange(grid[0]) % grid[0]][:, :, grid[1] - q[half:]]], dim=2)
    mirrored = folded[:, :, -q % grid[1]]
    same = ((mirrored + folded) / 2).permute(1, 2, 0).contiguous()  # (m_h, m_w, O)
    swapped = ((mirrored - folded) / 2)[:, 1:, 1:].permute(1, 2, 0).contiguous()  # V(p, 0) and V(0, q) are even
    channels = y.shape[1]
    size = (len(y), channels, len(rows_out), len(columns_out))
    out = torch.empty(size, dtype=y.dtype, device=y.device, memory_format=torch.channels_last)
    buffers = BufferPool(v)

    def multiply(matrix: Tensor, batch: Tensor, name: str) -> Tensor:
        """Return `matrix` (m, k) times each element of `batch` (n, k, l), in the buffer `name`."""
        product = buffers(name, len(batch), len(matrix), batch.shape[2])
        return torch.bmm(matrix.expand(len(batch), -1, -1), batch, out=product)

    images_at_once = max(1, CHUNK_BYTES // (same.numel() * same.element_size()))
    with torch.autocast(y.device.type, enabled=False):
        parts = (maps.permute(0, 2, 3, 1).split(images_at_once) for maps in (y, out))
        for images, result in zip(*parts, strict=True):
            n = len(images)
            t = multiply(rows_in, images.to(v.dtype).reshape(n, images.shape[1], -1), "rows")  # (n, m_h, w O)
            t = multiply(columns_in, t.view(n * grid[0], -1, channels), "columns").view(n, *same.shape)
            filtered = torch.mul(t, same, out=buffers("filtered", *t.shape))
            filtered[:, 1:, 1:].addcmul_(t[:, 1:, 1:].flip(1, 2), swapped)
            filtered = multiply(columns_out, filtered.view(n * grid[0], -1, channels), "columns out")
            result.copy_(multiply(rows_out, filtered.view(n, grid[0], -1), "rows out").view(result.shape))
    return out


def _hartley(m: int, like: Tensor) -> Tensor:
    """Return the orthonormal, symmetric matrix cas(2π p t / m) / sqrt(m), with cas = cos + sin."""
    t = torch.arange(m, dtype=torch.float64, device=like.device)
    angle = 2 * math.pi / m * (torch.outer(t, t) % m)
    return ((angle.cos() + angle.sin()) / math.sqrt(m)).to(like.dtype)
