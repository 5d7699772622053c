"""Orthogonalization by Newton's iteration (Huang et al., CVPR 2020, arXiv 2004.00917)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from models.normalizations.base import NORMALIZATIONS, Normalization, Parametrization, reparametrize
from models.normalizations.weight_matrices import SMALLEST_DIVISOR, Layout, divisor, get_weight
from models.ranges import AT_LEAST_0, AT_LEAST_1


@NORMALIZATIONS.register("oni")
@dataclass(frozen=True, kw_only=True)
class ONI(Normalization):
    """scale B_T V, with V = Z_c / ||Z_c Z_cᵀ||_F^½, S = V Vᵀ, B_0 = I, B_t+1 = 3/2 B_t - 1/2 B_t³ S (algorithm 2).

    Z is the kernel as an O x (I kh kw) matrix, one per group of a grouped convolution. Z_c is Z minus the mean of each
    row. As T grows, the rows become orthonormal. All singular values are at most `scale`; the smallest ones converge
    last. For T = 5, a well-conditioned wide matrix is orthonormal to a few per cent, but a square one is not.

    Centering reduces the rank by one, so at most columns - 1 rows can be orthonormal. More rows are split into the
    smallest number of equal blocks for which each block can be orthonormal. Rows of different blocks are not
    orthogonal, and the norm can be up to sqrt(blocks) scale. A single column is not centered; it keeps only its signs.

    Training and evaluation compute the same function, without state. The operator norm of a convolution whose reshaped
    kernel has orthonormal rows lies between scale and ceil(k / s) scale, as for `spectral`.
    """

    iterations: Annotated[int, AT_LEAST_1] = 5
    """Number of steps T of Newton's iteration"""
    scale: Annotated[float, AT_LEAST_0] = 1.0
    """Scale of the normalized weight; the paper uses sqrt(2) before ReLU"""

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight` and return the layer."""
        return reparametrize(layer, NewtonOrthogonalization(layer, self))


class NewtonOrthogonalization(Parametrization):
    """Parametrization that maps a weight to one with nearly orthonormal rows in each block."""

    def __init__(self, layer: nn.Module, options: ONI):
        super().__init__()
        self.layout = Layout.from_layer(layer)
        self.options = options
        _, rows, columns = self.layout.rows(get_weight(layer)).shape
        fitting = max(1, columns - 1)
        self.blocks = next(n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= fitting)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalized weight."""
        z = self.layout.rows(weight)
        z = z.unflatten(1, (self.blocks, -1)).flatten(0, 1)  # (g blocks, rows, columns)
        if z.shape[2] > 1:
            z = z - z.mean(dim=2, keepdim=True)
        v = z / divisor((z @ z.mT).norm(dim=(1, 2), keepdim=True), SMALLEST_DIVISOR**2).sqrt()
        s = v @ v.mT
        # B_t+1 = B_t (3/2 I - 1/2 B_t S B_t), with S B_t updated separately. The paper's form is equal in exact
        # arithmetic, but its rounding errors grow with T.
        eye = torch.eye(s.shape[1], dtype=s.dtype, device=s.device).expand_as(s)
        b, sb = eye, s
        for _ in range(self.options.iterations):
            step = 1.5 * eye - 0.5 * (b @ sb)
            b, sb = step @ b, sb @ step
        return self.layout.restore(self.options.scale * (b @ v), weight)

    def extra_repr(self) -> str:
        """Show the options."""
        return f"iterations={self.options.iterations}, scale={self.options.scale:g}, blocks={self.blocks}"
