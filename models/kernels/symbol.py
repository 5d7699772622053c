"""The symbol of a convolution: the matrix K(w) by which it acts on a frequency w, with stride phases as channels.

A convolution of stride s is a stride-1 convolution of its input phases (polyphase form), s² of them in two dimensions.
Its operator norm on the infinite plane is sup_w ||K(w)||. On a periodic grid of N positions it is the maximum over the
N frequencies of that grid. All functions take kernels of one, two or three spatial dimensions: (O, I, *k) is (O, I, k),
(O, I, kh, kw) or (O, I, kd, kh, kw).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from models.kernels.eigenvalues import largest_eigenvalue


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


def padding_multiplicity(conv: _ConvNd, size: Sequence[int]) -> int:
    """Return how often the padding of `conv` repeats a pixel at most; its square root is the norm of the padding map.

    `size` is that of the input without channels, such as (H, W).
    """
    if conv.padding_mode == "zeros":
        return 1
    repeats = 1
    for axis, sides in enumerate(padding_sides(conv)):
        positions = torch.arange(size[axis], dtype=torch.float32)[None, None]
        padded = F.pad(positions, sides, mode=conv.padding_mode).long().flatten()
        repeats *= int(padded.bincount().max())
    return repeats


def plane_norm(kernel: Tensor, stride: Sequence[int], groups: int = 1) -> float:
    """Return an upper bound of a convolution's norm on the infinite plane, which also holds for any zero padding.

    `kernel` is (O, I / groups, *k), dilated. The bound is the norm on a grid that is fine enough for a Riesz factor
    below 1.01 per axis, times that factor, or the one of `autocorrelation_bound` if it is smaller.
    """
    grid = plane_grid(kernel.shape[2:], stride)
    bound = symbol_norm(kernel, stride, grid, groups) * riesz_factor(polyphase_taps(kernel.shape[2:], stride), grid)
    if not math.isfinite(bound) or max(grid) == 1:
        return bound
    return min(bound, autocorrelation_bound(kernel, stride, groups, bound))


def autocorrelation_bound(kernel: Tensor, stride: Sequence[int], groups: int, largest: float) -> float:
    """Return an upper bound of a convolution's norm on the infinite plane, or infinity if it would exceed `largest`.

    K(w) K(w)ᴴ is a sum of R_l exp(-i w l) over the lags l, with the autocorrelation R of the kernel. It has no entries
    above those of the matrix Σ_l |R_l|, nor a larger norm. This also holds for K(w)ᴴ K(w). The bound is tight for
    orthogonal kernels, and is 1 for those of Prach & Lampert (ECCV 2022). `kernel` is (O, I / groups, *k), dilated.
    """
    folded, scale = _normalize(fold_phases(kernel.double(), stride).flatten(1, len(stride) + 1))
    places = _positions(folded.shape[2:]).to(folded.device)
    taps = folded.unflatten(0, (groups, -1)).flatten(3).movedim(3, 1)  # (groups, T, O, I)
    bound = math.inf
    for blocks in (taps, taps.mT):
        at_zero = torch.einsum("gtnm,gtkm->gnk", blocks, blocks).abs()
        if scale * math.sqrt(at_zero.sum(dim=(1, 2)).max().item() / blocks.shape[2]) > min(bound, largest):
            continue  # the mean of the row sums is at most the norm
        _, lags = _autocorrelation(blocks, places)
        sums = lags.abs_().sum(dim=1)
        bound = min(bound, scale * math.sqrt(largest_norm(sums + sums.mT)))
    return bound


def plane_grid(kernel_size: Sequence[int], stride: Sequence[int]) -> list[int]:
    """Return the frequencies per axis of `plane_norm`. A single one suffices along an axis with one tap."""
    return [16 * (k - 1) if k > 1 else 1 for k in polyphase_taps(kernel_size, stride)]


def symbol_norm(kernel: Tensor, stride: Sequence[int], grid: Sequence[int], groups: int = 1) -> float:
    """Return max ||K(w)|| over the frequencies of a periodic `grid`, an upper bound tight to 1e-6 (relative).

    `kernel` is (O, I / groups, *k), dilated. It may be larger than the grid; then it wraps around. The computation is
    in double precision for a kernel of any dtype, since rounding must not push a bound below the true norm.
    """
    folded = fold_phases(kernel.double(), stride).flatten(1, len(stride) + 1)  # (O, I prod(s) / groups, *k')
    folded, scale = _normalize(folded)
    if not math.isfinite(scale):
        return math.inf
    folded = folded.unflatten(0, (groups, -1))
    if folded.shape[1] > folded.shape[2]:
        folded = folded.transpose(1, 2)  # the transpose has the same norm and smaller Gram matrices
    return scale * math.sqrt(_largest_square(folded, grid))


def _largest_square(kernel: Tensor, grid: Sequence[int]) -> float:
    """Return an upper bound of the eigenvalues of K(w) K(w)ᴴ for the frequencies w of `grid` and all groups.

    `kernel` is (groups, n, m, *k). K(-w) is the conjugate of K(w), so half of the frequencies suffice. The matrix is
    the sum of R_l exp(-i w l) over the lags l, with the autocorrelation R of the kernel, except if the frequencies are
    so few that K(w) itself is cheaper.
    """
    taps = kernel.shape[3:]
    grid = [m if k > 1 else 1 for m, k in zip(grid, taps, strict=True)]  # K(w) is constant along an axis with one tap
    frequencies = _positions([*grid[:-1], grid[-1] // 2 + 1]).to(kernel.device)
    places = _positions(taps).to(kernel.device)
    blocks = kernel.flatten(3).movedim(3, 1)  # the taps (groups, T, n, m)
    count, unit = len(frequencies) * len(kernel), torch.finfo(torch.float32).eps / 2
    if 4 * len(frequencies) < len(places) ** 2:
        taps_of_groups = torch.complex(blocks, torch.zeros_like(blocks))

        def multiply(indices: Tensor, dtype: torch.dtype) -> Tensor:
            group, where = indices // len(frequencies), indices % len(frequencies)
            angles = _angles(frequencies[where.to(kernel.device)], places, grid)
            symbol = _combine(torch.complex(angles.cos(), -angles.sin()), taps_of_groups, group)
            return _as_complex(symbol @ symbol.mH, dtype)

        square = blocks.flatten(2).norm(dim=2).sum(dim=1).max().item() ** 2  # at least the Frobenius norm of K(w)
        return largest_eigenvalue(multiply, count, max(kernel.shape[1:3]), unit * square)

    lags, products = _autocorrelation(blocks, places)
    parts = products + products.mT, products.mT - products
    single = [part.float() for part in parts]

    def add(indices: Tensor, dtype: torch.dtype) -> Tensor:
        group, where = indices // len(frequencies), indices % len(frequencies)
        angles = _angles(frequencies[where.to(kernel.device)], lags, grid)
        even, odd = parts if dtype is torch.float64 else single
        real = _combine(angles.cos().to(dtype), even, group)
        return real if len(lags) == 1 else torch.complex(real, _combine(angles.sin().to(dtype), odd, group))

    # The entries are sums of L products, and the lags have two terms each in the real and in the imaginary part.
    error = (4 * len(lags) + 12) * unit * products.abs().sum(dim=1).norm(dim=(1, 2)).max().item()
    return largest_eigenvalue(add, count, kernel.shape[1], error)


def _combine(waves: Tensor, parts: Tensor, group: Tensor) -> Tensor:
    """Return Σ_l waves_fl parts_gl, (F, a, b), for waves (F, L), parts (groups, L, a, b) and the groups g (F,)."""
    if len(parts) == 1:
        return (waves @ parts[0].flatten(1)).unflatten(1, parts.shape[2:])
    combined = waves.new_empty(len(waves), *parts.shape[2:])
    for g in group.unique().tolist():
        where = (group == g).nonzero()[:, 0].to(waves.device)
        combined[where] = (waves[where] @ parts[g].flatten(1)).unflatten(1, parts.shape[2:])
    return combined


def _as_complex(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    return matrices.to(torch.complex64) if dtype is torch.float32 else matrices


def _positions(sizes: Sequence[int]) -> Tensor:
    """Return all positions of a grid, (prod(sizes), axes)."""
    return torch.cartesian_prod(*(torch.arange(size) for size in sizes)).view(-1, len(sizes))


def _autocorrelation(blocks: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lags l (L, axes) of a kernel up to sign, and R_l = Σ W_a W_bᵀ over a - b = l, (groups, L, n, n).

    `blocks` are the taps W_a (groups, T, n, m), at `places` (T, axes). R at lag 0 is halved.
    """
    extents = places.amax(dim=0) + 1
    weights = (2 * extents).flip(0).cumprod(0).flip(0).roll(-1)  # a lag as one number, whose sign is that of the lag
    weights[-1] = 1
    sums: dict[int, Tensor] = {}
    keys = ((places[:, None] - places) * weights).sum(dim=2).tolist()
    for a, row in enumerate(keys):
        wanted = [b for b, key in enumerate(row) if key >= 0]
        products = torch.einsum("gnm,gbkm->gbnk", blocks[:, a], blocks[:, wanted])
        for i, b in enumerate(wanted):
            known = sums.get(row[b])
            sums[row[b]] = products[:, i] if known is None else known.add_(products[:, i])
    sums[0] = sums[0] / 2
    first = {key: (a, b) for a, row in enumerate(keys) for b, key in enumerate(row) if key >= 0}
    lags = torch.stack([places[a] - places[b] for a, b in (first[key] for key in sums)])
    return lags, torch.stack(list(sums.values()), dim=1)


