"""ConvNorm: convolutions preconditioned in the Fourier domain (Liu et al., NeurIPS 2021, arXiv 2103.00673)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.activation_norms.batch import BatchNorm
from models.kernels.circular_filter import Window, circular_filter
from models.kernels.conv import conv2d
from models.kernels.fourier import Pair, preconditioner
from models.kernels.symbol import (
    dilate,
    effective_kernel_size,
    fold_phases,
    largest_norm,
    padding_multiplicity,
    padding_sides,
    riesz_cosines,
)
from models.normalizations.base import NORMALIZATIONS, Normalization, Parametrization
from models.protocols import GetBound
from models.ranges import AT_LEAST_0

SYMBOL_CHUNK = 2**22  # entries of the symbol whose norms are computed at once
AFFINE_GRID = 64  # frequencies per axis at which the response of the affine kernel is evaluated


@NORMALIZATIONS.register("conv_norm")
@dataclass(frozen=True, kw_only=True)
class ConvNorm(Normalization):
    r"""Scales each output channel of a convolution at each frequency, so that it is a co-isometry.

    With ^ the 2-D DFT on a grid on which the linear convolution is circular,

        V_o = (Σ_i |W^_oi|²)^(-1/2),   y_o = F⁻¹[V_o · F[(W * x)_o]] + b_o,   out_o = r_o * y_o + c_o,

    where r_o is a learned depthwise kernel (`affine`), initialized as a delta. V depends only on the weights and the
    grid. Training and evaluation therefore compute the same function at any input size, unless `running_average` (the
    authors' choice) or `batch_norm` is on.

    Without the affine part, the rows of the layer's matrix at a frequency have unit norm. Its operator norm σ on the
    grid then satisfies max(1, sqrt(O / min(O, I))) <= σ <= sqrt(O), where O and I are counted per group and I includes
    the s² stride phases. The layer is not non-expansive, and with the affine part or batch norm it has no such bound.

    The grid. `stride: paper` convolves at stride 1, preconditions the full-size output and then subsamples; this costs
    s² times as much as the convolution. `stride: strided` preconditions the strided operator itself: its spectrum is
    the mean of Σ_i |W^|² over the s² aliases, and it costs as much as the bare convolution. Both agree at stride 1.

    Circular padding: the grid is the input's own (n / s) if s divides n and the kernel is no larger than the input.
    Each output channel is then a co-isometry, A_o A_oᵀ = I. Zero padding: the grid has every position at which the
    (strided) kernel overlaps the input, n + k - 1 positions at stride 1. On this grid the linear convolution is
    circular. The layer is a co-isometry, restricted to inputs that vanish outside the image and cropped to the output:
    A_o A_oᵀ <= I, so its rows have norms of at most 1, and less where they overlap the padding. For other circular
    padding, and for reflect and replicate padding, the input is padded explicitly and then processed as with zero
    padding. The bound is then multiplied by the norm of the padding map.

    `nn.ConvTranspose2d` is preconditioned per output channel and stride phase on the input grid. The weights of
    `nn.Linear` and `nn.Embedding` get rows of unit norm, without an affine part.
    """

    affine: bool = True
    """Learned depthwise k x k convolution after the preconditioner, as in the paper"""
    batch_norm: bool = False
    """Batch normalization after the affine part, as in the authors' classifiers"""
    stride: Literal["paper", "strided"] = "strided"
    """paper: precondition at full resolution, then subsample; strided: precondition the strided operator"""
    running_average: bool = False
    """Evaluate with the authors' running average of V instead of the exact V"""
    through_gradient: bool = False
    """Differentiate through V; the paper treats it as a constant"""
    eps: Annotated[float, AT_LEAST_0] = 1e-6
    """Lower limit of Σ|W^|² relative to its mean over the frequencies, for filters whose spectrum has a zero"""

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Wrap a convolution; reparametrize the weight of a linear or embedding layer."""
        if isinstance(layer, nn.ConvTranspose2d):
            return ConvNormTranspose2d(layer, self)
        if isinstance(layer, nn.Conv2d):
            return ConvNorm2d(layer, self)
        return parametrize.register_parametrization(layer, "weight", UnitRows(self.through_gradient))


class UnitRows(Parametrization):
    """Parametrization W_o / ||W_o||: ConvNorm of a linear or embedding layer."""

    def __init__(self, through_gradient: bool):
        super().__init__()
        self.through_gradient = through_gradient

    def forward(self, weight: Tensor) -> Tensor:
        """Scale the rows of (O, I) to unit norm; a zero row stays zero."""
        norm = (weight if self.through_gradient else weight.detach()).norm(dim=1, keepdim=True)
        return weight / F.threshold(norm, 0, 1)


class DepthwiseAffine(nn.Module):
    """The learned depthwise kernel r_o and bias c_o after the preconditioner; keeps the size of the map.

    It is initialized with a delta and the bias of `conv`, and replaces that bias.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d):
        super().__init__()
        self.kernel_size: Sequence[int] = conv.kernel_size
        weight = conv.weight.detach()
        delta = weight.new_zeros(conv.out_channels, 1, *conv.kernel_size)
        delta[:, :, (conv.kernel_size[0] - 1) // 2, (conv.kernel_size[1] - 1) // 2] = 1.0
        self.weight = nn.Parameter(delta)
        bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().clone()
        self.bias = nn.Parameter(bias)
        conv.bias = None

    def forward(self, y: Tensor) -> Tensor:
        """Map (B, O, H, W) to (B, O, H, W)."""
        kh, kw = self.kernel_size
        out = F.conv2d(y, self.weight, self.bias, padding=(kh // 2, kw // 2), groups=y.shape[1])
        # The output for an even kernel has one extra row and column, before the position of the delta.
        return out[..., (kh + 1) % 2 :, (kw + 1) % 2 :]

    def gains(self) -> Tensor:
        """Return an upper bound of the norm of each channel's kernel, (O,), in double precision."""
        kernel = self.weight[:, 0].double()
        grid = (AFFINE_GRID, AFFINE_GRID)
        response = torch.fft.rfft2(kernel, s=grid).abs().amax(dim=(1, 2))
        return response / math.prod(riesz_cosines(kernel.shape[1:], grid))


class RunningAverage(nn.Module):
    """The authors' running average of V for evaluation, with weight max(cosine ramp-down over 40000 steps, 0.01).

    The average is kept for the grid of the last training step; evaluation on another grid uses the exact V. The
    buffers take their shape from the state dict when loaded.
    """

    average: Tensor
    steps: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.empty(0))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, v: Tensor) -> Tensor:
        """In training, update the average with V (O, m_h, m_w // 2 + 1) and return V; else return the average."""
        if not self.training:
            return self.average.to(v.dtype) if self.average.shape == v.shape else v
        if self.average.shape != v.shape:
            self.average = v.detach().clone()
            self.steps.zero_()
        progress = (self.steps / 40000).clamp(max=1)
        weight = (0.5 * (torch.cos(math.pi * progress) + 1)).clamp(min=0.01)
        self.average.lerp_(v.detach(), weight.to(v))  # in place, as a CUDA graph requires
        self.steps.add_(1)
        return v

    def _load_from_state_dict(self, state_dict, prefix, *args):
        stored = state_dict.get(prefix + "average")
        if stored is not None:
            self.average = self.average.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


class ConvNormLayer(nn.Module, ABC):
    """Base of both ConvNorm layers: holds the convolution, computes V, applies the affine part and the batch norm."""

    is_layer = True

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, options: ConvNorm):
        super().__init__()
        self.conv = conv
        self.options = options
        self.affine = DepthwiseAffine(conv) if options.affine else None
        self.batch_norm = BatchNorm(conv.out_channels) if options.batch_norm else None
        if options.running_average:
            self.average = RunningAverage()

    @abstractmethod
    def to_grid(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Window, Window]]:
        """Return the convolution of x (B, I, H, W) on its grid, its stride-1 kernel there, and the output's window."""

    def preconditioner(self, kernel: Tensor, grid: Pair) -> Tensor:
        """Return V on `grid`, (O, m_h, m_w // 2 + 1), for a stride-1 kernel (O, I, kh, kw)."""
        grid = grid if kernel[0, 0].numel() > 1 else (1, 1)  # for a 1x1 kernel, V is constant over the frequencies
        v = preconditioner(kernel if self.options.through_gradient else kernel.detach(), grid, self.options.eps)
        return self.average(v.to(kernel.dtype)) if self.options.running_average else v

    def is_circular(self, size: Pair) -> bool:
        """Return whether the convolution is circular on the grid of its own input of `size`."""
        return False

    def get_convolution(self) -> nn.Conv2d | nn.ConvTranspose2d:
        """Return the convolution that is preconditioned, see `models.protocols.ConvolutionWrapper`."""
        return self.conv

    def lipschitz_bound(self, input_shape: Sequence[int] | None, get_bound: GetBound) -> float:
        """Return an upper bound of the layer's Lipschitz constant in evaluation mode.

        With `input_shape` (C, H, W), the preconditioned convolution is bounded by its exact norm on its own grid, the
        maximum over the frequencies of ||diag(V) K||. The output of the layer is a crop of that grid. Without
        `input_shape` the bound follows from the unit rows: sqrt(O / groups), for a transposed convolution
        sqrt(O s² / groups). The affine part and the batch norm multiply the bound by their largest gain of a channel.
        """
        with torch.no_grad():
            if self.batch_norm is not None and self.batch_norm.training:
                return math.inf
            bound = self._bound_from_unit_rows() if input_shape is None else self._bound_on_grid(input_shape)
            return bound * self._channel_gains().max().item()

    def extra_repr(self) -> str:
        """Show the options."""
        return f"affine={self.options.affine}, stride={self.options.stride!r}"

    def _precondition(self, y: Tensor, kernel: Tensor, window: tuple[Window, Window]) -> Tensor:
        """Filter each channel of y (B, O, m_h, m_w) by the V of `kernel` (O, I, kh, kw), and crop it to `window`."""
        return circular_filter(y, self.preconditioner(kernel, y.shape[-2:]), window)

    def _finish(self, y: Tensor) -> Tensor:
        if self.conv.bias is not None:
            y.add_(self.conv.bias[:, None, None])  # in place, to save a pass over the map
        if self.affine is not None:
            y = self.affine(y)
        return y if self.batch_norm is None else self.batch_norm(y)

    def _bound_from_unit_rows(self) -> float:
        conv = self.conv
        if conv.padding_mode != "zeros" or self.options.running_average:
            return math.inf  # other padding may repeat pixels, and an averaged V does not make the rows unit
        phases = math.prod(conv.stride) if isinstance(conv, nn.ConvTranspose2d) else 1
        return math.sqrt(conv.out_channels * phases / conv.groups)

    def _bound_on_grid(self, input_shape: Sequence[int]) -> float:
        conv = self.conv
        y, kernel, window = self.to_grid(conv.weight.new_zeros(1, *input_shape))
        grid = y.shape[-2:]
        v = self.preconditioner(kernel, grid).double()
        bound = 0.0
        for rows, scales in zip(kernel.double().chunk(conv.groups), v.chunk(conv.groups), strict=True):
            symbol = torch.fft.rfft2(rows, s=grid) * scales[:, None]  # (O / g, I / g, m_h, m_w / 2 + 1)
            matrices = symbol.flatten(2).permute(2, 0, 1)
            for part in matrices.split(max(1, SYMBOL_CHUNK // matrices[0].numel())):
                bound = max(bound, largest_norm(part))
        repeats = math.prod(
            int(axis.positions(period).bincount().max()) for axis, period in zip(window, grid, strict=True)
        )
        if isinstance(conv, nn.Conv2d) and not self.is_circular(input_shape[1:]):
            repeats *= padding_multiplicity(conv, input_shape[1:])
        return bound * math.sqrt(repeats)

    def _channel_gains(self) -> Tensor:
        """Return the largest gain of affine part and batch norm for each channel, (O,)."""
        weight = self.conv.weight
        gains = torch.ones(self.conv.out_channels, dtype=torch.float64, device=weight.device)
        if self.affine is not None:
            gains = gains * self.affine.gains()
        if self.batch_norm is not None:
            norm = self.batch_norm
            gains = gains * (norm.weight / (norm.running_var + norm.eps).sqrt()).abs()
        return gains


class ConvNorm2d(ConvNormLayer):
    """ConvNorm of an `nn.Conv2d`: (B, I, H, W) -> (B, O, H', W'), the shape of the bare convolution."""

    conv: nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        """Convolve on the grid, precondition, crop, subsample and apply the affine part."""
        if x.dim() == 3:
            return self(x[None])[0]
        return self._finish(self._precondition(*self.to_grid(x)))

    def is_circular(self, size: Pair) -> bool:
        """Return whether the convolution is circular on the grid of its own input of `size`."""
        sizes = zip(size, self._stride, self._kernel_size, strict=True)
        return self.conv.padding_mode == "circular" and all(n % s == 0 and k <= n for n, s, k in sizes)

    def to_grid(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Window, Window]]:
        """Return the convolution (B, O, m_h, m_w) on its grid, its stride-1 kernel there, and the output's window."""
        conv, weight = self.conv, self.conv.weight  # read once: each access may change a parametrized weight
        stride, kernel_size, sides = self._stride, self._kernel_size, padding_sides(conv)
        circular = self.is_circular(tuple(x.shape[2:]))
        if conv.padding_mode != "zeros" and not circular:
            x = F.pad(x, (*sides[1], *sides[0]), mode=conv.padding_mode)
            sides = ((0, 0), (0, 0))
        size = tuple(x.shape[2:])
        counts = [(n + sum(p) - k) // s + 1 for n, p, k, s in zip(size, sides, kernel_size, conv.stride, strict=True)]
        if min(counts) <= 0:
            raise ValueError(f"a kernel of size {kernel_size} does not fit into an input of size {size}")

        if circular:
            skips = (0, 0)
            pads = [(p[0], max(0, k - s - p[0])) for p, k, s in zip(sides, kernel_size, stride, strict=True)]
            x = F.pad(x, (*pads[1], *pads[0]), mode="circular")
            grid = [n // s for n, s in zip(size, stride, strict=True)]
            y = conv2d(x, weight, stride, (0, 0), conv.dilation, conv.groups)[..., : grid[0], : grid[1]]
        else:
            # Zeros for every position at which the kernel overlaps the input, in whole strides from the first output.
            skips = tuple(
                math.ceil(max(0, k - 1 - p[0]) / s) for p, k, s in zip(sides, kernel_size, stride, strict=True)
            )
            border = tuple(p[0] + skip * s for p, skip, s in zip(sides, skips, stride, strict=True))
            y = conv2d(x, weight, stride, border, conv.dilation, conv.groups)

        # With the stride phases as input channels, the strided operator has stride 1 on the grid.
        kernel = fold_phases(dilate(weight, conv.dilation), stride).flatten(1, 3)
        steps = (wanted // done for wanted, done in zip(conv.stride, stride, strict=True))
        rows, columns = map(Window, skips, counts, steps)
        return y, kernel, (rows, columns)

    @property
    def _stride(self) -> Pair:
        """The stride of the convolution onto the grid."""
        return self.conv.stride if self.options.stride == "strided" else (1, 1)

    @property
    def _kernel_size(self) -> Pair:
        return effective_kernel_size(self.conv.kernel_size, self.conv.dilation)


class ConvNormTranspose2d(ConvNormLayer):
    """ConvNorm of an `nn.ConvTranspose2d`: preconditions each output channel and stride phase on the input grid."""

    conv: nn.ConvTranspose2d

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, I, H, W) to the shape of the bare transposed convolution."""
        if x.dim() == 3:
            return self(x[None], output_size)[0]
        conv = self.conv
        padding = cast(tuple[int, int], conv.padding)  # transposed convolutions do not accept a string
        geometry = list(conv.stride), list(padding), list(conv.kernel_size), 2, list(conv.dilation)
        extra = conv._output_padding(x, output_size, *geometry)
        sh, sw = conv.stride
        phases = self._precondition(*self.to_grid(x)).unflatten(1, (conv.out_channels, sh, sw))
        y = phases.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)

        kernel_size = effective_kernel_size(conv.kernel_size, conv.dilation)
        size = [
            (n - 1) * s - 2 * p + k + e
            for n, s, p, k, e in zip(x.shape[2:], conv.stride, padding, kernel_size, extra, strict=True)
        ]
        missing = [max(0, p + m - have) for p, m, have in zip(padding, size, y.shape[2:], strict=True)]
        y = F.pad(y, (0, missing[1], 0, missing[0]))
        top, left = padding
        return self._finish(y[..., top : top + size[0], left : left + size[1]])

    def to_grid(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Window, Window]]:
        """Return the phases of the convolution (B, O sh sw, m_h, m_w), their stride-1 kernel, and the whole grid."""
        conv, weight = self.conv, self.conv.weight
        per_group = weight.unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1)  # (O, I / g, kh, kw)
        folded = fold_phases(dilate(per_group, conv.dilation), conv.stride)  # (O, I / g, sh, sw, kh', kw')
        kernel = folded.movedim(1, 3).flatten(0, 2)  # one output channel per phase: (O sh sw, I / g, kh', kw')
        sh, sw = conv.stride
        grid = (x.shape[2] + kernel.shape[2] - 1, x.shape[3] + kernel.shape[3] - 1)

        y = F.conv_transpose2d(x, weight, None, conv.stride, 0, 0, conv.groups, conv.dilation)
        y = F.pad(y, (0, grid[1] * sw - y.shape[3], 0, grid[0] * sh - y.shape[2]))
        y = y.unflatten(3, (grid[1], sw)).unflatten(2, (grid[0], sh))  # (B, O, m_h, sh, m_w, sw)
        phases = y.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        return phases, kernel, (Window(0, grid[0], 1), Window(0, grid[1], 1))
