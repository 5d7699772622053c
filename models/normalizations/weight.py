"""Weight normalization (Salimans & Kingma, NeurIPS 2016)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.normalizations.base import NORMALIZATIONS, Normalization, Parametrization
from models.normalizations.weight_matrices import Layout


@NORMALIZATIONS.register("weight")
@dataclass(frozen=True, kw_only=True)
class WeightNorm(Normalization):
    """g_o v_o / ||v_o|| for each output channel o, with learned g and v (Salimans & Kingma, NeurIPS 2016).

    The initial weight does not change. Training and evaluation compute the same function. The norm is not bounded,
    since g is not. The function and the parameter names are those of `torch.nn.utils.parametrizations.weight_norm`,
    except that a grouped transposed convolution has one g per output channel too.
    """

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight` and return the layer."""
        direction = ScaledDirection(Layout.from_layer(layer))
        return parametrize.register_parametrization(layer, "weight", direction, unsafe=True)


class ScaledDirection(Parametrization):
    """Parametrization (g, v) -> g v / ||v|| per output channel. A zero v stays zero."""

    def __init__(self, layout: Layout):
        super().__init__()
        self.layout = layout

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        """Return the weight for g, one scale per output channel, and v, with the shape of the weight."""
        rows = self.layout.rows(v)
        norm = rows.norm(dim=2, keepdim=True)
        scale = g.flatten().view_as(norm) / torch.where(norm > 0, norm, 1.0)
        return self.layout.restore(rows * scale, v)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return g and v of a weight. All dimensions of g except the output channels have size 1."""
        g = self.layout.rows(weight).norm(dim=2).flatten()
        out_first = not self.layout.transposed
        return g.view(-1, *[1] * (weight.dim() - 1)) if out_first else g.view(1, -1, 1, 1), weight