def _angles(frequencies: Tensor, places: Tensor, grid: Sequence[int]) -> Tensor:
    """Return 2 pi Σ w x / m for frequencies w (F, axes) and places x (L, axes) of a grid of m positions, (F, L)."""
    turns = torch.zeros(len(frequencies), len(places), dtype=torch.float64, device=frequencies.device)
    for axis, m in enumerate(grid):
        turns += (torch.outer(frequencies[:, axis], places[:, axis]) % m).double() / m
    return 2 * math.pi * turns


def largest_norm(matrices: Tensor) -> float:
    """Return an upper bound, tight to 1e-6 (relative), of the largest spectral norm of matrices (..., a, b).

    The result is infinite if an entry is not finite.
    """
    matrices, scale = _normalize(matrices.reshape(-1, *matrices.shape[-2:]))
    if not math.isfinite(scale):
        return math.inf
    wide = matrices.shape[1] <= matrices.shape[2]

    def multiply(indices: Tensor, dtype: torch.dtype) -> Tensor:
        part = matrices[indices.to(matrices.device)]
        part = part.to(torch.complex128 if part.is_complex() else torch.float64)
        gram = part @ part.mH if wide else part.mH @ part
        return _as_complex(gram, dtype) if gram.is_complex() else gram.to(dtype)

    error = torch.finfo(torch.float32).eps / 2 * matrices.abs().double().square().sum(dim=(1, 2)).max().item()
    return scale * math.sqrt(largest_eigenvalue(multiply, len(matrices), max(matrices.shape[1:]), error))


def _normalize(tensor: Tensor) -> tuple[Tensor, float]:
    """Return a tensor with entries up to 1, so that products neither overflow nor vanish, and the factor.

    The factor is not finite if an entry is not.
    """
    scale = tensor.abs().max().item() if tensor.numel() else 0.0
    return (tensor / scale, scale) if scale else (tensor, 1.0)


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
