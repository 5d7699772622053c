"""Orthogonalization by Newton's iteration (Huang et al., CVPR 2020, arXiv 2004.00917)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from models.normalizations.base import NORMALIZATIONS, Normalization, Parametrization, reparametrize
from models.normalizations.weight_matrices import Layout, get_weight
from models.ranges import AT_LEAST_0, REPEATS

EPS = 1e-5  # of the authors' code: keeps the function and its gradient finite for a weight of zeros


@NORMALIZATIONS.register("oni")
@dataclass(frozen=True, kw_only=True)
class ONI(Normalization):
    """scale B_T V, with V = Z_c / ||S||_F^½, S = Z_c Z_cᵀ + εI, B_0 = I, B_t+1 = 3/2 B_t - 1/2 B_t³ S / ||S||_F.

    Z is the kernel as an O x (I kh kw) matrix, one per group of a grouped convolution. Z_c is Z minus the mean of each
    row, and ε = 1e-5. With a constant scale, all singular values are at most `scale`; they converge to `scale` as T
    grows, the smallest ones last. For T = 5, a well-conditioned wide matrix has orthonormal rows to a few per cent, but
    a square one does not. With more rows than columns, the columns become orthogonal instead, in all directions but
    that of the mean.

    This is the authors' `ONINorm` (github.com/huangleiBuaa/ONI), which their VGG uses for layers of any shape. Their
    other networks use `ONINorm_colum` for layers with more rows than columns. It leaves out the division of S by its
    norm in the iteration, so its result depends on the size of the weight, and diverges from ||S|| > 3 on. Other
    differences: the rows of a transposed convolution are its output channels, not its inputs; a grouped convolution
    has one matrix per group; a matrix with a single column is not centered, which would make it zero.

    The authors' GANs use a constant scale of 1, their classifiers a learned one, which starts at 1.414.

    Training and evaluation compute the same function. The operator norm of a convolution whose reshaped kernel has
    orthonormal rows lies between scale and ceil(k / s) scale, as for `spectral`.
    """

    iterations: Annotated[int, REPEATS] = 5
    """Number of steps T of Newton's iteration"""
    scale: Annotated[float, AT_LEAST_0] = 1.0
    """Scale of the normalized weight"""
    learn_scale: bool = False
    """Learn a scale for each output channel, from `scale` on"""

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight` and return the layer."""
        return reparametrize(layer, NewtonOrthogonalization(layer, self))


class NewtonOrthogonalization(Parametrization):
    """Parametrization that maps a weight to one with nearly orthonormal rows, or columns if there are fewer."""

    def __init__(self, layer: nn.Module, options: ONI):
        super().__init__()
        self.layout = Layout.from_layer(layer)
        self.options = options
        rows = self.layout.rows(get_weight(layer))
        learned = rows.new_full((*rows.shape[:2], 1), options.scale) if options.learn_scale else None
        self.scale = None if learned is None else nn.Parameter(learned)  # (g, O / g, 1)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalized weight."""
        z = self.layout.rows(weight)  # (g, rows, columns)
        if z.shape[2] > 1:
            z = z - z.mean(dim=2, keepdim=True)
        # B is a polynomial in S, so that B(Z Zᵀ) Z = Z B(Zᵀ Z): the smaller matrix serves.
        tall = z.shape[1] > z.shape[2]
        z = z.mT if tall else z
        eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device).expand(len(z), -1, -1)
        s = z @ z.mT + EPS * eye
        size = s.norm(dim=(1, 2), keepdim=True)
        # B_t+1 = B_t (3/2 I - 1/2 B_t S B_t), with S B_t updated separately. The paper's form is equal in exact
        # arithmetic, but its rounding errors grow with T.
        b, sb = eye, s / size
        for _ in range(self.options.iterations):
            step = 1.5 * eye - 0.5 * (b @ sb)
            b, sb = step @ b, sb @ step
        w = b @ z / size.sqrt()
        scale = self.options.scale if self.scale is None else self.scale
        return self.layout.restore(scale * (w.mT if tall else w), weight)

    def extra_repr(self) -> str:
        """Show the options."""
        return f"iterations={self.options.iterations}, scale={self.options.scale:g}"
