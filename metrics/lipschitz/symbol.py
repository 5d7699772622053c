"""The symbol of a convolution: the matrix K(w) by which it acts on each frequency w, stride phases as channels.

A convolution with stride s is a stride-1 convolution of its s² input phases (polyphase form). On the infinite plane
its norm is sup_w ||K(w)||; on a circle of N positions it is the maximum over the N frequencies of that circle.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2**24  # entries of K(w) held at a time


def symbol_norm(kernel: Tensor, stride: Sequence[int], grid: Sequence[int]) -> float:
    """Return max ||K(w)|| over the frequencies of a circular `grid`, an upper bound tight to 1e-6 (relative).

    `kernel` is (O, I, kh, kw) with its dilation written out; it may be larger than the grid, then it wraps around. In
    double precision whatever the kernel's: a bound that rounding may undercut is none.
    """
    folded = _polyphase(kernel.double(), stride)  # (O, I s², kh', kw')
    if folded.shape[0] > folded.shape[1]:
        folded = folded.transpose(0, 1)  # the norm is that of the transpose, the Gram matrix is smaller
    phases = [_phases(m, k, kernel.device) for m, k in zip(grid, folded.shape[2:], strict=True)]
    half = phases[1][: grid[1] // 2 + 1]  # K(-w) is the conjugate of K(w) up to the sign of the other axis
    columns = torch.einsum("oiab,wb->woia", folded.to(half.dtype), half)  # (m_w / 2 + 1, O, I s², kh')
    best = 0.0
    rows = max(1, CHUNK // (columns[..., 0].numel()))
    for block in phases[0].split(rows):
        matrices = torch.einsum("woia,ha->hwoi", columns, block).flatten(0, 1)
        best = max(best, largest_norm(matrices, at_least=best))
    return best


def largest_norm(matrices: Tensor, at_least: float = 0.0, tolerance: float = 1e-6) -> float:
    """Return an upper bound, within `tolerance`, of the largest spectral norm of matrices (F, a, b).

    Gram iteration (Delattre et al., ICML 2023): with G = A Aᴴ, ||G^p||_F^(1/p) falls to ||G|| as p doubles, and
    (tr G^2p / tr G^p)^(1/p) rises to it. Matrices whose upper bound is below another's lower one are dropped early,
    and so are those that cannot exceed `at_least`; when none can, the result is no more than that either.
    """
    matrices = matrices.to(torch.complex128 if matrices.is_complex() else torch.float64)
    if not matrices.isfinite().all():
        return math.inf
    power = matrices @ matrices.mH
    trace = power.diagonal(dim1=1, dim2=2).real.sum(dim=1)
    alive = trace > 0
    power, trace = power[alive] / trace[alive, None, None], trace[alive].log()
    exponent, log_scale = 1, trace  # G^exponent = exp(log_scale) * power, with tr(power) = 1
    floor = 2 * math.log(at_least) if at_least > 0 else -math.inf
    while len(power):
        square_trace = power.abs().square().sum(dim=(1, 2))  # tr(power²), power being Hermitian
        lower = (square_trace.log() + log_scale) / exponent
        upper = (0.5 * square_trace.log() + log_scale) / exponent
        floor = max(floor, lower.max().item())
        if upper.max().item() <= floor + 2 * tolerance:
            return math.exp(0.5 * upper.max().item())
        alive = upper > floor
        power, log_scale, square_trace = power[alive], log_scale[alive], square_trace[alive]
        power = (power @ power) / square_trace[:, None, None]
        exponent, log_scale = 2 * exponent, 2 * log_scale + square_trace.log()
    return 0.0


def riesz_factor(taps: Sequence[int], grid: Sequence[int]) -> float:
    """Return by how much sup_w ||K(w)|| can exceed its maximum over `grid`, for a kernel of `taps` per axis.

    prod 1 / cos(d pi / N) with d = (k' - 1) / 2: Riesz's interpolation formula for trigonometric polynomials; inf
    where the grid is too coarse (N <= 2 d).
    """
    angles = [(k - 1) / 2 * math.pi / m for k, m in zip(taps, grid, strict=True)]
    return math.inf if max(angles) >= math.pi / 2 else math.prod(1 / math.cos(angle) for angle in angles)


def polyphase_taps(kernel_size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Return ceil(k / s) per axis: the taps of the stride-1 convolution of the phases."""
    return tuple(-(-k // s) for k, s in zip(kernel_size, stride, strict=True))


def _polyphase(kernel: Tensor, stride: Sequence[int]) -> Tensor:
    sh, sw = stride
    kernel = F.pad(kernel, (0, -kernel.shape[3] % sw, 0, -kernel.shape[2] % sh))
    phases = kernel.unflatten(3, (-1, sw)).unflatten(2, (-1, sh))  # (O, I, kh', sh, kw', sw)
    return phases.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def _phases(length: int, taps: int, device: torch.device) -> Tensor:
    """Return exp(-2 pi i w a / length), (length, taps)."""
    turns = torch.outer(torch.arange(length, device=device), torch.arange(taps, device=device)) % length
    angles = turns.double() * (-2 * math.pi / length)
    return torch.polar(torch.ones_like(angles), angles)
