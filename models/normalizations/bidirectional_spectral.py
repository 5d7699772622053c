"""Bidirectional scaled spectral normalization (Lin, Sekar & Fanti, NeurIPS 2021, arXiv 2009.02773)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from models.normalizations.base import NORMALIZATIONS, Normalization, Parametrization, reparametrize
from models.normalizations.weight_matrices import Layout, LeadingSingularVectors, divisor, get_weight
from models.ranges import AT_LEAST_0, REPEATS


@NORMALIZATIONS.register("bidirectional_spectral")
@dataclass(frozen=True, kw_only=True)
class BidirectionalSpectralNorm(Normalization):
    """scale W / ½ (σ(W_1) + σ(W_2)), with W_1 the kernel as O x (I prod(k)) and W_2 as I x (O prod(k)).

    Spectral normalization uses only the first unfolding, this normalization the mean of both, as Xavier initialization
    uses the mean of fan-in and fan-out. For a linear or embedding layer both unfoldings have the same norm, and this is
    spectral normalization with a scale. A weight of zeros is not divided. For a grouped convolution, σ is the largest
    value of all groups. In training, each access of the weight does `n_power_iterations`; in evaluation the singular
    vectors do not change. The authors' code (github.com/fjxmlzn/BSN) also multiplies the biases by the scale.
    """

    scale: Annotated[float, AT_LEAST_0] = 1.0
    """Scale of the normalized weight; the paper tunes it between 0.7 and 4"""
    n_power_iterations: Annotated[int, REPEATS] = 1
    """Power iterations per access of the weight in training"""

    has_state: ClassVar[bool] = True

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight` and return the layer."""
        return reparametrize(layer, MeanOfUnfoldings(layer, self))


class MeanOfUnfoldings(Parametrization):
    """W -> scale W / mean of the spectral norms of its two unfoldings."""

    def __init__(self, layer: nn.Module, options: BidirectionalSpectralNorm):
        super().__init__()
        self.layout = Layout.from_layer(layer)
        self.scale = options.scale
        outputs, inputs = self._unfold(get_weight(layer))
        self.outputs = LeadingSingularVectors(outputs, options.n_power_iterations)
        self.inputs = LeadingSingularVectors(inputs, options.n_power_iterations)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalized weight."""
        outputs, inputs = self._unfold(weight)
        sigma_outputs, *_ = self.outputs(outputs)
        sigma_inputs, *_ = self.inputs(inputs)
        return weight * (self.scale / divisor((sigma_outputs.amax() + sigma_inputs.amax()) / 2))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return `weight`, which is its own normalized weight if the mean of its norms is `scale`."""
        for vectors, matrix in zip((self.outputs, self.inputs), self._unfold(weight), strict=True):
            vectors.initialize(matrix)
        return weight

    def _unfold(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        kernel = self.layout.kernel(weight)
        return kernel.flatten(2), kernel.transpose(1, 2).flatten(2)
