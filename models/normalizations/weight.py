"""Weight normalization (Salimans & Kingma, NeurIPS 2016)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.normalizations.base import NORMALIZATIONS, Normalization
from models.normalizations.weight_matrices import Layout


@NORMALIZATIONS.register("weight")
@dataclass(frozen=True, kw_only=True)
class WeightNorm(Normalization):
    """g_o v_o / ||v_o|| for each output channel o, with g and v learned (Salimans & Kingma, NeurIPS 2016, eq. 2).

    It starts as the weight it finds. Training and evaluation are the same. It bounds nothing: g is free. The
    parameters and their names are those of torch's own, which it equals; a transposed convolution's output channels
    are told apart in grouped ones too.
    """

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight`; the layer keeps its type."""
        direction = ScaledDirection(Layout.from_layer(layer))
        return parametrize.register_parametrization(layer, "weight", direction, unsafe=True)


class ScaledDirection(nn.Module):
    """(g, v) -> g v / ||v||, an output channel at a time; a zero v stays zero."""

    def __init__(self, layout: Layout):
        super().__init__()
        self.layout = layout

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        """Return the weight for g, one scale an output channel, and v, shaped as the weight."""
        rows = self.layout.rows(v)
        norm = rows.norm(dim=2, keepdim=True)
        scale = g.flatten().view_as(norm) / torch.where(norm > 0, norm, 1.0)
        return self.layout.restore(rows * scale, v)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the g and v of a weight; g has a dimension of size 1 for each but the output channels."""
        g = self.layout.rows(weight).norm(dim=2).flatten()
        out_first = not self.layout.transposed
        return g.view(-1, *[1] * (weight.dim() - 1)) if out_first else g.view(1, -1, 1, 1), weight
