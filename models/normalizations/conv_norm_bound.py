"""An upper bound of the norm of a ConvNorm layer."""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:  # it imports this module
    from models.normalizations.conv_norm import ConvNormLayer

CHUNK = 2**22  # entries of the symbol held at a time
AFFINE_GRID = 64  # frequencies per axis at which the depthwise kernel is looked at


@torch.no_grad()
def conv_norm_bound(layer: "ConvNormLayer", input_shape, get_bound) -> float:
    """Return an upper bound of the Lipschitz constant of `layer` in evaluation mode.

    With `input_shape` (C, H, W) the preconditioned convolution is bounded by its exact norm on its own grid, max over
    frequencies of ||diag(V) K||, of which the layer's output is a crop. Without it only the unit rows are known:
    sqrt(O / groups), for a transposed convolution sqrt(O s² / groups). The affine part and the batch norm come on top,
    channel by channel, with the largest response of the depthwise kernel.
    """
    gains = _channel_gains(layer)
    if gains is None:
        return math.inf
    core = _rows_bound(layer) if input_shape is None else _grid_bound(layer, input_shape, get_bound)
    return core * gains.max().item()


def _rows_bound(layer: "ConvNormLayer") -> float:
    conv = layer.conv
    phases = math.prod(conv.stride) if isinstance(conv, nn.ConvTranspose2d) else 1
    # An average of V is not the V of these weights; padding other than with zeros may repeat pixels.
    known = conv.padding_mode == "zeros" and not layer.options.running_average
    return math.sqrt(conv.out_channels * phases / conv.groups) if known else math.inf


def _grid_bound(layer: "ConvNormLayer", input_shape, get_bound) -> float:
    conv = layer.conv
    y, kernel, window = layer.to_grid(conv.weight.new_zeros(1, *input_shape))
    grid = y.shape[-2:]
    v = layer.preconditioner(kernel, grid).double()
    bound = 0.0
    for rows, scales in zip(kernel.double().chunk(conv.groups), v.chunk(conv.groups), strict=True):
        symbol = torch.fft.rfft2(rows, s=grid) * scales[:, None]  # (O / g, I / g, m_h, m_w / 2 + 1)
        matrices = symbol.flatten(2).permute(2, 0, 1)
        for part in matrices.split(max(1, CHUNK // matrices[0].numel())):
            bound = max(bound, get_bound(part))
    repeats = math.prod(
        axis.positions(period).bincount().max().item() for axis, period in zip(window, grid, strict=True)
    )
    return bound * math.sqrt(repeats * _padding_repeats(layer, input_shape))


def _padding_repeats(layer: "ConvNormLayer", input_shape) -> int:
    """Return how often padding repeats one pixel at most; circular padding on the input's own grid repeats none."""
    conv = layer.conv
    if conv.padding_mode == "zeros" or layer.is_circular(input_shape[1:]):
        return 1
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    repeats = 1
    for size, sides in zip(input_shape[1:], ((top, bottom), (left, right)), strict=True):
        positions = torch.arange(size, dtype=torch.float32)[None, None]
        repeats *= int(F.pad(positions, sides, mode=conv.padding_mode).long().flatten().bincount().max())
    return repeats


def _channel_gains(layer: "ConvNormLayer") -> Tensor | None:
    """Return the largest gain of affine part and batch norm for each channel, (O,); None where it has no bound."""
    weight = layer.conv.weight
    gains = torch.ones(layer.conv.out_channels, dtype=torch.float64, device=weight.device)
    if layer.affine is not None:
        kernel = layer.affine.weight[:, 0].double()
        response = torch.fft.rfft2(kernel, s=(AFFINE_GRID, AFFINE_GRID)).abs().amax(dim=(1, 2))
        # Between the frequencies of the grid it can be larger, by Riesz's interpolation formula at most this much.
        angles = [(k - 1) / 2 * math.pi / AFFINE_GRID for k in kernel.shape[1:]]
        gains = gains * response / math.prod(math.cos(angle) for angle in angles)
    if layer.batch_norm is not None:
        norm = layer.batch_norm
        if norm.training:
            return None
        assert norm.running_var is not None  # ConvNorm's own batch norm keeps it
        gains = gains * (norm.weight / (norm.running_var + norm.eps).sqrt()).abs()
    return gains
