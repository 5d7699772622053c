"""The layers of ConvNorm (`models.normalizations.conv_norm`), which wrap convolutions of one to three dimensions."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from models.activation_norms.batch import BatchNorm
from models.kernels.circular_filter import Window, Windows, circular_filter
from models.kernels.conv import CONVOLVE, conv2d
from models.kernels.fourier import preconditioner
from models.kernels.polyphase import Positions, fold_taps
from models.kernels.symbol import (
    effective_kernel_size,
    largest_norm,
    padding_multiplicity,
    padding_sides,
)
from models.normalizations.conv_norm_parts import DepthwiseAffine, RunningAverage
from models.normalizations.conv_wrapper import ConvWrapper

if TYPE_CHECKING:
    from models.normalizations.conv_norm import ConvNorm

SYMBOL_CHUNK = 2**22  # entries of the symbol whose norms are computed at once

CONVOLVE_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: BatchNorm, 3: nn.BatchNorm3d}


class GridConvolution(NamedTuple):
    """A convolution on a grid on which it is circular."""

    y: Tensor
    """The result, (B, O, *m)"""
    kernel: Tensor
    """Its kernel of stride 1, (O, I, *t), without the gaps of a dilation"""
    positions: Positions
    """The positions of the kernel's taps"""
    window: Windows
    """The part of the grid that is the output"""


