"""The singular values of a convolution as a circular one, frequency by frequency (Sedghi, Gupta & Long, ICLR 2019).

On a periodic map, a convolution acts on each frequency by a small matrix, its symbol, with stride phases as channels.
Its singular values are those of all symbols. The cost is that of the SVD of an (a, b) matrix for each frequency and
group, b a² operations for a <= b, instead of that of one matrix of all positions; frequencies w and -w are computed
once, and so is a symbol that does not depend on the frequency (1x1 kernels).
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from metrics.lipschitz.layer_calls import CalledLayer
from metrics.lipschitz.operator_norm import join_outputs, own_tensor
from models.kernels.symbol import dilate, effective_kernel_size, fold_phases, padding_sides
from models.overrides import find_override
from models.protocols import ConvolutionWrapper

COST = 2**33
"""Largest number of operations, Σ b a² over the frequencies, which take a few seconds on a CPU"""
ENTRIES = 2**25
"""Largest number of entries of the symbols of all frequencies"""
RESPONSE = 2**27
"""Largest number of entries of the responses to impulses"""
BATCH = 256
"""Impulses that are processed at once"""


class CircularConvolution(NamedTuple):
    """A convolution on a periodic grid."""

    kernel: Tensor
    """Stride-1 kernel of each group (G, a, b, *taps), with stride phases as channels; it wraps around the grid"""
    grid: tuple[int, ...]
    """Positions per axis"""
    count: int
    """Singular values per frequency and group; there may be more than min(a, b), which are then 0"""
    is_layer: bool
    """Whether its singular values are those of the layer, whose padding then makes no difference"""

    def symbols(self) -> tuple[Tensor, Tensor]:
        """Return the symbols (F, G, a, b), complex and in double precision, and how often each of them occurs, (F,)."""
        kernel = self.kernel.double()
        for axis, period in enumerate(self.grid, start=3):
            kernel = _wrap(kernel, axis, period)
        sizes = tuple(1 if k == 1 else n for k, n in zip(self.kernel.shape[3:], self.grid, strict=True))
        axes = tuple(range(3, kernel.dim()))
        symbols = torch.fft.rfftn(kernel, s=sizes, dim=axes).flatten(3).permute(3, 0, 1, 2)
        last = torch.arange(sizes[-1] // 2 + 1, device=kernel.device)
        repeats = torch.where(2 * last % sizes[-1] == 0, 1, 2) * (math.prod(self.grid) // math.prod(sizes))
        return symbols, repeats.repeat(math.prod(sizes[:-1]))

    @property
    def cost(self) -> int:
        """Number of operations of the SVDs of all symbols."""
        return self.entries * min(self.kernel.shape[1:3])

    @property
    def entries(self) -> int:
        """Number of entries of all symbols."""
        sizes = [1 if k == 1 else n for k, n in zip(self.kernel.shape[3:], self.grid, strict=True)]
        return self.kernel[..., *[0] * len(sizes)].numel() * math.prod(sizes[:-1]) * (sizes[-1] // 2 + 1)


def read_convolution(layer: nn.Module, input_shape: Sequence[int]) -> CircularConvolution | None:
    """Return the circular convolution with the weight of a convolution, linear layer or batch norm of `torch.nn`.

    It is on the map of the input, or on a coarser one if its singular values are too expensive. None for other layers,
    and for those that may compute something else than their type says.
    """
    layer = layer.layer if isinstance(layer, CalledLayer) else layer
    if find_override(layer) is not None:
        return None
    if isinstance(layer, nn.Linear):
        grid = (math.prod(input_shape[:-1]),)
        return _limit(CircularConvolution(layer.weight[None, ..., None], grid, min(layer.weight.shape), is_layer=True))
    if isinstance(layer, _BatchNorm) and layer.running_var is not None:  # a depthwise 1x1 convolution
        scale = (layer.running_var + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight)
        return CircularConvolution(scale[:, None, None, None], (math.prod(input_shape[1:]),), 1, is_layer=True)
    if not isinstance(layer, _ConvNd) or len(input_shape) != len(layer.kernel_size) + 1:
        return None
    kernel = dilate(layer.weight, layer.dilation)
    size = kernel.shape[2:]
    steps = [min(s, k) for s, k in zip(layer.stride, size, strict=True)]  # the kernel is 0 at other phases
    kernel = fold_phases(kernel, steps).flatten(1, 1 + len(steps))
    kernel = kernel.unflatten(0, (layer.groups, -1))  # (G, O / G, I / G phases, *taps), or with I and O swapped
    count = min(kernel.shape[1], layer.weight.shape[1] * math.prod(layer.stride))
    if isinstance(layer, _ConvTransposeNd):  # the adjoint has the same singular values
        grid = tuple(input_shape[1:])
        is_layer = all(k == 1 and p == 0 for k, p in zip(kernel.shape[3:], layer.padding, strict=True))
    else:
        grid = tuple(-(-n // s) for n, s in zip(input_shape[1:], layer.stride, strict=True))
        is_layer = _is_circular(layer, input_shape[1:], kernel.shape[3:])
    return _limit(CircularConvolution(kernel, grid, count, is_layer))


def measure_convolution(layer: nn.Module, input_shape: Sequence[int]) -> CircularConvolution | None:
    """Return the circular convolution with the responses of a layer to impulses in the middle of the map.

    None for layers that are no convolutions and no `models.protocols.ConvolutionWrapper`. The map is halved until the
    responses are not too large.
    """
    inner = layer.layer if isinstance(layer, CalledLayer) else layer
    conv = inner.get_convolution() if isinstance(inner, ConvolutionWrapper) else inner
    if not isinstance(conv, _ConvNd) or len(input_shape) != len(conv.kernel_size) + 1:
        return None
    upsamples = isinstance(conv, _ConvTransposeNd)
    steps = (1,) * len(conv.stride) if upsamples else conv.stride
    shape = tuple(input_shape)
    count = conv.in_channels // conv.groups * math.prod(steps)
    while count * (offset := join_outputs(layer(own_tensor(layer).new_zeros(1, *shape)), 1)).numel() > RESPONSE:
        if min(shape[1:]) < 2 * max(effective_kernel_size(conv.kernel_size, conv.dilation)):
            return None
        shape = shape[0], *(n // 2 for n in shape[1:])
    channels = torch.eye(conv.in_channels // conv.groups, device=offset.device, dtype=offset.dtype).repeat(
        1, conv.groups
    )
    responses = []
    for phase in itertools.product(*map(range, steps)):
        place = tuple(min(n // 2 // s * s + r, n - 1) for n, s, r in zip(shape[1:], steps, phase, strict=True))
        for part in channels.split(BATCH):
            impulses = offset.new_zeros(len(part), *shape)
            impulses[(slice(None), slice(None), *place)] = part
            responses.append(join_outputs(layer(impulses), len(part)) - offset)
    kernel = torch.cat(responses).movedim(0, 1)  # (O, phases I / G, *positions)
    if upsamples:
        kernel = fold_phases(kernel, conv.stride).movedim(1, 1 + len(steps)).flatten(0, len(steps))
    kernel = kernel.unflatten(0, (conv.groups, -1))
    grid = tuple(kernel.shape[3:])
    return _limit(CircularConvolution(kernel, grid, min(kernel.shape[1:3]), is_layer=False))


def _is_circular(conv: _ConvNd, size: Sequence[int], taps: Sequence[int]) -> bool:
    """Return whether a convolution of a map of `size` is circular on the grid of its strides."""
    kernel_size = effective_kernel_size(conv.kernel_size, conv.dilation)
    return all(
        n % s == 0
        and (n + sum(p) - k) // s + 1 == n // s
        and (conv.padding_mode == "circular" or (sum(p) == 0 and t == 1))
        for n, s, p, k, t in zip(size, conv.stride, padding_sides(conv), kernel_size, taps, strict=True)
    )


def _limit(convolution: CircularConvolution) -> CircularConvolution | None:
    """Return the convolution on a grid that is halved until its singular values are not too expensive."""
    while convolution.cost > COST or convolution.entries > ENTRIES:
        if max(convolution.grid) == 1:
            return None
        convolution = convolution._replace(grid=tuple(-(-n // 2) for n in convolution.grid), is_layer=False)
    return convolution


def _wrap(kernel: Tensor, axis: int, period: int) -> Tensor:
    """Add up the taps at the same position of a periodic axis."""
    missing = -kernel.shape[axis] % period
    if kernel.shape[axis] <= period:
        return kernel
    padding = kernel.new_zeros(*kernel.shape[:axis], missing, *kernel.shape[axis + 1 :])
    return torch.cat([kernel, padding], dim=axis).unflatten(axis, (-1, period)).sum(axis)
