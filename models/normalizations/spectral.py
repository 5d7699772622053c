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

    σ(W_r) is not the norm of the convolution. The operator norm of the normalized layer lies between 1 and ceil(k / s)
    for stride s, so the network is not 1-Lipschitz. In training, each access of the weight does `n_power_iterations`;
    in evaluation the singular vectors do not change.
    """

    n_power_iterations: Annotated[int, AT_LEAST_1] = 1
    """Power iterations per access of the weight in training"""
    eps: Annotated[float, AT_LEAST_0] = 1e-12
    """Lower limit of the norms of the vectors in the power iteration"""

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight` and return the layer."""
        return parametrizations.spectral_norm(layer, n_power_iterations=self.n_power_iterations, eps=self.eps)