class ConvNormLayer(ConvWrapper):
    """Base of the ConvNorm layers: computes V, applies the affine part and the batch norm.

    `bias` is the bias of the output, which the affine part holds, or None if the convolution had no bias.
    """

    normalization = "ConvNorm"

    def __init__(self, conv: _ConvNd, options: "ConvNorm"):
        super().__init__(conv)
        self.options = options
        self._has_bias = conv.bias is not None
        authors = options.variant == "authors"
        self.affine = DepthwiseAffine(conv, random=authors) if options.affine else None
        self.batch_norm = BATCH_NORMS[len(conv.kernel_size)](conv.out_channels) if options.batch_norm else None
        if options.running_average:
            self.average = RunningAverage()

    def get_convolution(self) -> _ConvNd:
        """Return the convolution that is preconditioned, see `models.protocols.ConvolutionWrapper`."""
        return self.conv

    def get_bias(self) -> Tensor | None:
        """Return the bias of the output, or None."""
        return self._bias_owner.bias if self._has_bias else None

    def set_bias(self, bias: Any) -> None:
        """Replace the bias of the output."""
        self._has_bias = bias is not None
        self._bias_owner.bias = bias

    @property
    def _bias_owner(self) -> "_ConvNd | DepthwiseAffine":
        return self.conv if self.affine is None else self.affine

    @abstractmethod
    def to_grid(self, x: Tensor) -> GridConvolution:
        """Return the convolution of x (B, I, *n) on its grid."""

    def preconditioner(self, kernel: Tensor, grid: Sequence[int], positions: Positions) -> Tensor:
        """Return V on `grid`, (O, *m) with m_n // 2 + 1 on the last axis, for a stride-1 kernel (O, I, *t)."""
        # For a 1x1 kernel, V is constant over the frequencies.
        grid = grid if kernel[0, 0].numel() > 1 else [1] * len(grid)
        kernel = kernel if self.options.through_gradient else kernel.detach()
        v = preconditioner(kernel, grid, self.options.eps, positions)
        return self.average(v.to(kernel.dtype)) if self.options.running_average else v

    def is_circular(self, size: Sequence[int]) -> bool:
        """Return whether the convolution is circular on the grid of its own input of `size`."""
        return False

    def lipschitz_bound(self, input_shape: Sequence[int]) -> float:
        """Return an upper bound of the layer's Lipschitz constant in evaluation mode.

        The preconditioned convolution is bounded by its exact norm on its own grid, the maximum over the frequencies of
        ||diag(V) K||. The output of the layer is a crop of that grid. The affine part and the batch norm multiply the
        bound by their largest gain of a channel.
        """
        with torch.no_grad():
            if self.batch_norm is not None and self.batch_norm.training:
                return math.inf
            return self._bound_on_grid(input_shape) * self._channel_gains().max().item()

    def extra_repr(self) -> str:
        """Show the options."""
        return f"affine={self.options.affine}, stride={self.options.stride!r}"

    def _precondition(self, on_grid: GridConvolution) -> Tensor:
        """Filter each channel by the V of the kernel, and crop it to the output."""
        y, kernel, positions, window = on_grid
        return circular_filter(y, self.preconditioner(kernel, y.shape[2:], positions), window)

    def _finish(self, y: Tensor) -> Tensor:
        if self.conv.bias is not None:
            y.add_(self.conv.bias.view(-1, *[1] * (y.dim() - 2)))  # in place, to save a pass over the map
        if self.affine is not None:
            y = self.affine(y)
        return y if self.batch_norm is None else self.batch_norm(y)

    def _bound_on_grid(self, input_shape: Sequence[int]) -> float:
        conv = self.conv
        y, kernel, positions, window = self.to_grid(conv.weight.new_zeros(1, *input_shape))
        grid, axes = tuple(y.shape[2:]), tuple(range(2, y.dim()))
        v = self.preconditioner(kernel, grid, positions).double()
        index = torch.meshgrid([torch.tensor(axis, device=y.device) for axis in positions], indexing="ij")
        bound = 0.0
        for rows, scales in zip(kernel.double().chunk(conv.groups), v.chunk(conv.groups), strict=True):
            whole = rows.new_zeros(*rows.shape[:2], *grid)
            whole[(..., *index)] = rows
            symbol = torch.fft.rfftn(whole, dim=axes) * scales[:, None]  # (O / g, I / g, *m)
            matrices = symbol.flatten(2).permute(2, 0, 1)
            for part in matrices.split(max(1, SYMBOL_CHUNK // matrices[0].numel())):
                bound = max(bound, largest_norm(part))
        repeats = math.prod(
            int(axis.positions(period).bincount().max()) for axis, period in zip(window, grid, strict=True)
        )
        if not conv.transposed and not self.is_circular(input_shape[1:]):
            repeats *= padding_multiplicity(conv, input_shape[1:])
        return bound * math.sqrt(repeats)

    def _channel_gains(self) -> Tensor:
        """Return the largest gain of affine part and batch norm for each channel, (O,)."""
        weight = self.conv.weight
        gains = torch.ones(self.conv.out_channels, dtype=torch.float64, device=weight.device)
        if self.affine is not None:
            gains = gains * self.affine.gains()
        if self.batch_norm is not None:
            norm = cast(BatchNorm, self.batch_norm)
            gains = gains * (norm.weight / (norm.running_var + norm.eps).sqrt()).abs()
        return gains


class ConvNormForward(ConvNormLayer):
    """ConvNorm of a convolution: (B, I, *n) -> (B, O, *n'), the shape of the bare convolution."""

    lipschitz_bound = ConvNormLayer.lipschitz_bound  # it describes this forward pass

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I, *n) or (I, *n) to the shape of the bare convolution."""
        return self._call(x)

    def _compute(self, x: Tensor) -> Tensor:
        """Convolve on the grid, precondition, crop, subsample and apply the affine part."""
        return self._finish(self._precondition(self.to_grid(x)))

    def is_circular(self, size: Sequence[int]) -> bool:
        """Return whether the convolution is circular on the grid of its own input of `size`."""
        sizes = zip(size, self._stride_to_grid, self._extent, strict=True)
        return self.conv.padding_mode == "circular" and all(n % s == 0 and k <= n for n, s, k in sizes)

    def to_grid(self, x: Tensor) -> GridConvolution:
        """Return the convolution of x (B, I, *n) on its grid."""
        conv, weight = self.conv, self.conv.weight  # read once: each access may change a parametrized weight
        stride, kernel_size, sides = self._stride_to_grid, self._extent, padding_sides(conv)
        circular = self.is_circular(tuple(x.shape[2:]))
        if conv.padding_mode != "zeros" and not circular:
            x = F.pad(x, _last_axis_first(sides), mode=conv.padding_mode)
            sides = [(0, 0)] * len(stride)
        size = tuple(x.shape[2:])
        counts = [(n + sum(p) - k) // s + 1 for n, p, k, s in zip(size, sides, kernel_size, conv.stride, strict=True)]
        if min(counts) <= 0:
            raise ValueError(f"a kernel of size {kernel_size} does not fit into an input of size {size}")

        if circular:
            skips = [0] * len(stride)
            pads = [(p[0], max(0, k - s - p[0])) for p, k, s in zip(sides, kernel_size, stride, strict=True)]
            x = F.pad(x, _last_axis_first(pads), mode="circular")
            grid = [n // s for n, s in zip(size, stride, strict=True)]
            y = self._convolve(x, weight, stride, skips)[(..., *(slice(m) for m in grid))]
        else:
            # Zeros for every position at which the kernel overlaps the input, in whole strides from the first output.
            skips = [math.ceil(max(0, k - 1 - p[0]) / s) for p, k, s in zip(sides, kernel_size, stride, strict=True)]
            border = [p[0] + skip * s for p, skip, s in zip(sides, skips, stride, strict=True)]
            y = self._convolve(x, weight, stride, border)

        # With the stride phases as input channels, the strided operator has stride 1 on the grid.
        folded, positions = fold_taps(weight, stride, conv.dilation)
        steps = (wanted // done for wanted, done in zip(conv.stride, stride, strict=True))
        window = tuple(map(Window, skips, counts, steps))
        return GridConvolution(y, folded.flatten(1, 1 + len(stride)), positions, window)

    def _convolve(self, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
        conv = self.conv
        if len(stride) == 2:
            return conv2d(x, weight, stride, padding, conv.dilation, conv.groups)
        return CONVOLVE[len(stride)](x, weight, None, tuple(stride), tuple(padding), conv.dilation, conv.groups)

    @property
    def _stride_to_grid(self) -> tuple[int, ...]:
        return self.conv.stride if self.options.stride == "strided" else (1,) * len(self.conv.stride)

    @property
    def _extent(self) -> tuple[int, ...]:
        return effective_kernel_size(self.conv.kernel_size, self.conv.dilation)


class ConvNormTransposed(ConvNormLayer):
    """ConvNorm of a transposed convolution: preconditions each output channel and stride phase on the input grid."""

    lipschitz_bound = ConvNormLayer.lipschitz_bound  # it describes this forward pass

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, I, *n) or (I, *n) to the shape of the bare transposed convolution."""
        return self._call(x, output_size)

    def _compute(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve on the grid, precondition, interleave the phases, crop and apply the affine part."""
        conv = cast(_ConvTransposeNd, self.conv)
        padding = cast(tuple[int, ...], conv.padding)  # transposed convolutions do not accept a string
        n = len(conv.stride)
        geometry = list(conv.stride), list(padding), list(conv.kernel_size), n, list(conv.dilation)
        extra = conv._output_padding(x, output_size, *geometry)
        phases = self._precondition(self.to_grid(x)).unflatten(1, (conv.out_channels, *conv.stride))
        y = phases.permute(0, 1, *(axis for a in range(n) for axis in (2 + n + a, 2 + a)))
        for axis in reversed(range(2, 2 + n)):
            y = y.flatten(2 * axis - 2, 2 * axis - 1)

        kernel_size = effective_kernel_size(conv.kernel_size, conv.dilation)
        size = [
            (n - 1) * s - 2 * p + k + e
            for n, s, p, k, e in zip(x.shape[2:], conv.stride, padding, kernel_size, extra, strict=True)
        ]
        missing = [(0, max(0, p + m - have)) for p, m, have in zip(padding, size, y.shape[2:], strict=True)]
        y = F.pad(y, _last_axis_first(missing))
        return self._finish(y[(..., *(slice(p, p + m) for p, m in zip(padding, size, strict=True)))])

    def to_grid(self, x: Tensor) -> GridConvolution:
        """Return the phases of the convolution (B, O prod(s), *m) on the whole grid."""
        conv, weight, n = self.conv, self.conv.weight, len(self.conv.stride)
        per_group = weight.unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1)  # (O, I / g, *k)
        folded, positions = fold_taps(per_group, conv.stride, conv.dilation)  # (O, I / g, *s, *t)
        kernel = folded.movedim(1, 1 + n).flatten(0, n)  # one output channel per phase: (O prod(s), I / g, *t)
        grid = tuple(size + axis[-1] for size, axis in zip(x.shape[2:], positions, strict=True))

        y = CONVOLVE_TRANSPOSED[n](x, weight, None, conv.stride, 0, 0, conv.groups, conv.dilation)
        missing = [(0, m * s - size) for m, s, size in zip(grid, conv.stride, y.shape[2:], strict=True)]
        y = F.pad(y, _last_axis_first(missing))
        for axis, s in reversed(list(enumerate(conv.stride, start=2))):
            y = y.unflatten(axis, (-1, s))  # at the end (B, O, m_1, s_1, m_2, s_2, ...)
        phases = y.permute(0, 1, *range(3, 3 + 2 * n, 2), *range(2, 2 + 2 * n, 2)).flatten(1, 1 + n)
        return GridConvolution(phases, kernel, positions, tuple(Window(0, m, 1) for m in grid))


class ConvNorm1d(ConvNormForward):
    """ConvNorm of an `nn.Conv1d`: (B, I, L) -> (B, O, L')."""


class ConvNorm2d(ConvNormForward):
    """ConvNorm of an `nn.Conv2d`: (B, I, H, W) -> (B, O, H', W')."""


class ConvNorm3d(ConvNormForward):
    """ConvNorm of an `nn.Conv3d`: (B, I, D, H, W) -> (B, O, D', H', W')."""


class ConvNormTranspose1d(ConvNormTransposed):
    """ConvNorm of an `nn.ConvTranspose1d`: (B, I, L) -> (B, O, L')."""


class ConvNormTranspose2d(ConvNormTransposed):
    """ConvNorm of an `nn.ConvTranspose2d`: (B, I, H, W) -> (B, O, H', W')."""


class ConvNormTranspose3d(ConvNormTransposed):
    """ConvNorm of an `nn.ConvTranspose3d`: (B, I, D, H, W) -> (B, O, D', H', W')."""


WRAPPERS: dict[type[_ConvNd], type[ConvNormLayer]] = {
    nn.Conv1d: ConvNorm1d,
    nn.Conv2d: ConvNorm2d,
    nn.Conv3d: ConvNorm3d,
    nn.ConvTranspose1d: ConvNormTranspose1d,
    nn.ConvTranspose2d: ConvNormTranspose2d,
    nn.ConvTranspose3d: ConvNormTranspose3d,
}


def _last_axis_first(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Return the (before, after) of each axis in the order of `F.pad`."""
    return [side for pair in reversed(pairs) for side in pair]
