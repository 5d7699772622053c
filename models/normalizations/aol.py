"""Almost-orthogonal layers (Prach & Lampert, ECCV 2022, arXiv 2208.03160)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.kernels.conv import CONVOLVE
from models.kernels.symbol import dilate, fold_phases
from models.normalizations.base import NORMALIZATIONS, Normalization, Parametrization, reparametrize
from models.normalizations.weight_matrices import divisor, get_weight


@NORMALIZATIONS.register("aol")
@dataclass(frozen=True, kw_only=True)
class AOL(Normalization):
    r"""W_i / (Σ_j Σ_l |R_ij(l)|)^½ for each input channel i, with R_ij(l) = Σ_o Σ_p W_oi(p) W_oj(p + l).

    R is the autocorrelation of the kernel over its output channels, and the sum is over all input channels j and all
    shifts l. The norm of the layer is at most 1 for zero padding and for any size of the map, and for circular padding
    if a map of side n has an output of side n / s. For padding that repeats pixels (reflect, replicate, and circular
    for other sizes), this bound is multiplied by the norm of the padding. The norm is 1 if the columns of the layer's
    matrix are orthogonal. Training and evaluation compute the same function.

    A strided convolution is that of its input phases (polyphase form), so each phase of an input channel has a scale of
    its own. This is the authors' invertible downsampling followed by a convolution. The weight of a transposed
    convolution is that of its adjoint, so its output channels are scaled. A grouped convolution has one matrix per
    group. For linear and embedding layers, the kernel is the matrix. A weight of zeros is not divided.

    For convolutions of stride 1, this is the authors' `AOLConv2DRescaling` (berndprach/1LipschitzLayersCompared,
    checked), except that they add 1e-6 to the sum. Their layers start from orthogonal or delta kernels, not from those
    of the network, and so have larger norms at the start.
    """

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight` and return the layer."""
        return reparametrize(layer, AlmostOrthogonal(layer))


class AlmostOrthogonal(Parametrization):
    """Parametrization that scales the input channels of a convolution, and their stride phases, for a norm up to 1."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        axes = max(1, get_weight(layer).dim() - 2)
        self.groups: int = getattr(layer, "groups", 1)
        self.stride: Sequence[int] = getattr(layer, "stride", (1,) * axes)
        self.dilation: Sequence[int] = getattr(layer, "dilation", (1,) * axes)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalized weight."""
        kernel = weight[..., None] if weight.dim() == 2 else weight
        kernel = kernel.unflatten(0, (self.groups, -1))  # (g, O / g, I / g, *k)
        sums = torch.stack([self._sum_of_correlations(part) for part in kernel])  # (g, I / g, *s)
        for axis, (size, s, d) in enumerate(zip(kernel.shape[3:], self.stride, self.dilation, strict=True), start=2):
            if s == 1:
                continue
            phases = torch.arange(size, device=weight.device) * d % s
            sums = sums.index_select(axis, phases)
        return (kernel * divisor(sums).rsqrt()[:, None]).reshape(weight.shape)

    def _sum_of_correlations(self, kernel: Tensor) -> Tensor:
        """Return Σ_j Σ_l |R_ij(l)| (I, *s) of a kernel (O, I, *k), where i and j count the stride phases as well."""
        if any(s > 1 for s in self.stride):
            kernel = dilate(kernel, self.dilation)  # otherwise the shifts are multiples of the dilation
        folded = fold_phases(kernel, self.stride).flatten(1, 1 + len(self.stride)).transpose(0, 1)  # (I prod(s), O, *t)
        padding = [size - 1 for size in folded.shape[2:]]
        correlations = CONVOLVE[len(padding)](folded, folded, padding=padding)
        return correlations.abs().flatten(1).sum(dim=1).view(-1, *self.stride)
