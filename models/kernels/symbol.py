"""The symbol of a convolution: the matrix K(w) by which it acts on a frequency w, with stride phases as channels.

A convolution of stride s is a stride-1 convolution of its input phases (polyphase form), s² of them in two dimensions.
Its operator norm on the infinite plane is sup_w ||K(w)||. On a periodic grid of N positions it is the maximum over the
N frequencies of that grid. All functions take kernels of one, two or three spatial dimensions: (O, I, *k) is (O, I, k),
(O, I, kh, kw) or (O, I, kd, kh, kw).
"""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from models.kernels.switch import reading_waits

CHUNK = 2**24  # entries of K(w) that are held in memory at once
SQUARINGS = 4  # between two tests for convergence, if a test makes the host wait


def effective_kernel_size(kernel_size: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Return the size of a kernel including the gaps of its dilation, d (k - 1) + 1 per axis."""
    return tuple(d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True))


def dilate(kernel: Tensor, dilation: Sequence[int]) -> Tensor:
    """Insert the zeros of a dilation into a kernel: (O, I, *k) -> (O, I, *(d (k - 1) + 1))."""
    if all(d == 1 for d in dilation):
        return kernel
    out = kernel.new_zeros(*kernel.shape[:2], *effective_kernel_size(kernel.shape[2:], dilation))
    out[(..., *(slice(None, None, d) for d in dilation))] = kernel
    return out


def fold_phases(kernel: Tensor, stride: Sequence[int]) -> Tensor:
    """Split a kernel into its stride phases: (O, I, *k) -> (O, I, *s, *ceil(k / s))."""
    missing = [-k % s for k, s in zip(kernel.shape[2:], stride, strict=True)]
    if any(missing):  # F.pad copies the kernel even if the padding is zero
        kernel = F.pad(kernel, [side for m in reversed(missing) for side in (0, m)])
    for axis, s in reversed(list(enumerate(stride, start=2))):
        kernel = kernel.unflatten(axis, (-1, s))  # at the end (O, I, kh', sh, kw', sw) in two dimensions
    taps = range(2, kernel.dim(), 2)
    return kernel.permute(0, 1, *(axis + 1 for axis in taps), *taps)


def polyphase_taps(kernel_size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Return ceil(k / s) per axis: the kernel size of the stride-1 convolution of the phases."""
    return tuple(-(-k // s) for k, s in zip(kernel_size, stride, strict=True))


def padding_sides(conv: _ConvNd) -> tuple[tuple[int, int], ...]:
    """Return the padding (before, after) of a convolution per axis, with 'same' and 'valid' as numbers.

    In two dimensions this is ((top, bottom), (left, right)).
    """
    last_axis_first = conv._reversed_padding_repeated_twice
    return tuple(zip(last_axis_first[::2], last_axis_first[1::2], strict=True))[::-1]


def padding_multiplicity(conv: _ConvNd, size: Sequence[int] | None) -> int:
    """Return how often the padding of `conv` repeats a pixel at most; its square root is the norm of the padding map.

    `size` is that of the input without channels, such as (H, W). With None the result holds for every size.
    """
    if conv.padding_mode == "zeros":
        return 1
    repeats = 1
    for axis, sides in enumerate(padding_sides(conv)):
        if size is None:  # replicate padding repeats the only pixel of a map of size 1 on both sides
            repeats *= 1 + sum(sides) if conv.padding_mode == "replicate" else 3
            continue
        positions = torch.arange(size[axis], dtype=torch.float32)[None, None]
        padded = F.pad(positions, sides, mode=conv.padding_mode).long().flatten()
        repeats *= int(padded.bincount().max())
    return repeats


def plane_norm(kernel: Tensor, stride: Sequence[int]) -> float:
    """Return an upper bound of a convolution's norm on the infinite plane, which also holds for any zero padding.

    `kernel` is (O, I, *k), dilated. The bound is the norm on a grid that is fine enough for a Riesz factor below
    1.01 per axis, times that factor.
    """
    taps = polyphase_taps(kernel.shape[2:], stride)
    grid = [max(8, 16 * (k - 1)) for k in taps]
    return symbol_norm(kernel, stride, grid) * riesz_factor(taps, grid)


def symbol_norm(kernel: Tensor, stride: Sequence[int], grid: Sequence[int]) -> float:
    """Return max ||K(w)|| over the frequencies of a periodic `grid`, an upper bound tight to 1e-6 (relative).

    `kernel` is (O, I, *k), dilated. It may be larger than the grid; then it wraps around. The computation is in double
    precision for a kernel of any dtype, since rounding must not push a bound below the true norm.
    """
    folded = fold_phases(kernel.double(), stride).flatten(1, len(stride) + 1)  # (O, I prod(s), *k')
    if folded.shape[0] > folded.shape[1]:
        folded = folded.transpose(0, 1)  # the transpose has the same norm and a smaller Gram matrix
    roots = [_roots_of_unity(m, k, kernel.device) for m, k in zip(grid, folded.shape[2:], strict=True)]
    roots[-1] = roots[-1][: grid[-1] // 2 + 1]  # K(-w) is the conjugate of K(w), so half of the frequencies suffice
    partial = folded.to(roots[0].dtype)[None]  # the sum over the axes so far: (frequencies, O, I prod(s), *k')
    for axis_roots in reversed(roots[1:]):
        partial = torch.einsum("foi...a,wa->wfoi...", partial, axis_roots).flatten(0, 1)
    best = 0.0
    rows = max(1, CHUNK // partial[..., 0].numel())
    for block in roots[0].split(rows):
        matrices = torch.einsum("foia,wa->wfoi", partial, block).flatten(0, 1)
        best = max(best, largest_norm(matrices, at_least=best))
    return best


def largest_norm(matrices: Tensor, at_least: float = 0.0, tolerance: float = 1e-6) -> float:
    """Return an upper bound, tight to `tolerance`, of the largest spectral norm of matrices (F, a, b).

    Gram iteration (Delattre et al., ICML 2023): with G = A Aᴴ, ||G^p||_F^(1/p) decreases to ||G|| as p doubles, and
    (tr G^2p / tr G^p)^(1/p) increases to it. A matrix is dropped as soon as its upper bound is below the lower bound
    of another matrix, or below `at_least`. If no matrix exceeds `at_least`, neither does the result. The result is
    infinite if an entry is not finite.
    """
    matrices = matrices.to(torch.complex128 if matrices.is_complex() else torch.float64)
    power = matrices @ matrices.mH
    trace = power.diagonal(dim1=1, dim2=2).real.sum(dim=1)
    # G^exponent = exp(log_scale) * power, with tr(power) = 1, or 0 for a zero matrix
    power, exponent, log_scale = _divide(power, trace), 1, trace.log()
    floor = trace.new_full((), 2 * math.log(at_least) if at_least > 0 else -math.inf)
    every = SQUARINGS if reading_waits(power) else 1
    for squarings in itertools.count():
        square_trace = power.abs().square().sum(dim=(1, 2))  # tr(power²), since power is Hermitian
        if squarings % every == every - 1:
            lower = (square_trace.log() + log_scale) / exponent
            upper = (0.5 * square_trace.log() + log_scale) / exponent
            floor = torch.maximum(floor, lower.max())
            alive = (upper > floor).sum().to(floor)
            least, most, count = torch.stack([floor, upper.max(), alive]).cpu().tolist()  # the host waits once
            if math.isnan(most):
                return math.inf
            if most <= least + 2 * tolerance:
                return math.exp(0.5 * most)
            if count < len(power):
                kept = upper.topk(int(count), sorted=False).indices
                power, log_scale, square_trace = power[kept], log_scale[kept], square_trace[kept]
        power = _divide(power @ power, square_trace)
        exponent, log_scale = 2 * exponent, 2 * log_scale + square_trace.log()
    raise AssertionError("unreachable")


def _divide(power: Tensor, trace: Tensor) -> Tensor:
    return power / torch.where(trace == 0, 1.0, trace)[:, None, None]


def riesz_factor(taps: Sequence[int], grid: Sequence[int]) -> float:
    """Return an upper bound of sup_w ||K(w)|| divided by its maximum over `grid`, for a kernel of `taps` per axis.

    Riesz's interpolation formula for trigonometric polynomials: the product of 1 / cos(d π / N) with d = (k' - 1) / 2.
    It is infinite if the grid is too coarse (N <= 2 d).
    """
    if any(k - 1 >= m for k, m in zip(taps, grid, strict=True)):
        return math.inf
    return math.prod(1 / cosine for cosine in riesz_cosines(taps, grid))


def riesz_cosines(taps: Sequence[int], grid: Sequence[int]) -> list[float]:
    """Return cos(d π / N) per axis, with d = (k' - 1) / 2; see `riesz_factor`."""
    return [math.cos((k - 1) / 2 * math.pi / m) for k, m in zip(taps, grid, strict=True)]


def _roots_of_unity(length: int, taps: int, device: torch.device) -> Tensor:
    """Return exp(-2 pi i w a / length) for each frequency w and tap a, (length, taps)."""
    turns = torch.outer(torch.arange(length, device=device), torch.arange(taps, device=device)) % length
    angles = turns.double() * (-2 * math.pi / length)
    return torch.polar(torch.ones_like(angles), angles)
