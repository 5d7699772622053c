"""Stable rank normalization (Sanyal, Torr & Dokania, ICLR 2020, arXiv 1906.04659)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from models.normalizations.base import NORMALIZATIONS, Normalization, Parametrization, reparametrize
from models.normalizations.weight_matrices import (
    SMALLEST_DIVISOR,
    Layout,
    LeadingSingularVectors,
    divisor,
    get_weight,
)
from models.ranges import REPEATS, Range


@NORMALIZATIONS.register("stable_rank")
@dataclass(frozen=True, kw_only=True)
class StableRankNorm(Normalization):
    """u uᵀ W / σ_1 + γ R with R = (I - u uᵀ) W / σ_1 and γ = min(1, sqrt(r - 1) / ||R||_F).

    At convergence the first term is u vᵀ. Written in terms of W, it has a gradient, which a matrix with a single row
    needs.

    W is the kernel as an O x (I prod(k)) matrix, one per group of a grouped convolution. The result is a matrix with
    spectral norm 1 and a stable rank ||·||_F² / ||·||_2² of at most r = max(1, c min(rows, columns)), with c the option
    `stable_rank`. For c = 1 this is spectral normalization. The bound of the stable rank holds even before u converges,
    since R is orthogonal to the first term. A weight of zeros is not divided. In training, each access of the weight
    does `n_power_iterations`; in evaluation the singular vectors do not change.
    """

    stable_rank: Annotated[float, Range(min=0, max=1)] = 0.7
    """Maximum stable rank, as a fraction of the smaller dimension of the matrix"""
    n_power_iterations: Annotated[int, REPEATS] = 1
    """Power iterations per access of the weight in training"""

    has_state: ClassVar[bool] = True

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight` and return the layer."""
        return reparametrize(layer, LimitedStableRank(layer, self))


class LimitedStableRank(Parametrization):
    """Parametrization that maps a weight to one with spectral norm 1 and a stable rank of at most `target`."""

    def __init__(self, layer: nn.Module, options: StableRankNorm):
        super().__init__()
        self.layout = Layout.from_layer(layer)
        rows = self.layout.rows(get_weight(layer))
        self.target = max(1.0, options.stable_rank * min(rows.shape[1:]))
        self.leading = LeadingSingularVectors(rows, options.n_power_iterations)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalized weight."""
        rows = self.layout.rows(weight)
        sigma, u, _ = self.leading(rows)
        scaled = rows / divisor(sigma)[:, None, None]
        first = u[:, :, None] * (u[:, None, :] @ scaled)
        rest = scaled - first
        largest = (self.target - 1) ** 0.5  # Frobenius norm of R
        gamma = largest / rest.norm(dim=(1, 2), keepdim=True).clamp_min(max(largest, SMALLEST_DIVISOR))
        return self.layout.restore(first + gamma * rest, weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return `weight`, its own normalized weight if it has norm 1 and a stable rank of at most `target`."""
        self.leading.initialize(self.layout.rows(weight))
        return weight

    def extra_repr(self) -> str:
        """Show the target."""
        return f"target={self.target:g}"
