"""ConvNorm without one of its parts: plugins of the ablation in this study."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from models.kernels.polyphase import Positions, fold_taps
from models.normalizations.base import NORMALIZATIONS
from models.normalizations.conv_norm import ConvNorm
from models.normalizations.conv_norm_layers import ConvNorm2d


class FrozenConvNorm2d(ConvNorm2d):
    """ConvNorm of an `nn.Conv2d` with the V of its initial weight: (B, I, H, W) -> (B, O, H', W')."""

    initial_weight: Tensor
    lipschitz_bound = ConvNorm2d.lipschitz_bound  # it describes this forward pass

    def __init__(self, conv: nn.Conv2d, options: ConvNorm):
        super().__init__(conv, options)
        self.register_buffer("initial_weight", conv.weight.detach().clone())

    def preconditioner(self, kernel: Tensor, grid: Sequence[int], positions: Positions) -> Tensor:
        """Return the V of the initial weight on `grid`."""
        stride = self._stride_to_grid
        folded, positions = fold_taps(self.initial_weight.to(kernel.dtype), stride, self.conv.dilation)
        return super().preconditioner(folded.flatten(1, 1 + len(stride)), grid, positions)


class RowConvNorm2d(ConvNorm2d):
    """Convolution by W_o / ||W_o|| with ConvNorm's affine part: (B, I, H, W) -> (B, O, H', W')."""

    lipschitz_bound = ConvNorm2d.lipschitz_bound  # it describes this forward pass

    def preconditioner(self, kernel: Tensor, grid: Sequence[int], positions: Positions) -> Tensor:
        """Return 1 / ||W_o||, (O, 1, 1)."""
        kernel = kernel if self.options.through_gradient else kernel.detach()
        return kernel.flatten(1).norm(dim=1).reciprocal().view(-1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class _WithoutPart(ConvNorm):
    wrapper: ClassVar[type[ConvNorm2d]]

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Wrap a convolution; reparametrize the weight of a linear or embedding layer as ConvNorm does."""
        return self.wrapper(layer, self) if isinstance(layer, nn.Conv2d) else super().normalize(layer)


@NORMALIZATIONS.register("conv_norm_frozen")
@dataclass(frozen=True, kw_only=True)
class FrozenConvNorm(_WithoutPart):
    """ConvNorm whose V stays that of the initial weights in each `nn.Conv2d`."""

    wrapper = FrozenConvNorm2d


@NORMALIZATIONS.register("conv_norm_rows")
@dataclass(frozen=True, kw_only=True)
class RowConvNorm(_WithoutPart):
    """ConvNorm whose V is 1 / ||W_o|| at every frequency in each `nn.Conv2d`: unit rows without a filter."""

    wrapper = RowConvNorm2d
