"""Circular filters of maps in the Fourier domain, by the FFT or by matrix products."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels import switch
from models.kernels.buffers import BufferPool
from models.kernels.constants import constant, fake_mode
from models.kernels.fourier import Pair, turns

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


Windows = tuple[Window, ...]
"""A window per axis"""


def circular_filter(y: Tensor, v: Tensor, window: Windows) -> Tensor:
    """Return a window of F⁻¹[V · F[y]], channel by channel: (B, O, *m) -> (B, O, *n), in one to three dimensions.

    v is real, (O, *m) with m_n // 2 + 1 on the last axis, and even in frequency. A v of shape (O, 1, ...) is constant
    over the frequencies. The result has the dtype of y. The computation has at least single precision, except for y of
    16 bits and two dimensions on a GPU.
    """
    grid = tuple(y.shape[2:])
    whole = tuple(Window(0, m, 1) for m in grid)
    wide = torch.promote_types(y.dtype, torch.float32)
    if math.prod(v.shape[1:]) == 1:
        return _crop(y * v.to(wide), window).to(y.dtype)
    if y.shape[0] == 0:  # `len` would fix the batch size in `torch.export`
        return _crop(y, window)
    if len(grid) != 2 or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return _fourier_filter(y, v.to(wide), grid, whole, window)
    if switch.filter_by_matrix_is_faster(y):
        return _matrix_filter(y, v, grid, whole, window)
    if switch.filter_by_axes_is_faster(y):
        return _separable_filter(y, v, grid, whole, window)
    return (_fourier_filter if v.requires_grad else _Filter.apply)(y, v.to(wide), grid, whole, window)


class _Filter(torch.autograd.Function):
    """The circular filter from an input window of the grid to an output window, for a constant V.

    The filter on the grid is self-adjoint, because V is real and even. Backward therefore swaps the two windows.
    """

    @staticmethod
    def forward(y: Tensor, v: Tensor, grid: Pair, inputs: Windows, outputs: Windows) -> Tensor:
        filtered = _dense_filter if switch.dense_filter_is_faster(y, grid) else _fourier_filter
        out = filtered(y, v, grid, inputs, outputs)
        return torch.ops.aten._unsafe_view(out, out.shape)  # no view for autograd, which may be changed in place

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        _, v, *ctx.geometry = inputs
        ctx.save_for_backward(v)
        ctx.save_for_forward(v)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (v,) = ctx.saved_tensors
        grid, inputs, outputs = ctx.geometry
        return _Filter.apply(grad, v, grid, outputs, inputs), None, None, None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_: None):
        (v,) = ctx.saved_tensors
        return _Filter.apply(tangent, v, *ctx.geometry)

    @staticmethod
    def vmap(info, in_dims: tuple, y: Tensor, v: Tensor, grid: Pair, inputs: Windows, outputs: Windows):
        filtered = functools.partial(_fourier_filter, grid=grid, inputs=inputs, outputs=outputs)
        return torch.vmap(filtered, in_dims[:2])(y, v), 0


def _fourier_filter(y: Tensor, v: Tensor, grid: Sequence[int], inputs: Windows, outputs: Windows) -> Tensor:
    """Filter by FFTs, in the dtype of v."""
    dims = tuple(range(2, y.dim()))
    spectrum = torch.fft.rfftn(_embed(y.to(v.dtype), grid, inputs), dim=dims) * v
    return _crop(torch.fft.irfftn(spectrum, s=grid, dim=dims), outputs).to(y.dtype)


def _crop(y: Tensor, window: Windows) -> Tensor:
    """Return the `window` of y (B, O, *m)."""
    for dim, axis in enumerate(window, start=2):
        period = y.shape[dim]
        if axis == (0, period, 1) and switch.launches_matter(y):
            continue  # elsewhere the gradient of the slice keeps its layout, on which the last digits depend
        if axis.last < period:
            length = axis.last + 1 - axis.start
            y = y.narrow(dim, axis.start, length)[(slice(None),) * dim + (slice(None, None, axis.step),)]
        else:
            y = y.index_select(dim, axis.positions(period, y.device))
    return y


def _embed(y: Tensor, grid: Sequence[int], window: Windows) -> Tensor:
    """Return a map on `grid` with y (B, O, *n) at the positions of `window` and zeros elsewhere, adjoint to `_crop`.

    Values at the same position of the grid are added.
    """
    if all(axis == (0, period, 1) for axis, period in zip(window, grid, strict=True)):
        return y
    if all(axis.step == 1 and axis.last < period for axis, period in zip(window, grid, strict=True)):
        sides = [(axis.start, period - 1 - axis.last) for axis, period in zip(window, grid, strict=True)]
        return F.pad(y, [side for pair in reversed(sides) for side in pair])
    for dim, (axis, period) in reversed(list(enumerate(zip(window, grid, strict=True), start=2))):
        size = (*y.shape[:dim], period, *y.shape[dim + 1 :])
        if axis.last < period:
            where = (slice(None),) * dim + (slice(axis.start, axis.last + 1, axis.step),)
            wide = y.new_zeros(size)
            wide[where] = y
            y = wide
        else:
            y = y.new_zeros(size).index_add(dim, axis.positions(period, y.device), y)
    return y


def _matrix_filter(y: Tensor, v: Tensor, grid: Pair, inputs: Windows, outputs: Windows) -> Tensor:
    """Filter by two matrix products, in the dtype of y.

    The first leads to the real Fourier basis, the second back. V is even, so it scales the cosine and the sine of a
    frequency alike. Channels are last in all intermediate results.
    """
    analysis, synthesis = (_fourier_basis(grid, w, y.dtype, y.device, fake_mode(y)) for w in (inputs, outputs))
    with switch.without_autocast(y.device):
        gains = v.flatten(1).mT.to(y.dtype, memory_format=torch.contiguous_format)  # (frequencies, O)
        maps = y.permute(0, 2, 3, 1).flatten(1, 2)  # (B, h w, O)
        spectra = _multiply(analysis.mT, maps).unflatten(1, (2, -1)) * gains
        filtered = _multiply(synthesis, spectra.flatten(1, 2))
    return filtered.unflatten(1, [axis.count for axis in outputs]).permute(0, 3, 1, 2)


def _separable_filter(y: Tensor, v: Tensor, grid: Pair, inputs: Windows, outputs: Windows) -> Tensor:
    """Filter by two matrix products along each axis, in the dtype of y.

    The columns are transformed to cosines and sines, and the rows of both, as real and imaginary parts, to the
    frequencies of the rows. V scales the real and the imaginary part of a frequency alike. Channels are last in all
    intermediate results.
    """
    count, (height, width), half = len(y), grid, v.shape[-1]
    (rows, columns), (rows_out, columns_out) = (
        (
            _complex_basis(height, w[0], y.dtype, y.device, fake_mode(y)),
            _real_basis(width, w[1], y.dtype, y.device, fake_mode(y)),
        )
        for w in (inputs, outputs)
    )
    with switch.without_autocast(y.device):
        gains = v.permute(1, 2, 0)[:, None].to(y.dtype, memory_format=torch.contiguous_format)  # (m_h, 1, half, O)
        maps = y.permute(0, 2, 3, 1).flatten(0, 1)  # (B h, w, O)
        spectra = _multiply(columns.mT, maps).view(count, 2 * inputs[0].count, -1)  # (B, 2 h, half O)
        spectra = _multiply(rows.mT, spectra)  # (B, 2 m_h, half O)
        spectra = spectra.view(count, height, 2, half, -1) * gains
        spectra = _multiply(rows_out, spectra.view(count, 2 * height, -1))  # (B, 2 h, half O)
        filtered = _multiply(columns_out, spectra.view(count * outputs[0].count, 2 * half, -1))  # (B h, w, O)
    return filtered.unflatten(0, (count, -1)).permute(0, 3, 1, 2)


def _multiply(matrix: Tensor, batch: Tensor) -> Tensor:
    """Multiply each element of `batch` (n, k, l) by `matrix` (m, k): (n, m, l)."""
    return torch.bmm(matrix.expand(len(batch), -1, -1), batch)


@constant
def _fourier_basis(grid: Pair, window: Windows, dtype: torch.dtype, device: torch.device, mode: object) -> Tensor:
    """Return the cosines and sines of the frequencies of `torch.fft.rfft2` at the positions of `window`.

    The matrix (h w, 2 m_h (m_w // 2 + 1)) times its transpose for the whole grid is the identity.
    """
    positions = (axis.positions(m, device) for m, axis in zip(grid, window, strict=True))
    h, w = (turns(x, m, count) for x, m, count in zip(positions, grid, (grid[0], grid[1] // 2 + 1), strict=True))
    angles = 2 * math.pi * (h[:, None, :, None] + w[:, None]).flatten(0, 1).flatten(1)
    return _orthonormal(angles, _multiplicity(grid[1], device).repeat(grid[0]) / math.prod(grid)).to(dtype)


@constant
def _real_basis(period: int, window: Window, dtype: torch.dtype, device: torch.device, mode: object) -> Tensor:
    """Return the cosines and sines of the frequencies of `torch.fft.rfft` at positions, (n, 2 (period // 2 + 1)).

    The matrix times its transpose for all positions is the identity.
    """
    angles = 2 * math.pi * turns(window.positions(period, device), period, period // 2 + 1)
    return _orthonormal(angles, _multiplicity(period, device) / period).to(dtype)


@constant
def _complex_basis(period: int, window: Window, dtype: torch.dtype, device: torch.device, mode: object) -> Tensor:
    """Return the DFT of complex numbers at positions, as a matrix of real and imaginary parts, (2 n, 2 period).

    The matrix times its transpose for all positions is the identity.
    """
    angles = 2 * math.pi * turns(window.positions(period, device), period, period)
    cos, sin = angles.cos(), angles.sin()
    parts = torch.stack([torch.stack([cos, sin], dim=-1), torch.stack([-sin, cos], dim=-1)], dim=1)  # (n, 2, period, 2)
    return (parts.flatten(2).flatten(0, 1) / math.sqrt(period)).to(dtype)


def _orthonormal(angles: Tensor, weights: Tensor) -> Tensor:
    """Return cosines and sines of angles (n, count), scaled by the roots of the frequencies' weights (count,)."""
    return torch.cat([angles.cos(), angles.sin()], dim=1) * weights.sqrt().repeat(2)


def _multiplicity(period: int, device: torch.device) -> Tensor:
    """Return how often the whole spectrum has each frequency of `torch.fft.rfft`: once or twice, as doubles."""
    frequency = torch.arange(period // 2 + 1, device=device)
    return torch.where(2 * frequency % period == 0, 1.0, 2.0).double()


def _dense_filter(y: Tensor, v: Tensor, grid: Pair, inputs: Windows, outputs: Windows) -> Tensor:
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
    with switch.without_autocast(y.device):
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
