"""Spectral normalization by the norm of the convolution, not of its reshaped kernel (Farnia et al., ICLR 2019)."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels.polyphase import Positions, fold_taps
from models.normalizations.base import NORMALIZATIONS, Normalization, Parametrization, reparametrize
from models.normalizations.weight_matrices import Layout, direction, divisor, get_weight
from models.ranges import AT_LEAST_0, AT_LEAST_1

SCAN_STEPS = 6  # power iterations at every frequency of the grid, enough to rank the frequencies
SETTLE_STEPS = 20  # further power iterations at the tracked frequencies; five times as many at initialization


@NORMALIZATIONS.register("spectral_conv")
@dataclass(frozen=True, kw_only=True)
class SpectralConvNorm(Normalization):
    r"""gain W / σ, with σ the norm of the convolution operator, stride included (Farnia et al., ICLR 2019).

    With the stride phases as input channels, W -> W', the operator is block diagonal in frequency:

        σ = max_w ||K(w)||_2,   K(w) = Σ_p W'_p e^(-i w·p),   w on a lattice of [0, 2π)^n with `grid` points per axis,

    for a convolution of n = 1, 2 or 3 dimensions. This is exact for circular padding and a map of side grid · s. For
    zero padding and any size, the norm of the layer is at most gain / cos(d π / grid)^n, with d = (k' - 1) / 2, k' =
    ceil(k / s) and k the dilated size: 4 % above the gain for k' = 3, a grid of 16 and n = 2. For a grouped
    convolution, σ is the largest norm of all groups. A transposed convolution has the norm of its adjoint. For linear
    and embedding layers, σ is the norm of the matrix. A weight of zeros is not divided.

    Where a dilated kernel is larger than the grid, the lattice would be too coarse for it. Its positions p are then
    divided by their common divisor along the axis. This only scales w, and k is then the size without dilation.

    The authors' code (github.com/jessemzhang/dl_spectral_normalization) divides by max(1, σ / β), so that β bounds the
    norm and smaller norms do not change; here, the norm always is the gain. Their σ is that of the layer with its zero
    padding on its map, by power iteration on whole maps. Here, singular vectors are stored for the
    `tracked` frequencies with the largest norms. In training, each access of the weight does one power iteration, which
    costs one product with the reshaped kernel, as for `spectral`. Every `rescan_every`-th access scans the whole grid.
    In evaluation, frequencies and vectors do not change.
    """

    gain: Annotated[float, AT_LEAST_0] = 1.0
    """Norm of the normalized convolution"""
    tracked: Annotated[int, AT_LEAST_1] = 8
    """Number of frequencies tracked between two scans of the grid"""
    rescan_every: Annotated[int, AT_LEAST_1] = 50
    """Number of accesses of the weight in training between two scans of the grid"""
    grid: Annotated[int, AT_LEAST_1] = 16
    """Frequencies per axis, which is the side of the convolution's output"""

    has_state: ClassVar[bool] = True

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight` and return the layer."""
        return reparametrize(layer, UnitConvolution(layer, self))


class UnitConvolution(Parametrization):
    """Parametrization W -> gain W / σ.

    Complex vectors are stored as pairs of real ones: (g, n, 2, T) for T frequencies.
    """

    varies_between_calls = True  # by the scans of the grid
    frequencies: Tensor
    u: Tensor
    v: Tensor
    taps: Tensor
    candidates: Tensor
    candidate_of: Tensor
    start: Tensor

    def __init__(self, layer: nn.Module, options: SpectralConvNorm):
        super().__init__()
        self.options = options
        self.groups = Layout.from_layer(layer).groups
        self.stride = getattr(layer, "stride", (1, 1))
        self.dilation = getattr(layer, "dilation", (1, 1))
        self.accesses = torch.zeros((), dtype=torch.int64, device="cpu")  # no buffer, which would move to the device
        weight = get_weight(layer).detach()
        kernel, taps = self._kernel(weight), self._taps(weight)
        # Constants of the scans. As buffers they are on the device, so that a scan does not wait for it.
        candidates, candidate_of = _half_grid([options.grid if axis.max() > 0 else 1 for axis in taps.unbind(1)])
        start = torch.randn(kernel.shape[2], 2, 1, generator=torch.Generator().manual_seed(0))
        self.register_buffer("taps", taps.to(kernel.device), persistent=False)
        self.register_buffer("candidates", candidates.to(kernel.device), persistent=False)
        self.register_buffer("candidate_of", candidate_of.to(kernel.device), persistent=False)
        self.register_buffer("start", start.to(kernel), persistent=False)
        groups, outputs, inputs = kernel.shape[:3]
        tracked = min(options.tracked, len(candidates))
        self.register_buffer("frequencies", candidates.new_zeros(groups, tracked, len(self.stride)).to(kernel.device))
        self.register_buffer("u", kernel.new_zeros(groups, outputs, 2, tracked))
        self.register_buffer("v", kernel.new_zeros(groups, inputs, 2, tracked))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalized weight."""
        kernel = self._kernel(weight)
        if self.training:
            self._track(kernel)
        # Copies, since a second forward pass may update the buffers before the backward pass of the first.
        frequencies, u, v = self.frequencies.clone(), self.u.clone(), self.v.clone()
        sigma = (u * _apply(kernel, v, _waves(frequencies, self.taps, kernel, self.options.grid))).sum(dim=(1, 2))
        return weight * (self.options.gain / divisor(sigma.amax()))

    @torch.no_grad()
    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return `weight`, which is its own normalized weight if its norm is `gain`."""
        kernel = self._kernel(weight)
        scanned = _scan(kernel, *self._constants, self.options.tracked, self.options.grid, 5 * SETTLE_STEPS)
        for buffer, value in zip((self.frequencies, self.u, self.v), scanned, strict=True):
            buffer.copy_(value)
        if not kernel.any():
            # All frequencies of a weight of zeros are equal. Scan again soon: after the access by PyTorch when the
            # parametrization is registered, and that of the first step, which changes the weight.
            self.accesses.fill_(max(0, self.options.rescan_every - 3))
        return weight

    def get_extra_state(self) -> Tensor:
        """Return the number of accesses, so that a resumed run scans at the same steps."""
        return self.accesses.clone()

    def set_extra_state(self, state: Tensor) -> None:
        """Load the number of accesses."""
        self.accesses.copy_(state)

    def extra_repr(self) -> str:
        """Show the options."""
        return f"gain={self.options.gain:g}, tracked={self.u.shape[-1]}, grid={self.options.grid}"

    @torch.no_grad()
    def _track(self, kernel: Tensor) -> None:
        """Update frequencies, u and v."""
        # A compiled graph would make the number of accesses a constant, but does not look into an operator.
        compiles = torch.compiler.is_compiling()  # pyright: ignore[reportPrivateImportUsage]
        (_track_operator if compiles else _track)(
            kernel.detach(),
            *(self.frequencies, self.u, self.v, self.accesses),
            *self._constants,
            *(self.options.tracked, self.options.grid, self.options.rescan_every),
        )

    @property
    def _constants(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.taps, self.candidates, self.candidate_of, self.start

    def _kernel(self, weight: Tensor) -> Tensor:
        """Return W' as (g, O, J, *t), with J the input channels times the stride phases."""
        return self._fold(weight)[0].flatten(1, 1 + len(self.stride)).unflatten(0, (self.groups, -1))

    def _taps(self, weight: Tensor) -> Tensor:
        """Return the positions of the T taps of W', (T, n). On an axis beyond the grid, without the common divisor."""
        _, positions = self._fold(weight)
        divisors = [math.gcd(*axis) if axis[-1] >= self.options.grid else 1 for axis in positions]
        scaled = [[p // d for p in axis] for axis, d in zip(positions, divisors, strict=True)]
        return torch.tensor(list(itertools.product(*scaled)))

    def _fold(self, weight: Tensor) -> tuple[Tensor, Positions]:
        # The weight of a transposed convolution is that of its adjoint, an ordinary convolution, in the same layout.
        weight = weight[..., None, None] if weight.dim() == 2 else weight
        return fold_taps(weight, self.stride, self.dilation)


def _track(
    kernel: Tensor,
    frequencies: Tensor,
    u: Tensor,
    v: Tensor,
    accesses: Tensor,
    taps: Tensor,
    candidates: Tensor,
    candidate_of: Tensor,
    start: Tensor,
    tracked: int,
    grid: int,
    rescan_every: int,
) -> None:
    """Count an access, and update the frequencies and their vectors: by a scan, or by one power iteration."""
    accesses.add_(1)
    if int(accesses) % rescan_every == 0:
        updated = _scan(kernel, taps, candidates, candidate_of, start, tracked, grid, SETTLE_STEPS)
    else:
        updated = frequencies, *_power_iteration(kernel, u, v, _waves(frequencies, taps, kernel, grid), 1)
    for buffer, value in zip((frequencies, u, v), updated, strict=True):
        buffer.copy_(value)


def _register_operator() -> Callable[..., None]:
    """Return `_track` as an operator of PyTorch. A second copy of this module must not register it again."""
    if hasattr(torch.ops.convnorm_gan, "track"):
        return torch.ops.convnorm_gan.track
    return torch.library.custom_op("convnorm_gan::track", _track, mutates_args=("frequencies", "u", "v", "accesses"))


_track_operator = _register_operator()


def _scan(
    kernel: Tensor,
    taps: Tensor,
    candidates: Tensor,
    candidate_of: Tensor,
    start: Tensor,
    tracked: int,
    grid: int,
    settle_steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return frequencies (g, T, n) as indices into the grid, with their u and v: peaks of ||K(w)|| first."""
    groups = len(kernel)
    expanded = candidates.expand(groups, -1, -1)
    v = start.expand(groups, -1, -1, len(candidates)) / start.norm()
    u = kernel.new_zeros(groups, kernel.shape[1], 2, len(candidates))
    waves = _waves(expanded, taps, kernel, grid)
    u, v = _power_iteration(kernel, u, v, waves, SCAN_STEPS)
    norms = (u * _apply(kernel, v, waves)).sum(dim=(1, 2))  # (g, candidates)

    lattice = norms[:, candidate_of]  # (g, *size)
    axes = lattice.dim() - 1
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[axes]
    peak = pool(F.pad(lattice[:, None], [1, 1] * axes, mode="circular"), 3, 1)[:, 0].flatten(1)
    peak = peak[:, _flat_index(candidates, lattice.shape[1:])]
    score = torch.where(norms >= peak, norms, norms - norms.amax())  # neighbors of the peaks come second
    kept = score.topk(min(tracked, len(candidates)), dim=1).indices  # (g, T)
    frequencies = expanded.gather(1, kept[:, :, None].expand(-1, -1, axes))
    u, v = (x.gather(3, kept[:, None, None].expand(-1, *x.shape[1:3], -1)) for x in (u, v))
    return frequencies, *_power_iteration(kernel, u, v, _waves(frequencies, taps, kernel, grid), settle_steps)


def _waves(frequencies: Tensor, taps: Tensor, kernel: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin of w·p, each (g, 1, taps, T), for frequencies (g, T, n) and positions of taps (taps, n)."""
    turns = (frequencies[:, None] * taps[:, None]).sum(-1)
    angle = (2 * math.pi / grid) * (turns % grid).double()
    return angle.cos()[:, None].to(kernel.dtype), angle.sin()[:, None].to(kernel.dtype)


def _half_grid(size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return one frequency of each pair w, -w on a grid of `size`, and where to find each frequency's.

    K(-w) is the conjugate of K(w). The frequencies are (F, n), and the indices of them have the shape of the grid.
    """
    lattice = torch.stack(torch.meshgrid([torch.arange(m) for m in size], indexing="ij"), dim=-1)
    first = torch.minimum(_flat_index(lattice, size), _flat_index(-lattice % torch.tensor(size), size))
    canonical, inverse = first.unique(return_inverse=True)
    return lattice.flatten(0, -2)[canonical], inverse


def _flat_index(index: Tensor, size: Sequence[int]) -> Tensor:
    """Return indices (..., n) into a grid of `size` as indices into the flattened grid (...)."""
    flat = index[..., 0]
    for axis, m in enumerate(size[1:], start=1):
        flat = flat * m + index[..., axis]
    return flat


def _apply(kernel: Tensor, v: Tensor, waves: tuple[Tensor, Tensor]) -> Tensor:
    """Return K(w) v (g, O, 2, T) for v (g, J, 2, T): the reshaped kernel times v ⊗ e^(-i w·(a, b))."""
    cos, sin = waves
    real, imaginary = (part[:, :, None] for part in v.unbind(2))  # (g, J, 1, T)
    modulated = torch.cat([real * cos + imaginary * sin, imaginary * cos - real * sin], dim=3)
    return (kernel.flatten(2) @ modulated.flatten(1, 2)).unflatten(2, (2, -1))


def _apply_adjoint(kernel: Tensor, u: Tensor, waves: tuple[Tensor, Tensor]) -> Tensor:
    """Return K(w)* u (g, J, 2, T) for u (g, O, 2, T)."""
    cos, sin = waves
    taps = (kernel.flatten(2).mT @ u.flatten(2)).unflatten(1, (kernel.shape[2], -1))  # (g, J, taps, 2 T)
    real, imaginary = taps.chunk(2, dim=3)
    return torch.stack([(real * cos - imaginary * sin).sum(2), (imaginary * cos + real * sin).sum(2)], dim=2)


def _power_iteration(
    kernel: Tensor, u: Tensor, v: Tensor, waves: tuple[Tensor, Tensor], steps: int
) -> tuple[Tensor, Tensor]:
    for _ in range(steps):
        u = direction(_apply(kernel, v, waves), u, dim=(1, 2))
        v = direction(_apply_adjoint(kernel, u, waves), v, dim=(1, 2))
    return u, v
