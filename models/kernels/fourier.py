"""Preconditioners of convolution kernels in the Fourier domain."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels import switch
from models.kernels.constants import constant, fake_mode
from models.kernels.polyphase import Positions

Pair = Sequence[int]  # (height, width)


def row_spectrum(kernel: Tensor, grid: Sequence[int], positions: Positions | None = None) -> Tensor:
    """Return Σ_i |W^_oi|² on `grid` in double precision: (O, I, *t) -> (O, *m), with m_n // 2 + 1 on the last axis.

    `positions` are those of the taps per axis, by default 0, 1, ..., t - 1. The result is the DFT of the summed
    autocorrelation of the kernels. One small Gram matrix per output channel and O transforms replace O x I transforms.
    Double precision keeps the result accurate near a zero of the spectrum.
    """
    gram = _gram_matrices(kernel)
    grid = tuple(grid)
    lags = _lags(positions or _dense(kernel), grid, kernel.device, fake_mode(kernel))
    autocorrelation = gram.new_zeros(len(kernel), math.prod(grid)).index_add(1, lags, gram.flatten(1))
    return torch.fft.rfftn(autocorrelation.unflatten(1, grid), dim=tuple(range(1, len(grid) + 1))).real


@constant
def _lags(positions: Positions, grid: tuple[int, ...], device: torch.device, mode: object) -> Tensor:
    """Return the differences of the positions of T taps as flat indices into the grid, (T²,)."""
    axes = torch.meshgrid([_to_tensor(axis, device) for axis in positions], indexing="ij")
    index = torch.zeros((), dtype=torch.int64, device=device)
    for taps, m in zip(axes, grid, strict=True):
        index = index * m + (taps.flatten()[:, None] - taps.flatten()) % m
    return index.flatten()


def preconditioner(kernel: Tensor, grid: Sequence[int], eps: float, positions: Positions | None = None) -> Tensor:
    """Return V = (Σ_i |W^_oi|²)^(-1/2) on `grid`: (O, I, *t) -> (O, *m), with m_n // 2 + 1 on the last axis.

    It is in double precision. `positions` are those of the taps per axis, by default 0, 1, ..., t - 1. The spectrum is
    clamped from below to `eps` times its mean over the frequencies. For a filter of zeros V = 1.
    """
    if len(grid) == 2 and switch.spectrum_by_matrix_is_faster(kernel, grid):
        return _preconditioner_by_matrix(kernel, tuple(grid), eps, positions or _dense(kernel))
    spectrum = row_spectrum(kernel, grid, positions)
    mean = kernel.double().square().sum(dim=tuple(range(1, kernel.dim()))).view(-1, *[1] * len(grid))  # Parseval
    alive = mean > 0
    return torch.where(alive, torch.maximum(spectrum, eps * mean), 1.0).rsqrt()


def _preconditioner_by_matrix(kernel: Tensor, grid: tuple[int, ...], eps: float, positions: Positions) -> Tensor:
    """Compute `preconditioner` in few operations, with a constant matrix instead of the FFT."""
    kh, kw = kernel.shape[2:]
    if (kh, kw) == (1, 1) == grid:
        norm = torch.linalg.vector_norm(kernel, dim=(1, 2), dtype=torch.float64, keepdim=True)[..., 0]
        return F.threshold(norm, 0, 1).reciprocal()
    spectrum = _gram_matrices(kernel).flatten(1) @ _gram_to_spectrum(
        positions, grid, eps, kernel.device, fake_mode(kernel)
    )
    clamped = torch.maximum(spectrum[:, :-1], spectrum[:, -1:])
    return F.threshold(clamped, 0, 1).rsqrt().unflatten(1, (grid[0], -1))


def _gram_matrices(kernel: Tensor) -> Tensor:
    """Return the inner products of the T taps of a kernel (O, I, *t): (O, T, T), in double precision."""
    taps = kernel.double().flatten(2).transpose(1, 2)  # (O, T, I)
    return taps @ taps.transpose(1, 2)


@constant
def _gram_to_spectrum(positions: Positions, grid: Pair, eps: float, device: torch.device, mode: object) -> Tensor:
    """Return the matrix from Gram matrices of the taps (th² tw²) to spectra (m_h (m_w // 2 + 1)).

    A further last column gives `eps` times the mean of the spectrum, which is the trace.
    """
    taps = (_to_tensor(axis, device) for axis in positions)
    lags = [tap[:, None] - tap for tap in taps]  # (th, th) and (tw, tw)
    h, w = turns(lags[0], grid[0], grid[0]), turns(lags[1], grid[1], grid[1] // 2 + 1)
    angles = 2 * math.pi * (h[:, None, :, None, :, None] + w[:, None, :, None])
    trace = torch.eye(math.prod(map(len, positions)), dtype=torch.float64, device=device).flatten()
    return torch.cat([angles.cos().flatten(0, 3).flatten(1), eps * trace[:, None]], dim=1)


def _dense(kernel: Tensor) -> Positions:
    """Return the positions of the taps of a kernel (O, I, *k) without gaps."""
    return tuple(tuple(range(k)) for k in kernel.shape[2:])


def _to_tensor(axis: tuple[int, ...], device: torch.device) -> Tensor:
    """Return positions as a tensor; if they have equal distances, it is made on the device, without a copy to it."""
    steps = {b - a for a, b in itertools.pairwise(axis)} or {1}
    if len(steps) == 1:
        step = steps.pop()
        return torch.arange(axis[0], axis[0] + len(axis) * step, step, device=device)
    return torch.tensor(axis, device=device)


def turns(positions: Tensor, period: int, count: int) -> Tensor:
    """Return w · x / 2π modulo 1 for positions x of any shape and the first `count` frequencies w of a periodic axis.

    The result has the shape of `positions` with a further last axis (count,), in double precision.
    """
    return (positions[..., None] * torch.arange(count, device=positions.device) % period).double() / period
