"""Convolution kernels in the Fourier domain: spectra, preconditioners, stride phases."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels.buffers import Scratch

Pair = Sequence[int]  # two of them, for the height and the width

DENSE_LIMIT = 64  # largest side of a grid on which a dense transform beats the FFT on a CPU
CHUNK_BYTES = 2**21  # of maps that such a transform works on at once, to stay in cache


class Window(NamedTuple):
    """`count` positions of a periodic axis from `start` on, every `step`-th."""

    start: int
    count: int
    step: int

    def positions(self, period: int, device: torch.device | None = None) -> Tensor:
        """Return the positions (count,) in 0 .. period - 1."""
        return torch.arange(self.start, self.start + self.count * self.step, self.step, device=device) % period


def row_spectrum(kernel: Tensor, grid: Pair) -> Tensor:
    """Return Σ_i |W^_oi|² on `grid` in double precision: (O, I, kh, kw) -> (O, m_h, m_w // 2 + 1).

    It is the DFT of the summed autocorrelation of the kernels, so one small Gram matrix per output channel and
    O transforms replace O x I transforms. Double precision keeps it accurate near a spectral null.
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

    The spectrum is floored at `eps` times its mean over the frequencies. A dead filter (all zeros) gets V = 1.
    """
    spectrum = row_spectrum(kernel, grid)
    mean = kernel.double().square().sum(dim=(1, 2, 3))[:, None, None]  # Parseval
    alive = mean > 0
    return torch.where(alive, torch.maximum(spectrum, eps * mean), 1.0).rsqrt()


def circular_filter(y: Tensor, v: Tensor, window: tuple[Window, Window]) -> Tensor:
    """Return a window of F⁻¹[V · F[y]], channel by channel: (B, O, m_h, m_w) -> (B, O, h, w).

    v is real, (O, m_h, m_w // 2 + 1) and even in frequency; of shape (O, 1, 1) it is the same at every frequency. The
    work is done in v's precision; the result has y's.
    """
    if v.shape[-2:] == (1, 1):
        return _crop(y * v, window).to(y.dtype)
    small = max(y.shape[-2:]) <= DENSE_LIMIT
    if y.device.type == "cpu" and small and not (v.requires_grad or torch.compiler.is_compiling()):
        everything = tuple(Window(0, m, 1) for m in y.shape[-2:])
        return _DenseFilter.apply(y, v, tuple(y.shape[-2:]), everything, window)
    filtered = _filter if v.requires_grad else _SelfAdjointFilter.apply
    return _crop(filtered(y.to(v.dtype), v), window).to(y.dtype)


class _SelfAdjointFilter(torch.autograd.Function):
    """y -> F⁻¹[V · F[y]] for a real, even, constant V: self-adjoint, so its backward is itself and saves only V."""

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
    """The filter between a window of the grid on which y is given and one on which it is wanted, by small GEMMs.

    On a CPU, with maps of GAN size, faster than the FFT: it works in cache, on a few images at a time, and crops and
    subsamples for nothing. V is constant and the filter self-adjoint, so backward only swaps the windows.
    """

    @staticmethod
    def forward(ctx, y: Tensor, v: Tensor, grid: Pair, given: tuple[Window, Window], wanted: tuple[Window, Window]):
        ctx.save_for_backward(v)
        ctx.geometry = grid, given, wanted
        return _dense_filter(y, v, grid, given, wanted)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (v,) = ctx.saved_tensors
        grid, given, wanted = ctx.geometry
        return _DenseFilter.apply(grad, v, grid, wanted, given), None, None, None, None


def _dense_filter(
    y: Tensor, v: Tensor, grid: Pair, given: tuple[Window, Window], wanted: tuple[Window, Window]
) -> Tensor:
    """Filter by separable Hartley transforms: with T the transform of y and T'(p, q) = T(-p, -q), the part T + T' is
    Re F[y](p, -q) and T - T' is -Im F[y](p, q) (twice), so V multiplies them by V(p, -q) and V(p, q).

    Channels come last throughout, so that each product has them side by side. It computes in V's precision.
    """
    rows, columns = (_hartley(m, v) for m in grid)
    rows_in, columns_in = rows[:, given[0].positions(grid[0])], columns[:, given[1].positions(grid[1])]
    rows_out, columns_out = rows[wanted[0].positions(grid[0])], columns[wanted[1].positions(grid[1])]
    q = torch.arange(grid[1], device=v.device)
    half = v.shape[-1]
    folded = torch.cat([v, v[:, -torch.arange(grid[0]) % grid[0]][:, :, grid[1] - q[half:]]], dim=2)
    mirrored = folded[:, :, -q % grid[1]]
    same = ((mirrored + folded) / 2).permute(1, 2, 0).contiguous()  # (m_h, m_w, O)
    swapped = ((mirrored - folded) / 2)[:, 1:, 1:].permute(1, 2, 0).contiguous()  # V(p, 0) and V(0, q) are even
    channels = y.shape[1]
    size = (len(y), channels, len(rows_out), len(columns_out))
    out = torch.empty(size, dtype=y.dtype, device=y.device, memory_format=torch.channels_last)
    scratch = Scratch(v)

    def left(matrix: Tensor, batch: Tensor, name: str) -> Tensor:
        """Multiply each of a batch (n, k, l) by `matrix` (m, k) from the left, into the memory of `name`."""
        out = scratch(name, len(batch), len(matrix), batch.shape[2])
        return torch.bmm(matrix.expand(len(batch), -1, -1), batch, out=out)

    at_once = max(1, CHUNK_BYTES // (same.numel() * same.element_size()))
    with torch.autocast(y.device.type, enabled=False):
        parts = (maps.permute(0, 2, 3, 1).split(at_once) for maps in (y, out))
        for images, result in zip(*parts, strict=True):
            n = len(images)
            t = left(rows_in, images.to(v.dtype).reshape(n, images.shape[1], -1), "rows")  # (n, m_h, w O)
            t = left(columns_in, t.view(n * grid[0], -1, channels), "columns").view(n, *same.shape)
            filtered = torch.mul(t, same, out=scratch("filtered", *t.shape))
            filtered[:, 1:, 1:].addcmul_(t[:, 1:, 1:].flip(1, 2), swapped)
            filtered = left(columns_out, filtered.view(n * grid[0], -1, channels), "columns out")
            result.copy_(left(rows_out, filtered.view(n, grid[0], -1), "rows out").view(result.shape))
    return out


def _hartley(m: int, like: Tensor) -> Tensor:
    """Return the orthonormal, symmetric matrix cas(2π p t / m) / sqrt(m), with cas = cos + sin."""
    t = torch.arange(m, dtype=torch.float64, device=like.device)
    angle = 2 * math.pi / m * (torch.outer(t, t) % m)
    return ((angle.cos() + angle.sin()) / math.sqrt(m)).to(like.dtype)


def dilate(kernel: Tensor, dilation: Sequence[int]) -> Tensor:
    """Return the kernel with its zeros written out: (O, I, kh, kw) -> (O, I, dh (kh - 1) + 1, dw (kw - 1) + 1)."""
    if tuple(dilation) == (1, 1):
        return kernel
    dh, dw = dilation
    out = kernel.new_zeros(*kernel.shape[:2], dh * (kernel.shape[2] - 1) + 1, dw * (kernel.shape[3] - 1) + 1)
    out[..., ::dh, ::dw] = kernel
    return out


def fold_phases(kernel: Tensor, stride: Sequence[int]) -> Tensor:
    """Split a kernel into its stride phases: (O, I, kh, kw) -> (O, I, sh, sw, ceil(kh / sh), ceil(kw / sw))."""
    sh, sw = stride
    kernel = F.pad(kernel, (0, -kernel.shape[3] % sw, 0, -kernel.shape[2] % sh))
    kernel = kernel.unflatten(3, (-1, sw)).unflatten(2, (-1, sh))  # (O, I, kh', sh, kw', sw)
    return kernel.permute(0, 1, 3, 5, 2, 4)
