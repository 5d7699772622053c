"""Bidirectional scaled spectral normalization (Lin, Sekar & Fanti, NeurIPS 2021, arXiv 2009.02773)."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.normalizations.base import NORMALIZATIONS, Normalization
from models.normalizations.weight_matrices import Layout, LeadingSingularVectors, clamp_positive, get_weight
from models.ranges import AT_LEAST_0, AT_LEAST_1


@NORMALIZATIONS.register("bidirectional_spectral")
@dataclass(frozen=True, kw_only=True)
class BidirectionalSpectralNorm(Normalization):
    """scale W / ½ (σ(W_1) + σ(W_2)), with W_1 the kernel as O x (I kh kw) and W_2 as I x (O kh kw) (paper, section 5).

    As Xavier's initialization balances forward and backward pass where LeCun's looks at one of them, this balances
    the two unfoldings where spectral normalization takes the first. For a linear or embedding layer both are W, and
    it is spectral normalization with a scale. σ of a grouped convolution is the largest of its groups'. In training
    each access moves the singular vectors by `n_power_iterations`; in evaluation they stand still.
    """

    scale: Annotated[float, AT_LEAST_0] = 1.0
    """Factor of the weight; the paper tunes it (0.7 to 4)"""
    n_power_iterations: Annotated[int, AT_LEAST_1] = 1
    """Power iterations at each access of the weight in training"""

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight`; the layer keeps its type."""
        return parametrize.register_parametrization(layer, "weight", MeanOfUnfoldings(layer, self))


class MeanOfUnfoldings(nn.Module):
    """W -> scale W / mean of the spectral norms of its two unfoldings."""

    def __init__(self, layer: nn.Module, options: BidirectionalSpectralNorm):
        super().__init__()
        self.layout = Layout.from_layer(layer)
        self.scale = options.scale
        kernel = self.layout.kernel(get_weight(layer))
        self.outputs = LeadingSingularVectors(kernel.flatten(2), options.n_power_iterations)
        self.inputs = LeadingSingularVectors(kernel.transpose(1, 2).flatten(2), options.n_power_iterations)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalized weight."""
        kernel = self.layout.kernel(weight)
        sigma_outputs, *_ = self.outputs(kernel.flatten(2))
        sigma_inputs, *_ = self.inputs(kernel.transpose(1, 2).flatten(2))
        return weight * (self.scale / clamp_positive((sigma_outputs.amax() + sigma_inputs.amax()) / 2))
