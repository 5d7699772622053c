"""Preconditioners of convolution kernels in the Fourier domain, and circular filters."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels import switch
from models.kernels.buffers import BufferPool
from models.kernels.constants import constant, fake_mode

Pair = Sequence[int]  # (height, width)

CHUNK_BYTES = 2**21  # size of the maps that a dense transform processes at once; they should fit into the cache


class Window(NamedTuple):
    """`count` positions of a periodic axis: `start`, `start + step`, and so on."""

    start: int
    count: int
    step: int

    @property
    def last(self) -> int:
        """The last position, before it wraps around."""
        return self.start + (self.count - 1) * self.step

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
    if switch.spectrum_by_matrix_is_faster(kernel, grid):
        return _preconditioner_by_matrix(kernel, tuple(grid), eps)
    spectrum = row_spectrum(kernel, grid)
    mean = kernel.double().square().sum(dim=(1, 2, 3))[:, None, None]  # Parseval
    alive = mean > 0
    return torch.where(alive, torch.maximum(spectrum, eps * mean), 1.0).rsqrt()


def _preconditioner_by_matrix(kernel: Tensor, grid: tuple[int, ...], eps: float) -> Tensor:
    """Compute `preconditioner` in few operations, with a constant matrix instead of the FFT."""
    kh, kw = kernel.shape[2:]
    if (kh, kw) == (1, 1) == grid:
        norm = torch.linalg.vector_norm(kernel, dim=(1, 2), dtype=torch.float64, keepdim=True)[..., 0]
        return F.threshold(norm, 0, 1).reciprocal()
    taps = kernel.double().flatten(2).transpose(1, 2)  # (O, kh kw, I)
    gram = (taps @ taps.transpose(1, 2)).flatten(1)
    spectrum = gram @ _gram_to_spectrum((kh, kw), grid, eps, kernel.device, fake_mode(kernel))
    clamped = torch.maximum(spectrum[:, :-1], spectrum[:, -1:])
    return F.threshold(clamped, 0, 1).rsqrt().unflatten(1, (grid[0], -1))


def circular_filter(y: Tensor, v: Tensor, window: tuple[Window, Window]) -> Tensor:
    """Return a window of F⁻¹[V · F[y]], channel by channel: (B, O, m_h, m_w) -> (B, O, h, w).

    v is real, (O, m_h, m_w // 2 + 1), and even in frequency. A v of shape (O, 1, 1) is constant over the frequencies.
    The result has the dtype of y. The computation has at least single precision, except for y of 16 bits on a GPU.
    """
    grid = tuple(y.shape[-2:])
    if v.shape[-2:] != (1, 1) and switch.filter_by_matrix_is_faster(y):
        return _matrix_filter(y, v, grid, window)
    if v.shape[-2:] != (1, 1) and switch.filter_by_axes_is_faster(y):
        return _separable_filter(y, v, grid, window)
    v = v.to(torch.promote_types(y.dtype, torch.float32))
    if v.shape[-2:] == (1, 1):
        return _crop(y * v, window).to(y.dtype)
    whole = (Window(0, grid[0], 1), Window(0, grid[1], 1))
    return (_fourier_filter if v.requires_grad else _Filter.apply)(y, v, grid, whole, window)


class _Filter(torch.autograd.Function):
    """The circular filter from an input window of the grid to an output window, for a constant V.

    The filter on the grid is self-adjoint, because V is real and even. Backward therefore swaps the two windows.
    """

    @staticmethod
    def forward(ctx, y: Tensor, v: Tensor, grid: Pair, inputs: tuple[Window, Window], outputs: tuple[Window, Window]):
        ctx.save_for_backward(v)
        ctx.geometry = grid, inputs, outputs
        filtered = _dense_filter if switch.dense_filter_is_faster(y, grid) else _fourier_filter
        out = filtered(y, v, grid, inputs, outputs)
        return torch.ops.aten._unsafe_view(out, out.shape)  # no view for autograd, which may be changed in place

    @staticmethod
    def backward(ctx, grad: Tensor):
        (v,) = ctx.saved_tensors
        grid, inputs, outputs = ctx.geometry
        return _Filter.apply(grad, v, grid, outputs, inputs), None, None, None, None


def _fourier_filter(
    y: Tensor, v: Tensor, grid: Pair, inputs: tuple[Window, Window], outputs: tuple[Window, Window]
) -> Tensor:
    """Filter by FFTs, in the dtype of v."""
    spectrum = torch.fft.rfft2(_embed(y.to(v.dtype), grid, inputs)) * v
    return _crop(torch.fft.irfft2(spectrum, s=grid), outputs).to(y.dtype)


def _crop(y: Tensor, window: tuple[Window, Window]) -> Tensor:
    """Return the `window` of y (B, O, m_h, m_w)."""
    for dim, axis in zip((2, 3), window, strict=True):
        period = y.shape[dim]
        if axis == (0, period, 1) and switch.launches_matter(y):
            continue  # elsewhere the gradient of the slice keeps its layout, on which the last digits depend
        if axis.last < period:
            length = axis.last + 1 - axis.start
            y = y.narrow(dim, axis.start, length)[(slice(None),) * dim + (slice(None, None, axis.step),)]
        else:
            y = y.index_select(dim, axis.positions(period, y.device))
    return y


def _embed(y: Tensor, grid: Pair, window: tuple[Window, Window]) -> Tensor:
    """Return a map on `grid` with y (B, O, h, w) at the positions of `window` and zeros elsewhere, adjoint to `_crop`.

    Values at the same position of the grid are added.
    """
    if all(axis == (0, period, 1) for axis, period in zip(window, grid, strict=True)):
        return y
    if all(axis.step == 1 and axis.last < period for axis, period in zip(window, grid, strict=True)):
        (top, bottom), (left, right) = (
            (axis.start, period - 1 - axis.last) for axis, period in zip(window, grid, strict=True)
        )
        return F.pad(y, (left, right, top, bottom))
    for dim, axis, period in zip((3, 2), reversed(window), reversed(grid), strict=True):
        size = (*y.shape[:dim], period, *y.shape[dim + 1 :])
        if axis.last < period:
            where = (slice(None),) * dim + (slice(axis.start, axis.last + 1, axis.step),)
            wide = y.new_zeros(size)
            wide[where] = y
            y = wide
        else:
            y = y.new_zeros(size).index_add(dim, axis.positions(period, y.device), y)
    return y


def _matrix_filter(y: Tensor, v: Tensor, grid: tuple[int, ...], window: tuple[Window, Window]) -> Tensor:
    """Filter by two matrix products in the dtype of y, from the whole grid to `window`.

    The first leads to the real Fourier basis, the second back. V is even, so it scales the cosine and the sine of a
    frequency alike. Channels are last in all intermediate results.
    """
    whole = (Window(0, grid[0], 1), Window(0, grid[1], 1))
    analysis, synthesis = (_fourier_basis(grid, w, y.dtype, y.device, fake_mode(y)) for w in (whole, window))
    with torch.autocast(y.device.type, enabled=False):
        gains = v.flatten(1).mT.to(y.dtype, memory_format=torch.contiguous_format)  # (frequencies, O)
        maps = y.permute(0, 2, 3, 1).flatten(1, 2)  # (B, m_h m_w, O)
        spectra = _multiply(analysis.mT, maps).unflatten(1, (2, -1)) * gains
        filtered = _multiply(synthesis, spectra.flatten(1, 2))
    return filtered.unflatten(1, [axis.count for axis in window]).permute(0, 3, 1, 2)


def _separable_filter(y: Tensor, v: Tensor, grid: tuple[int, ...], window: tuple[Window, Window]) -> Tensor:
    """Filter by two matrix products along each axis in the dtype of y, from the whole grid to `window`.

    The columns are transformed to cosines and sines, and the rows of both, as real and imaginary parts, to the
    frequencies of the rows. V scales the real and the imaginary part of a frequency alike. Channels are last in all
    intermediate results.
    """
    count, (height, width), half = len(y), grid, v.shape[-1]
    whole = (Window(0, height, 1), Window(0, width, 1))
    (rows, columns), (rows_out, columns_out) = (
        (
            _complex_basis(height, w[0], y.dtype, y.device, fake_mode(y)),
            _real_basis(width, w[1], y.dtype, y.device, fake_mode(y)),
        )
        for w in (whole, window)
    )
    with torch.autocast(y.device.type, enabled=False):
        gains = v.permute(1, 2, 0)[:, None].to(y.dtype, memory_format=torch.contiguous_format)  # (m_h, 1, half, O)
        maps = y.permute(0, 2, 3, 1).flatten(0, 1)  # (B m_h, m_w, O)
        spectra = _multiply(rows.mT, _multiply(columns.mT, maps).view(count, 2 * height, -1))  # (B, 2 m_h, half O)
        spectra = spectra.view(count, height, 2, half, -1) * gains
        spectra = _multiply(rows_out, spectra.view(count, 2 * height, -1))  # (B, 2 h, half O)
        filtered = _multiply(columns_out, spectra.view(count * window[0].count, 2 * half, -1))  # (B h, w, O)
    return filtered.unflatten(0, (count, -1)).permute(0, 3, 1, 2)


def _multiply(matrix: Tensor, batch: Tensor) -> Tensor:
    """Multiply each element of `batch` (n, k, l) by `matrix` (m, k): (n, m, l)."""
    return torch.bmm(matrix.expand(len(batch), -1, -1), batch)


@constant
def _gram_to_spectrum(kernel_size: Pair, grid: Pair, eps: float, device: torch.device, mode: object) -> Tensor:
    """Return the matrix from Gram matrices of the taps (kh² kw²) to spectra (m_h (m_w // 2 + 1)).

    A further last column gives `eps` times the mean of the spectrum, which is the trace.
    """
    taps = [torch.arange(k, device=device) for k in kernel_size]
    trace = torch.eye(math.prod(kernel_size), dtype=torch.float64, device=device).flatten()
    return torch.cat([_angles(grid, taps, taps).cos(), eps * trace[:, None]], dim=1)


@constant
def _fourier_basis(
    grid: Pair, window: tuple[Window, Window], dtype: torch.dtype, device: torch.device, mode: object
) -> Tensor:
    """Return the cosines and sines of the frequencies of `torch.fft.rfft2` at the positions of `window`.

    The matrix (h w, 2 m_h (m_w // 2 + 1)) times its transpose for the whole grid is the identity.
    """
    origin = [torch.zeros(1, dtype=torch.int64, device=device)] * 2
    angles = _angles(grid, [axis.positions(m, device) for m, axis in zip(grid, window, strict=True)], origin)
    column = torch.arange(grid[1] // 2 + 1, device=device)
    multiplicity = torch.where(2 * column % grid[1] == 0, 1.0, 2.0).double().repeat(grid[0])  # in the whole spectrum
    basis = torch.cat([angles.cos(), angles.sin()], dim=1)
    return (basis * (multiplicity / math.prod(grid)).sqrt().repeat(2)).to(dtype)


@constant
def _real_basis(period: int, window: Window, dtype: torch.dtype, device: torch.device, mode: object) -> Tensor:
    """Return the cosines and sines of the frequencies of `torch.fft.rfft` at positions, (n, 2 (period // 2 + 1)).

    The matrix times its transpose for all positions is the identity.
    """
    frequency = torch.arange(period // 2 + 1, device=device)
    angles = 2 * math.pi / period * (window.positions(period, device)[:, None] * frequency % period).double()
    multiplicity = torch.where(2 * frequency % period == 0, 1.0, 2.0).double()  # in the whole spectrum
    return (torch.cat([angles.cos(), angles.sin()], dim=1) * (multiplicity / period).sqrt().repeat(2)).to(dtype)


@constant
def _complex_basis(period: int, window: Window, dtype: torch.dtype, device: torch.device, mode: object) -> Tensor:
    """Return the DFT of complex numbers at positions, as a matrix of real and imaginary parts, (2 n, 2 period).

    The matrix times its transpose for all positions is the identity.
    """
    positions, frequency = window.positions(period, device), torch.arange(period, device=device)
    angles = 2 * math.pi / period * (positions[:, None] * frequency % period).double()
    cos, sin = angles.cos(), angles.sin()
    parts = torch.stack([torch.stack([cos, sin], dim=-1), torch.stack([-sin, cos], dim=-1)], dim=1)  # (n, 2, period, 2)
    return (parts.flatten(2).flatten(0, 1) / math.sqrt(period)).to(dtype)


def _angles(grid: Pair, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return the angles w · (a - b) in double precision, (a_h a_w b_h b_w, m_h (m_w // 2 + 1)).

    a and b are positions (rows, columns) on `grid`, and w are the frequencies of `torch.fft.rfft2`.
    """
    h, w = (
        ((a[i][:, None] - b[i])[..., None] * torch.arange(count, device=a[i].device) % grid[i]).double() / grid[i]
        for i, count in enumerate((grid[0], grid[1] // 2 + 1))
    )
    turns = h[:, None, :, None, :, None] + w[:, None, :, None]
    return (2 * math.pi * turns).flatten(0, 3).flatten(1)


def _dense_filter(
    y: Tensor, v: Tensor, grid: Pair, inputs: tuple[Window, Window], outputs: tuple[Window, Window]
) -> Tensor:
    """Filter by separable Hartley transforms, in the dtype of v.

    It processes a few images at a time, which fit into the cache, and computes only the output window.

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
