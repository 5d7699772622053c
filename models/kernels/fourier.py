"""Preconditioners of convolution kernels in the Fourier domain."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels import switch
from models.kernels.constants import constant, fake_mode

Pair = Sequence[int]  # (height, width)


def row_spectrum(kernel: Tensor, grid: Pair) -> Tensor:
    """Return Σ_i |W^_oi|² on `grid` in double precision: (O, I, kh, kw) -> (O, m_h, m_w // 2 + 1).

    This is the DFT of the summed autocorrelation of the kernels. One small Gram matrix per output channel and O
    transforms replace O x I transforms. Double precision keeps the result accurate near a zero of the spectrum.
    """
    out_channels, _, kh, kw = kernel.shape
    gram = _gram_matrices(kernel)
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
    spectrum = _gram_matrices(kernel).flatten(1) @ _gram_to_spectrum(
        (kh, kw), grid, eps, kernel.device, fake_mode(kernel)
    )
    clamped = torch.maximum(spectrum[:, :-1], spectrum[:, -1:])
    return F.threshold(clamped, 0, 1).rsqrt().unflatten(1, (grid[0], -1))


def _gram_matrices(kernel: Tensor) -> Tensor:
    """Return the inner products of the taps of a kernel (O, I, kh, kw): (O, kh kw, kh kw), in double precision."""
    taps = kernel.double().flatten(2).transpose(1, 2)  # (O, kh kw, I)
    return taps @ taps.transpose(1, 2)


@constant
def _gram_to_spectrum(kernel_size: Pair, grid: Pair, eps: float, device: torch.device, mode: object) -> Tensor:
    """Return the matrix from Gram matrices of the taps (kh² kw²) to spectra (m_h (m_w // 2 + 1)).

    A further last column gives `eps` times the mean of the spectrum, which is the trace.
    """
    taps = (torch.arange(k, device=device) for k in kernel_size)
    lags = [tap[:, None] - tap for tap in taps]  # (kh, kh) and (kw, kw)
    h, w = turns(lags[0], grid[0], grid[0]), turns(lags[1], grid[1], grid[1] // 2 + 1)
    angles = 2 * math.pi * (h[:, None, :, None, :, None] + w[:, None, :, None])
    trace = torch.eye(math.prod(kernel_size), dtype=torch.float64, device=device).flatten()
    return torch.cat([angles.cos().flatten(0, 3).flatten(1), eps * trace[:, None]], dim=1)


def turns(positions: Tensor, period: int, count: int) -> Tensor:
    """Return w · x / 2π modulo 1 for positions x of any shape and the first `count` frequencies w of a periodic axis.

    The result has the shape of `positions` with a further last axis (count,), in double precision.
    """
    return (positions[..., None] * torch.arange(count, device=positions.device) % period).double() / period
