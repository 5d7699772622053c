"""ConvNorm: convolutions preconditioned in the Fourier domain (Liu et al., NeurIPS 2021, arXiv 2103.00673)."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from models.normalizations.base import CONVOLUTIONS, NORMALIZATIONS, Normalization, Parametrization, reparametrize
from models.normalizations.conv_norm_layers import WRAPPERS
from models.normalizations.obstacles import find_normalization, find_obstacle_to_wrapping
from models.ranges import AT_LEAST_0


@NORMALIZATIONS.register("conv_norm")
@dataclass(frozen=True, kw_only=True)
class ConvNorm(Normalization):
    r"""Scales each output channel of a convolution at each frequency, so that it is a co-isometry.

    With ^ the DFT, in as many dimensions as the convolution has, on a grid on which the linear convolution is circular,

        V_o = (Σ_i |W^_oi|²)^(-1/2),   y_o = F⁻¹[V_o · F[(W * x)_o]] + b_o,   out_o = r_o * y_o + c_o,

    where r_o is a learned depthwise kernel (`affine`), initialized as a delta. V depends only on the weights and the
    grid. Training and evaluation therefore compute the same function at any input size, unless `running_average` (the
    authors' choice) or `batch_norm` is on.

    Without the affine part, the rows of the layer's matrix at a frequency have unit norm. Its operator norm σ on the
    grid then satisfies max(1, sqrt(O / min(O, I))) <= σ <= sqrt(O), where O and I are counted per group and I includes
    the s² stride phases. The layer is not non-expansive, and with the affine part or batch norm it has no such bound.

    The grid. `stride: paper` convolves at stride 1, preconditions the full-size output and then subsamples; this costs
    s² times as much as the convolution. `stride: strided` preconditions the strided operator itself: its spectrum is
    the mean of Σ_i |W^|² over the s² aliases, and it costs as much as the bare convolution. Both agree at stride 1. (In
    one and three dimensions, read s and s³ for s².)

    Circular padding: the grid is the input's own (n / s) if s divides n and the kernel is no larger than the input.
    Each output channel is then a co-isometry, A_o A_oᵀ = I. Zero padding: the grid has every position at which the
    (strided) kernel overlaps the input, n + k - 1 positions at stride 1. On this grid the linear convolution is
    circular. The layer is a co-isometry, restricted to inputs that vanish outside the image and cropped to the output:
    A_o A_oᵀ <= I, so its rows have norms of at most 1, and less where they overlap the padding. For other circular
    padding, and for reflect and replicate padding, the input is padded explicitly and then processed as with zero
    padding. The bound is then multiplied by the norm of the padding map.

    A transposed convolution is preconditioned per output channel and stride phase on the input grid. The weights of
    `nn.Linear` and `nn.Embedding` get rows of unit norm, without an affine part. A filter or row of zeros is not
    scaled.

    A convolution needs PyTorch's own forward and no hooks, because the wrapper computes it from `conv.weight` and never
    calls `conv`.

    `variant: authors` is the layer of the authors' classifiers (`models/prec_conv.py` in shengliu66/ConvNorm)
    for odd kernels without bias: the paper's stride, an affine part that starts as PyTorch initializes a depthwise
    convolution (not as a delta), batch norm after it, the running average of V in evaluation, plain linear layers.
    """

    affine: bool = True
    """Learned depthwise k x k convolution after the preconditioner, as in the paper"""
    batch_norm: bool = False
    """Batch normalization after the affine part, as in the authors' classifiers"""
    stride: Literal["paper", "strided"] = "paper"
    """paper: precondition at full resolution, then subsample; strided: precondition the strided operator"""
    running_average: bool = False
    """Evaluate with the authors' running average of V instead of the exact V"""
    through_gradient: bool = False
    """Differentiate through V; the paper treats it as a constant"""
    eps: Annotated[float, AT_LEAST_0] = 1e-6
    """Lower limit of Σ|W^|² relative to its mean over the frequencies, for filters whose spectrum has a zero"""

    variant: Literal["toolkit", "authors"] = "toolkit"
    """authors: as in the authors' classifiers (see above), which sets stride, batch_norm and running_average"""

    def __post_init__(self):
        if self.variant == "authors":
            for name, value in {"stride": "paper", "batch_norm": True, "running_average": True}.items():
                object.__setattr__(self, name, value)

    @property
    def types(self) -> tuple[type[nn.Module], ...]:
        """Convolutions, and except for the authors' variant linear layers and embeddings."""
        return CONVOLUTIONS if self.variant == "authors" else super().types

    def find_obstacle(self, layer: nn.Module) -> str | None:
        """Return why `layer` cannot be normalized: a convolution with its own forward or hooks would be bypassed."""
        if isinstance(layer, CONVOLUTIONS):
            return find_normalization(layer) or find_obstacle_to_wrapping(layer)
        return super().find_obstacle(layer)

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Wrap a convolution; reparametrize the weight of a linear or embedding layer."""
        for convolution, wrapper in WRAPPERS.items():
            if isinstance(layer, convolution):
                return wrapper(layer, self)
        return reparametrize(layer, UnitRows(self.through_gradient))


class UnitRows(Parametrization):
    """Parametrization W_o / ||W_o||: ConvNorm of a linear or embedding layer."""

    def __init__(self, through_gradient: bool):
        super().__init__()
        self.through_gradient = through_gradient

    def forward(self, weight: Tensor) -> Tensor:
        """Scale the rows of (O, I) to unit norm; a zero row stays zero."""
        norm = (weight if self.through_gradient else weight.detach()).norm(dim=1, keepdim=True)
        return weight / F.threshold(norm, 0, 1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return `weight`, which is its own normalized weight if its rows have unit norm."""
        return weight
