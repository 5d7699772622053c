"""Upper bounds of the Lipschitz constant (l2) of a layer: certified, and infinite where none is known."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metrics.lipschitz.eval_mode import eval_mode
from metrics.lipschitz.graph import network_bound
from metrics.lipschitz.symbol import largest_norm, polyphase_taps, riesz_factor, symbol_norm

Shape = Sequence[int] | None
CONSTANTS: dict[type[nn.Module], float] = {
    nn.Identity: 1.0, nn.Dropout: 1.0, nn.Dropout2d: 1.0,
    nn.Flatten: 1.0, nn.Unflatten: 1.0, nn.PixelShuffle: 1.0, nn.PixelUnshuffle: 1.0,
    nn.ReLU: 1.0, nn.ReLU6: 1.0, nn.Tanh: 1.0, nn.Softplus: 1.0, nn.Sigmoid: 0.25, nn.Hardtanh: 1.0,
}  # fmt: skip


def certified_bound(layer: nn.Module, input_shape: Shape = None, y: Tensor | None = None) -> float:
    """Return an upper bound (l2) of the Lipschitz constant of `layer`, `math.inf` where none is known.

    In evaluation mode, and the layer is left as it was; batch norm in training mode has no bound.

    `input_shape` is (C, H, W), without batch; with it a circular convolution on its own grid is exact and ConvNorm
    tighter. A module that knows its own bound has a method `lipschitz_bound(input_shape, get_bound)`, which comes
    before anything else: `get_bound(part, shape)` gives it the bound of a part, which may also be a tensor of matrices
    (F, a, b), whose largest norm is meant. A network that is made of known parts is bounded through its graph, which
    needs `input_shape`; a class-conditional one also labels `y` (1,), which are held fixed (their value is of no
    account where a module bounds all classes, as projection heads do).
    """
    if any(isinstance(module, _BatchNorm) and module.training for module in layer.modules()):
        return math.inf  # it divides by the batch's own deviation, which may be anything
    with eval_mode(layer):
        return _get_bound(layer, input_shape, y)


def _get_bound(part: nn.Module | Tensor, input_shape: Shape = None, y: Tensor | None = None) -> float:
    with torch.no_grad():
        if isinstance(part, Tensor):
            return largest_norm(part)
        own_bound: Any = getattr(part, "lipschitz_bound", None)
        if own_bound is not None:
            return own_bound(input_shape, _get_bound)
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
    kernel = _dilated(layer.weight, layer.dilation)
    groups = kernel.chunk(layer.groups)
    if input_shape is not None and _is_circular(layer, kernel, input_shape):
        grid = [n // s for n, s in zip(input_shape[1:], layer.stride, strict=True)]
        return max(symbol_norm(group, layer.stride, grid) for group in groups)
    bound = max(plane_bound(group, layer.stride) for group in groups)
    return bound * _padding_norm(layer, input_shape)


def _transposed_convolution(layer: nn.ConvTranspose2d, input_shape: Shape) -> float:
    """The adjoint's norm: the same weight read as that of a convolution from the output to the input."""
    kernel = _dilated(layer.weight, layer.dilation)
    return max(plane_bound(group, layer.stride) for group in kernel.chunk(layer.groups))


def plane_bound(kernel: Tensor, stride: Sequence[int]) -> float:
    """Return an upper bound of a convolution's norm on the infinite plane, and so of any with zero padding.

    The symbol on a grid fine enough for a Riesz factor below 1.01 per axis, times that factor.
    """
    taps = polyphase_taps(kernel.shape[2:], stride)
    grid = [max(8, 16 * (k - 1)) for k in taps]
    return symbol_norm(kernel, stride, grid) * riesz_factor(taps, grid)


def _is_circular(layer: nn.Conv2d, kernel: Tensor, input_shape: Sequence[int]) -> bool:
    """Tell whether the convolution is circular on the grid of its own input."""
    if layer.padding_mode != "circular":
        return False
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    sides = ((top, bottom), (left, right))
    return all(
        n % s == 0 and (n + sum(p) - k) // s + 1 <= n // s
        for n, s, p, k in zip(input_shape[1:], layer.stride, sides, kernel.shape[2:], strict=True)
    )


def _padding_norm(layer: nn.Conv2d, input_shape: Shape) -> float:
    """Return the norm of the padding map: the root of how often it repeats one pixel at most."""
    if layer.padding_mode == "zeros":
        return 1.0
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    repeats = 1
    for axis, sides in ((1, (top, bottom)), (2, (left, right))):
        if input_shape is None:
            repeats *= 1 + max(sides) if layer.padding_mode == "replicate" else 3
            continue
        positions = torch.arange(input_shape[axis], dtype=torch.float32)[None, None]
        padded = F.pad(positions, sides, mode=layer.padding_mode).long().flatten()
        repeats *= padded.bincount().max().item()
    return math.sqrt(repeats)


def _dilated(kernel: Tensor, dilation: Sequence[int]) -> Tensor:
    """Return the kernel with its zeros written out."""
    dh, dw = dilation
    out = kernel.new_zeros(*kernel.shape[:2], dh * (kernel.shape[2] - 1) + 1, dw * (kernel.shape[3] - 1) + 1)
    out[..., ::dh, ::dw] = kernel
    return out


def _linear(layer: nn.Linear, input_shape: Shape) -> float:
    return largest_norm(layer.weight[None])


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, input_shape: Shape) -> float:
    if layer.running_var is None:
        return math.inf  # batch statistics, in evaluation too
    scale = (layer.running_var + layer.eps).rsqrt()
    return (scale if layer.weight is None else scale * layer.weight.abs()).max().item()


def _leaky_relu(layer: nn.LeakyReLU, input_shape: Shape) -> float:
    return max(1.0, abs(layer.negative_slope))


def _average_pool(layer: nn.AvgPool2d, input_shape: Shape) -> float:
    """A depthwise convolution with a constant kernel; with overlap its norm is that kernel's."""
    size, stride, padding = (_pair(v) for v in (layer.kernel_size, layer.stride, layer.padding))
    if layer.ceil_mode or layer.divisor_override or (max(padding) and not layer.count_include_pad):
        return math.inf
    kernel = torch.full((1, 1, *size), 1 / math.prod(size), dtype=torch.float64)
    return plane_bound(kernel, stride)


def _adaptive_average_pool(layer: nn.AdaptiveAvgPool2d, input_shape: Shape) -> float:
    """The mean over the whole map, 1 / sqrt(H W); other sizes are not known."""
    if _pair(layer.output_size) != (1, 1) or input_shape is None:
        return math.inf
    return 1 / math.sqrt(math.prod(input_shape[1:]))


def _max_pool(layer: nn.MaxPool2d, input_shape: Shape) -> float:
    """The root of how many windows a pixel can be the largest of."""
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
