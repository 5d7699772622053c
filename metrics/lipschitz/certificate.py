"""Certified upper bounds of the Lipschitz constant (l2) of a layer or network, infinite where none is known."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metrics.lipschitz.eval_mode import eval_mode
from metrics.lipschitz.graph import network_bound
from models.kernels.symbol import (
    dilate,
    effective_kernel_size,
    largest_norm,
    padding_multiplicity,
    padding_sides,
    plane_norm,
    polyphase_taps,
    symbol_norm,
)
from models.protocols import LipschitzBounded

Shape = Sequence[int] | None
CONSTANTS: dict[type[nn.Module], float] = {
    nn.Identity: 1.0, nn.Dropout: 1.0, nn.Dropout2d: 1.0,
    nn.Flatten: 1.0, nn.Unflatten: 1.0, nn.PixelShuffle: 1.0, nn.PixelUnshuffle: 1.0,
    nn.ReLU: 1.0, nn.ReLU6: 1.0, nn.Tanh: 1.0, nn.Softplus: 1.0, nn.Sigmoid: 0.25, nn.Hardtanh: 1.0,
}  # fmt: skip


def certified_bound(layer: nn.Module, input_shape: Shape = None, y: Tensor | None = None) -> float:
    """Return an upper bound (l2) of the Lipschitz constant of `layer`, `math.inf` where none is known.

    The bound holds in evaluation mode, and the mode of `layer` is restored afterwards. A `layer` that contains a batch
    norm in training mode has no bound.

    `input_shape` is (C, H, W), without batch dimension. With it, the bound of a circular convolution on its own grid is
    exact, and the bound of ConvNorm is tighter. A module that implements `models.protocols.LipschitzBounded` computes
    its own bound. A network of known modules is bounded through its graph, which needs `input_shape`. If it is
    class-conditional, it also needs labels `y` (1,), which are treated as constants. Their values do not matter where a
    module bounds all classes, as projection heads do.
    """
    if any(isinstance(module, _BatchNorm) and module.training for module in layer.modules()):
        return math.inf  # it divides by the deviation of the batch, which may be arbitrarily small
    with eval_mode(layer):
        return _get_bound(layer, input_shape, y)


def _get_bound(part: nn.Module | Tensor, input_shape: Shape = None, y: Tensor | None = None) -> float:
    with torch.no_grad():
        if isinstance(part, Tensor):
            return largest_norm(part)
        if isinstance(part, LipschitzBounded):
            return part.lipschitz_bound(input_shape, _get_bound)
        for types, bound in _BOUNDS:
            if isinstance(part, types):
                return bound(part, input_shape)
        if type(part) in CONSTANTS:
            return CONSTANTS[type(part)]
        if input_shape is None or not any(part.children()):
            return math.inf
        example = _first_weight(part).new_zeros(1, *input_shape)
        return network_bound(part, example, y, _get_bound)


def _convolution(layer: nn.Conv2d, input_shape: Shape) -> float:
    groups = dilate(layer.weight, layer.dilation).chunk(layer.groups)
    size = None if input_shape is None else input_shape[1:]
    if size is not None and _is_circular(layer, size):
        grid = [n // s for n, s in zip(size, layer.stride, strict=True)]
        return max(symbol_norm(group, layer.stride, grid) for group in groups)
    bound = max(plane_norm(group, layer.stride) for group in groups)
    return bound * math.sqrt(padding_multiplicity(layer, size))


def _transposed_convolution(layer: nn.ConvTranspose2d, input_shape: Shape) -> float:
    """Return the norm of the adjoint: the same weight, as a convolution from the output to the input."""
    groups = dilate(layer.weight, layer.dilation).chunk(layer.groups)
    return max(plane_norm(group, layer.stride) for group in groups)


def _is_circular(layer: nn.Conv2d, size: Sequence[int]) -> bool:
    """Return whether the convolution is circular on the grid of its own input of `size`."""
    if layer.padding_mode != "circular":
        return False
    kernel_size = effective_kernel_size(layer.kernel_size, layer.dilation)
    return all(
        n % s == 0 and (n + sum(p) - k) // s + 1 <= n // s
        for n, s, p, k in zip(size, layer.stride, padding_sides(layer), kernel_size, strict=True)
    )


def _linear(layer: nn.Linear, input_shape: Shape) -> float:
    return largest_norm(layer.weight[None])


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, input_shape: Shape) -> float:
    if layer.running_var is None:
        return math.inf  # it uses batch statistics in evaluation too
    scale = (layer.running_var + layer.eps).rsqrt()
    return (scale if layer.weight is None else scale * layer.weight.abs()).max().item()


def _leaky_relu(layer: nn.LeakyReLU, input_shape: Shape) -> float:
    return max(1.0, abs(layer.negative_slope))


def _average_pool(layer: nn.AvgPool2d, input_shape: Shape) -> float:
    """Return the norm of a depthwise convolution with a constant kernel."""
    size, stride, padding = (_pair(v) for v in (layer.kernel_size, layer.stride, layer.padding))
    if layer.ceil_mode or layer.divisor_override or (max(padding) and not layer.count_include_pad):
        return math.inf
    kernel = torch.full((1, 1, *size), 1 / math.prod(size), dtype=torch.float64)
    return plane_norm(kernel, stride)


def _adaptive_average_pool(layer: nn.AdaptiveAvgPool2d, input_shape: Shape) -> float:
    """Return the norm of the mean over the whole map, 1 / sqrt(H W); other output sizes have no known bound."""
    if _pair(layer.output_size) != (1, 1) or input_shape is None:
        return math.inf
    return 1 / math.sqrt(math.prod(input_shape[1:]))


def _max_pool(layer: nn.MaxPool2d, input_shape: Shape) -> float:
    """Return the square root of the number of windows in which a pixel can be the maximum."""
    if _pair(layer.dilation) != (1, 1):
        return math.inf
    size, stride = _pair(layer.kernel_size), _pair(layer.stride)
    return math.sqrt(math.prod(polyphase_taps(size, stride)))


def _first_weight(module: nn.Module) -> Tensor:
    return next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


_BOUNDS: tuple[tuple[Any, Callable[[Any, Shape], float]], ...] = (
    (nn.Conv2d, _convolution),
    (nn.ConvTranspose2d, _transposed_convolution),
    (nn.Linear, _linear),
    (nn.BatchNorm2d | nn.BatchNorm1d, _batch_norm),
    (nn.LeakyReLU, _leaky_relu),
    (nn.AvgPool2d, _average_pool),
    (nn.AdaptiveAvgPool2d, _adaptive_average_pool),
    (nn.MaxPool2d, _max_pool),
)
