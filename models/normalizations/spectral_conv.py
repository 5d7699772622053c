"""Spectral normalization by the norm of the convolution, not of its reshaped kernel (Farnia et al., ICLR 2019)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.kernels.symbol import dilate, fold_phases
from models.normalizations.base import NORMALIZATIONS, Normalization, Parametrization
from models.normalizations.weight_matrices import Layout, clamp_positive, direction, get_weight
from models.ranges import AT_LEAST_0, AT_LEAST_1

SCAN_STEPS = 6  # power iterations at every frequency of the grid, enough to rank the frequencies
SETTLE_STEPS = 20  # further power iterations at the tracked frequencies; five times as many at initialization


@NORMALIZATIONS.register("spectral_conv")
@dataclass(frozen=True, kw_only=True)
class SpectralConvNorm(Normalization):
    r"""gain W / σ, with σ the norm of the convolution operator, stride included (Farnia et al., ICLR 2019).

    With the stride phases as input channels, W -> W', the operator is block diagonal in frequency:

        σ = max_w ||K(w)||_2,   K(w) = Σ_ab W'_ab e^(-i w·(a, b)),   w on a grid x grid lattice of [0, 2π)².

    This is exact for circular padding and a map of side grid · s. For zero padding and any size, the norm of the layer
    is at most gain / cos(d π / grid)², with d = (k' - 1) / 2, k' = ceil(k / s) and k the dilated size: 4 % above the
    gain for k' = 3 and a grid of 16. For a grouped convolution, σ is the largest norm of all groups. A transposed
    convolution has the norm of its adjoint. For linear and embedding layers, σ is the norm of the matrix.

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
    """Side of the frequency grid, which is the side of the convolution's output"""

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight` and return the layer."""
        return parametrize.register_parametrization(layer, "weight", UnitConvolution(layer, self))


class UnitConvolution(Parametrization):
    """Parametrization W -> gain W / σ.

    Complex vectors are stored as pairs of real ones: (g, n, 2, T) for T frequencies.
    """

    varies_between_calls = True  # by the scans of the grid
    frequencies: Tensor
    u: Tensor
    v: Tensor
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
        kernel = self._kernel(get_weight(layer).detach())
        # Constants of the scans. As buffers they are on the device, so that a scan does not wait for it.
        candidates, candidate_of = _half_grid([options.grid if k > 1 else 1 for k in kernel.shape[-2:]])
        start = torch.randn(kernel.shape[2], 2, 1, generator=torch.Generator().manual_seed(0))
        self.register_buffer("candidates", candidates.to(kernel.device), persistent=False)
        self.register_buffer("candidate_of", candidate_of.to(kernel.device), persistent=False)
        self.register_buffer("start", start.to(kernel), persistent=False)
        constants = self.candidates, self.candidate_of, self.start
        frequencies, u, v = _scan(kernel, *constants, options.tracked, options.grid, 5 * SETTLE_STEPS)
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("u", u)
        self.register_buffer("v", v)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalized weight."""
        kernel = self._kernel(weight)
        if self.training:
            self._track(kernel)
        # Copies, since a second forward pass may update the buffers before the backward pass of the first.
        frequencies, u, v = self.frequencies.clone(), self.u.clone(), self.v.clone()
        sigma = (u * _apply(kernel, v, _waves(frequencies, kernel, self.options.grid))).sum(dim=(1, 2))
        return weight * (self.options.gain / clamp_positive(sigma.amax()))

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
            *(self.candidates, self.candidate_of, self.start),
            *(self.options.tracked, self.options.grid, self.options.rescan_every),
        )

    def _kernel(self, weight: Tensor) -> Tensor:
        """Return W' as (g, O, J, kh', kw'), with J the input channels times the stride phases.

        The weight of a transposed convolution is that of its adjoint, an ordinary convolution, in the same layout.
        """
        weight = weight[..., None, None] if weight.dim() == 2 else weight
        folded = fold_phases(dilate(weight, self.dilation), self.stride).flatten(1, 3)
        return folded.unflatten(0, (self.groups, -1))


def _track(
    kernel: Tensor,
    frequencies: Tensor,
    u: Tensor,
    v: Tensor,
    accesses: Tensor,
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
        updated = _scan(kernel, candidates, candidate_of, start, tracked, grid, SETTLE_STEPS)
    else:
        updated = frequencies, *_power_iteration(kernel, u, v, _waves(frequencies, kernel, grid), 1)
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
    candidates: Tensor,
    candidate_of: Tensor,
    start: Tensor,
    tracked: int,
    grid: int,
    settle_steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return frequencies (g, T, 2) as indices into the grid, with their u and v: peaks of ||K(w)|| first."""
    groups = len(kernel)
    expanded = candidates.expand(groups, -1, -1)
    v = start.expand(groups, -1, -1, len(candidates)) / start.norm()
    u = kernel.new_zeros(groups, kernel.shape[1], 2, len(candidates))
    waves = _waves(expanded, kernel, grid)
    u, v = _power_iteration(kernel, u, v, waves, SCAN_STEPS)
    norms = (u * _apply(kernel, v, waves)).sum(dim=(1, 2))  # (g, candidates)

    lattice = norms[:, candidate_of]  # (g, height, width)
    peak = F.max_pool2d(F.pad(lattice[:, None], (1, 1, 1, 1), mode="circular"), 3, 1)[:, 0].flatten(1)
    peak = peak[:, candidates[:, 0] * lattice.shape[2] + candidates[:, 1]]
    score = torch.where(norms >= peak, norms, norms - norms.amax())  # neighbors of the peaks come second
    kept = score.topk(min(tracked, len(candidates)), dim=1).indices  # (g, T)
    frequencies = expanded.gather(1, kept[:, :, None].expand(-1, -1, 2))
    u, v = (x.gather(3, kept[:, None, None].expand(-1, *x.shape[1:3], -1)) for x in (u, v))
    return frequencies, *_power_iteration(kernel, u, v, _waves(frequencies, kernel, grid), settle_steps)


def _waves(frequencies: Tensor, kernel: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin of w·(a, b), each (g, 1, kh' kw', T), for frequencies (g, T, 2)."""
    kh, kw = kernel.shape[-2:]
    a = torch.arange(kh, device=kernel.device).repeat_interleave(kw)[:, None]
    b = torch.arange(kw, device=kernel.device).repeat(kh)[:, None]
    turns = frequencies[:, None, :, 0] * a + frequencies[:, None, :, 1] * b
    angle = (2 * math.pi / grid) * (turns % grid).double()
    return angle.cos()[:, None].to(kernel.dtype), angle.sin()[:, None].to(kernel.dtype)


def _half_grid(size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return one frequency of each pair w, -w on a grid of (height, width), and where to find each frequency's.

    K(-w) is the conjugate of K(w). The frequencies are (F, 2), and the indices of them (height, width).
    """
    height, width = size
    p, q = torch.arange(height)[:, None], torch.arange(width)
    first = torch.minimum(p * width + q, -p % height * width + -q % width)
    canonical, inverse = first.unique(return_inverse=True)
    return torch.stack([canonical // width, canonical % width], dim=1), inverse


def _apply(kernel: Tensor, v: Tensor, waves: tuple[Tensor, Tensor]) -> Tensor:
    """Return K(w) v (g, O, 2, T) for v (g, J, 2, T): the reshaped kernel times v ⊗ e^(-i w·(a, b))."""
    cos, sin = waves
    real, imaginary = (part[:, :, None] for part in v.unbind(2))  # (g, J, 1, T)
    modulated = torch.cat([real * cos + imaginary * sin, imaginary * cos - real * sin], dim=3)
    return (kernel.flatten(2) @ modulated.flatten(1, 2)).unflatten(2, (2, -1))


def _apply_adjoint(kernel: Tensor, u: Tensor, waves: tuple[Tensor, Tensor]) -> Tensor:
    """Return K(w)* u (g, J, 2, T) for u (g, O, 2, T)."""
    cos, sin = waves
    taps = (kernel.flatten(2).mT @ u.flatten(2)).unflatten(1, (kernel.shape[2], -1))  # (g, J, kh' kw', 2 T)
    real, imaginary = taps.chunk(2, dim=3)
    return torch.stack([(real * cos - imaginary * sin).sum(2), (imaginary * cos + real * sin).sum(2)], dim=2)


def _power_iteration(
    kernel: Tensor, u: Tensor, v: Tensor, waves: tuple[Tensor, Tensor], steps: int
) -> tuple[Tensor, Tensor]:
    for _ in range(steps):
        u = direction(_apply(kernel, v, waves), u, dim=(1, 2))
        v = direction(_apply_adjoint(kernel, u, waves), v, dim=(1, 2))
    return u, v
