"""Weight normalization (Salimans & Kingma, NeurIPS 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.normalizations.base import NORMALIZATIONS, Normalization, Parametrization, reparametrize
from models.normalizations.obstacles import find_normalization
from models.normalizations.tying import find_shared_weights
from models.normalizations.weight_matrices import Layout, divisor, random_directions


@NORMALIZATIONS.register("weight")
@dataclass(frozen=True, kw_only=True)
class WeightNorm(Normalization):
    """g_o v_o / ||v_o|| for each output channel o, with learned g and v (Salimans & Kingma, NeurIPS 2016).

    The initial weight does not change. Training and evaluation compute the same function. The norm is not bounded,
    since g is not. The function and the parameter names are those of `torch.nn.utils.parametrizations.weight_norm`,
    except that a grouped transposed convolution has one g per output channel too.

    A weight that several layers share stays shared. A row of zeros gets g = 0 and a random v of norm 1, so that g has a
    gradient.
    """

    def find_obstacle(self, layer: nn.Module) -> str | None:
        """Return why `layer` cannot be normalized, or None if it can."""
        if parametrize.is_parametrized(layer, "weight"):
            return find_normalization(layer) or "its weight is parametrized, and g and v replace a plain weight only"
        return super().find_obstacle(layer)

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight` and return the layer."""
        return reparametrize(layer, ScaledDirection(Layout.from_layer(layer)), unsafe=True)

    def select(
        self, network: nn.Module, types: tuple[type[nn.Module], ...] | None, exclude: Sequence[str]
    ) -> dict[str, nn.Module]:
        """Return the layers that `apply` normalizes. Raises ValueError if a weight would not stay shared."""
        layers = super().select(network, types, exclude)
        for users in find_shared_weights(network):
            chosen = [path for path, layer in users.items() if path in layers]
            layouts = {Layout.from_layer(layer) for layer in users.values()}
            if chosen and (len(chosen) < len(users) or len(layouts) > 1):
                raise ValueError(
                    f"weight would replace the weight that {' and '.join(users)} share: include all of them, with the"
                    " same layout of the weight, or exclude all"
                )
        return layers


class ScaledDirection(Parametrization):
    """Parametrization (g, v) -> g v / ||v|| per output channel. A zero v stays zero."""

    def __init__(self, layout: Layout):
        super().__init__()
        self.layout = layout

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        """Return the weight for g, one scale per output channel, and v, with the shape of the weight."""
        rows = self.layout.rows(v)
        norm = rows.norm(dim=2, keepdim=True)
        scale = g.flatten().view_as(norm) / divisor(norm)
        return self.layout.restore(rows * scale, v)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return g and v of a weight. All dimensions of g except the output channels have size 1."""
        rows = self.layout.rows(weight)
        norm = rows.norm(dim=2, keepdim=True)
        v = weight
        if not weight.is_meta and not norm.all():
            v = self.layout.restore(torch.where(norm > 0, rows, random_directions(rows)), weight)
        shape = [1] * weight.dim()
        shape[1 if self.layout.transposed else 0] = -1
        return norm.view(shape), v
