"""Convolution kernels in the Fourier domain: spectra, preconditioners, stride phases."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


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


def circular_filter(y: Tensor, v: Tensor) -> Tensor:
    """Return F⁻¹[V · F[y]] per channel: y is (B, O, m_h, m_w), v real, (O, m_h, m_w // 2 + 1) and even in frequency.

    A v of shape (O, 1, 1), the same at every frequency, scales the channels.
    """
    if v.shape[-2:] == (1, 1):
        return y * v
    return _filter(y, v) if v.requires_grad else _SelfAdjointFilter.apply(y, v)


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
