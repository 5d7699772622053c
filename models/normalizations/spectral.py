"""Spectral normalization of the reshaped kernel (Miyato et al., ICLR 2018)."""

from dataclasses import dataclass
from typing import Annotated

from torch import nn
from torch.nn.utils import parametrizations

from models.normalizations.base import NORMALIZATIONS, Normalization
from models.ranges import AT_LEAST_0, AT_LEAST_1


@NORMALIZATIONS.register("spectral")
@dataclass(frozen=True, kw_only=True)
class SpectralNorm(Normalization):
    """W / σ(W_r), with W_r the kernel reshaped to an O x (I kh kw) matrix (Miyato et al., ICLR 2018, eq. 8).

    σ(W_r) is not the norm of the convolution: the layer's true operator norm lies between 1 and ceil(k / s) for
    stride s, so a network normalized in this way is not 1-Lipschitz. In training every access of the weight moves
    the singular vectors by `n_power_iterations`; in evaluation they stand still.
    """

    n_power_iterations: Annotated[int, AT_LEAST_1] = 1
    """Power iterations at each access of the weight in training"""
    eps: Annotated[float, AT_LEAST_0] = 1e-12
    """Floor of the vectors' norms in the power iteration"""

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight`; the layer keeps its type."""
        return parametrizations.spectral_norm(layer, n_power_iterations=self.n_power_iterations, eps=self.eps)
