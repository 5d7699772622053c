"""ConvNorm: convolutions preconditioned in the Fourier domain (Liu et al., NeurIPS 2021, arXiv 2103.00673)."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.activation_norms.batch import BatchNorm
from models.kernels import winograd
from models.kernels.fourier import Pair, Window, circular_filter, dilate, fold_phases, preconditioner
from models.normalizations.base import NORMALIZATIONS, Normalization
from models.normalizations.conv_norm_bound import conv_norm_bound
from models.normalizations.conv_norm_parts import DepthwiseAffine, RunningAverage
from models.ranges import AT_LEAST_0


@NORMALIZATIONS.register("conv_norm")
@dataclass(frozen=True, kw_only=True)
class ConvNorm(Normalization):
    r"""Scales each output channel of a convolution, frequency by frequency, to a co-isometry (paper, eq. 3-5).

    With ^ the 2-D DFT on a grid on which the linear convolution is circular,

        V_o = (Σ_i |W^_oi|²)^(-1/2),   y_o = F⁻¹[V_o · F[(W * x)_o]] + b_o,   out_o = r_o * y_o + c_o,

    where r_o is a learned depthwise kernel (`affine`) that starts as a delta. V depends on the weights and the grid
    alone, so evaluation recomputes it exactly: training and evaluation are the same function, at any input size,
    unless `running_average` (the authors' choice) or `batch_norm` is on.

    What it does not do: without the affine part, the layer's matrix at a frequency has unit *rows*, hence an operator
    norm σ on the grid with max(1, sqrt(O / min(O, I))) <= σ <= sqrt(O), O and I counted per group and I counting the
    s² stride phases as channels. It is not non-expansive, and the affine part and batch norm remove any bound.

    The grid. `stride: paper` convolves at stride 1, preconditions the full-size output and then subsamples, which
    costs s² times the convolution. `stride: strided` preconditions the strided operator itself: its spectrum is the
    mean of Σ_i |W^|² over the s² aliases, and the convolution costs what the bare one does. Both agree at stride 1.
    Circular padding: the grid is the input's own (n / s) if s divides n and the kernel fits into the input; then each
    output channel alone is a co-isometry, A_o A_oᵀ = I. Zero padding: the grid has every position at which the
    (strided) kernel touches the input, n + k - 1 of them at stride 1. On it the linear convolution is circular, and
    the layer is a co-isometry restricted to inputs that vanish outside the image and cropped to the output: A_o A_oᵀ
    <= I, so its rows have norms of at most 1, and less where they reach into the padding. Circular padding otherwise,
    and reflect and replicate padding: the input is padded explicitly and the padded map takes the zero-padding route,
    so the norm of the padding map multiplies the bound.

    `nn.ConvTranspose2d` is preconditioned per output channel and stride phase on the input grid; `nn.Linear` and
    `nn.Embedding` get rows of unit norm and no affine part.
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
    """Differentiate through V; the paper holds it fixed"""
    eps: Annotated[float, AT_LEAST_0] = 1e-6
    """Floor of Σ|W^|² relative to its mean over frequencies, for filters with a spectral null"""

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Wrap a convolution; reparametrize the weight of a linear or embedding layer."""
        if isinstance(layer, nn.ConvTranspose2d):
            return ConvNormTranspose2d(layer, self)
        if isinstance(layer, nn.Conv2d):
            return ConvNorm2d(layer, self)
        return parametrize.register_parametrization(layer, "weight", UnitRows(self.through_gradient))


class UnitRows(nn.Module):
    """Parametrization W_o / ||W_o||: ConvNorm of a 1x1 map, that is of a linear or embedding layer."""

    def __init__(self, through_gradient: bool):
        super().__init__()
        self.through_gradient = through_gradient

    def forward(self, weight: Tensor) -> Tensor:
        """Map (O, I) to rows of unit norm; a zero row stays zero."""
        norm = (weight if self.through_gradient else weight.detach()).norm(dim=1, keepdim=True)
        return weight / torch.where(norm > 0, norm, 1.0)


class ConvNormLayer(nn.Module, ABC):
    """What both convolutions share: the convolution itself, V and the affine part."""

    is_layer = True

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, options: ConvNorm):
        super().__init__()
        self.conv = conv
        self.options = options
        # The affine part has a bias of its own: the convolution's would be a second one.
        self.affine = DepthwiseAffine(conv) if options.affine else None
        self.batch_norm = BatchNorm(conv.out_channels) if options.batch_norm else None
        if options.running_average:
            self.average = RunningAverage()

    def _precondition(self, y: Tensor, kernel: Tensor, window: tuple[Window, Window]) -> Tensor:
        """Filter each channel of y (B, O, m_h, m_w) by the V of `kernel` (O, I, kh, kw); return a window of it.

        In float32 at least.
        """
        v = self.preconditioner(kernel, y.shape[-2:])
        return circular_filter(y, v if y.dtype == torch.float64 else v.float(), window)

    def preconditioner(self, kernel: Tensor, grid: Pair) -> Tensor:
        """Return V on `grid`, (O, m_h, m_w // 2 + 1), for a stride-1 kernel (O, I, kh, kw)."""
        grid = grid if kernel[0, 0].numel() > 1 else (1, 1)  # one tap has the same V at every frequency
        v = preconditioner(kernel if self.options.through_gradient else kernel.detach(), grid, self.options.eps)
        return self.average(v.to(kernel.dtype)) if self.options.running_average else v

    @abstractmethod
    def to_grid(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Window, Window]]:
        """Return the convolution of x (B, I, H, W) on its grid, its stride-1 kernel there, and the output's window."""

    def is_circular(self, size: Pair) -> bool:
        """Tell whether an input of `size` is its own grid."""
        return False  # zero padding: an `nn.ConvTranspose2d` has no other

    def _finish(self, y: Tensor) -> Tensor:
        if self.conv.bias is not None:
            y.add_(self.conv.bias[:, None, None])  # in place: one pass over the map less
        if self.affine is not None:
            y = self.affine(y)
        return y if self.batch_norm is None else self.batch_norm(y)

    def lipschitz_bound(self, input_shape, get_bound) -> float:
        """Return an upper bound of the layer's norm; see `conv_norm_bound`."""
        return conv_norm_bound(self, input_shape, get_bound)

    def extra_repr(self) -> str:
        """Show the options."""
        return f"affine={self.options.affine}, stride={self.options.stride!r}"


class ConvNorm2d(ConvNormLayer):
    """ConvNorm of an `nn.Conv2d`; (B, I, H, W) -> (B, O, H', W'), with the shape of the bare convolution."""

    conv: nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        """Convolve into the grid, precondition, crop, subsample and apply the affine part."""
        if x.dim() == 3:
            return self(x[None])[0]
        return self._finish(self._precondition(*self.to_grid(x)))

    def is_circular(self, size: Pair) -> bool:
        """Tell whether an input of `size` is its own grid."""
        sizes = zip(size, self._stride, self._reach, strict=True)
        return self.conv.padding_mode == "circular" and all(n % s == 0 and k <= n for n, s, k in sizes)

    def to_grid(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Window, Window]]:
        """Return the convolution (B, O, m_h, m_w) on its grid, its stride-1 kernel there, and the output's window."""
        conv, weight = self.conv, self.conv.weight  # read once: another parametrization may move at each access
        stride, reach, sides = self._stride, self._reach, _padding(conv)
        circular = self.is_circular(tuple(x.shape[2:]))
        if conv.padding_mode != "zeros" and not circular:
            x = F.pad(x, (*sides[1], *sides[0]), mode=conv.padding_mode)
            sides = ((0, 0), (0, 0))
        size = tuple(x.shape[2:])
        counts = [(n + sum(p) - k) // s + 1 for n, p, k, s in zip(size, sides, reach, conv.stride, strict=True)]
        if min(counts) <= 0:
            raise ValueError(f"a kernel of size {reach} does not fit into an input of size {size}")

        if circular:
            skips = (0, 0)
            pads = [(p[0], max(0, k - s - p[0])) for p, k, s in zip(sides, reach, stride, strict=True)]
            x = F.pad(x, (*pads[1], *pads[0]), mode="circular")
            grid = [n // s for n, s in zip(size, stride, strict=True)]
            y = self._convolve(x, weight, stride, (0, 0))[..., : grid[0], : grid[1]]
        else:
            # Enough zeros on both sides for every position that touches the input, in whole strides from the first.
            skips = tuple(math.ceil(max(0, k - 1 - p[0]) / s) for p, k, s in zip(sides, reach, stride, strict=True))
            border = tuple(p[0] + skip * s for p, skip, s in zip(sides, skips, stride, strict=True))
            y = self._convolve(x, weight, stride, border)

        # The stride folded into input channels, so that the strided operator is a stride-1 one on the grid.
        kernel = fold_phases(dilate(weight, conv.dilation), stride).flatten(1, 3)
        steps = (wanted // done for wanted, done in zip(conv.stride, stride, strict=True))
        rows, columns = map(Window, skips, counts, steps)
        return y, kernel, (rows, columns)

    def _convolve(self, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        """Convolve x (B, I, H, W) with zeros around, in the fastest way."""
        conv = self.conv
        if tuple(stride) == (1, 1) and x.device.type == "cpu":
            plain = (conv.kernel_size, conv.dilation, conv.groups) == ((3, 3), (1, 1), 1) and padding[0] == padding[1]
            if plain and winograd.is_faster(x, conv.out_channels, padding[0]):
                return winograd.conv3x3(x, weight, None, padding[0])
            # What is more than half a kernel by hand: oneDNN's gradients are slow for such a padding.
            half = [min(p, k // 2) for p, k in zip(padding, self._reach, strict=True)]
            by_hand = [p - h for p, h in zip(padding, half, strict=True)]
            if any(by_hand):  # padding by nothing is a copy
                x, padding = F.pad(x, (by_hand[1], by_hand[1], by_hand[0], by_hand[0])), half
        return F.conv2d(x, weight, None, stride, padding, conv.dilation, conv.groups)

    @property
    def _stride(self) -> Pair:
        """The stride of the convolution into the grid."""
        return self.conv.stride if self.options.stride == "strided" else (1, 1)

    @property
    def _reach(self) -> Pair:
        """The size of the kernel with its dilation."""
        kh, kw = (d * (k - 1) + 1 for d, k in zip(self.conv.dilation, self.conv.kernel_size, strict=True))
        return kh, kw


class ConvNormTranspose2d(ConvNormLayer):
    """ConvNorm of an `nn.ConvTranspose2d`, each output channel and stride phase on the input grid."""

    conv: nn.ConvTranspose2d

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, I, H, W) to the shape of the bare transposed convolution."""
        if x.dim() == 3:
            return self(x[None], output_size)[0]
        conv = self.conv
        padding = cast(tuple[int, int], conv.padding)  # only `nn.Conv2d` takes a string
        geometry = list(conv.stride), list(padding), list(conv.kernel_size), 2, list(conv.dilation)
        extra = conv._output_padding(x, output_size, *geometry)
        sh, sw = conv.stride
        phases = self._precondition(*self.to_grid(x)).unflatten(1, (conv.out_channels, sh, sw))
        y = phases.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)

        reach = (d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
        size = [
            (n - 1) * s - 2 * p + k + e
            for n, s, p, k, e in zip(x.shape[2:], conv.stride, padding, reach, extra, strict=True)
        ]
        missing = [max(0, p + m - have) for p, m, have in zip(padding, size, y.shape[2:], strict=True)]
        y = F.pad(y, (0, missing[1], 0, missing[0]))
        top, side = padding
        return self._finish(y[..., top : top + size[0], side : side + size[1]])

    def to_grid(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Window, Window]]:
        """Return the phases of the convolution (B, O sh sw, m_h, m_w), their stride-1 kernel, and the whole grid."""
        conv, weight = self.conv, self.conv.weight
        per_group = weight.unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1)  # (O, I / g, kh, kw)
        folded = fold_phases(dilate(per_group, conv.dilation), conv.stride)  # (O, I / g, sh, sw, kh', kw')
        kernel = folded.movedim(1, 3).flatten(0, 2)  # one row of channels per phase: (O sh sw, I / g, kh', kw')
        sh, sw = conv.stride
        grid = (x.shape[2] + kernel.shape[2] - 1, x.shape[3] + kernel.shape[3] - 1)

        y = F.conv_transpose2d(x, weight, None, conv.stride, 0, 0, conv.groups, conv.dilation)
        y = F.pad(y, (0, grid[1] * sw - y.shape[3], 0, grid[0] * sh - y.shape[2]))
        y = y.unflatten(3, (grid[1], sw)).unflatten(2, (grid[0], sh))  # (B, O, m_h, sh, m_w, sw)
        phases = y.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        return phases, kernel, (Window(0, grid[0], 1), Window(0, grid[1], 1))


def _padding(conv: nn.Conv2d) -> tuple[Pair, Pair]:
    """Return ((top, bottom), (left, right)), with 'same' and 'valid' resolved."""
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    return (top, bottom), (left, right)
