"""Certified upper bounds of the Lipschitz constant (l2) of a layer or network, infinite where none is known."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metrics.lipschitz.batch import mixes_batch
from metrics.lipschitz.eval_mode import eval_mode
from metrics.lipschitz.network_bound import network_bound
from metrics.lipschitz.operator_norm import own_tensor
from metrics.lipschitz.trust import is_trusted
from models.kernels.symbol import dilate, effective_kernel_size, largest_norm, padding_multiplicity, plane_norm
from models.overrides import find_override
from models.protocols import LipschitzBounded

Shape = Sequence[int] | None


class Certificate(NamedTuple):
    """An upper bound of a Lipschitz constant, or infinity and the reason."""

    bound: float
    reason: str | None = None
    """The operation without a bound, such as "aten.exp at blocks.2" """

    def __str__(self) -> str:
        return f"none ({self.reason})" if math.isinf(self.bound) else f"{self.bound:.4f}"


def certified_bound(layer: nn.Module, input_shape: Shape = None, y: Tensor | None = None) -> float:
    """Return an upper bound (l2) of the Lipschitz constant of `layer`, `math.inf` where none is known.

    The bound holds in evaluation mode and in exact arithmetic, and the mode of `layer` is restored afterwards. It is
    that of one input in the number format of the parameters: the outputs of a batch may not depend on each other. A
    `layer` that contains a batch norm in training mode has no bound. If the layer returns several tensors, the bound is
    that of all of them side by side.

    `input_shape` is (C, H, W), without batch dimension. Without it, only single layers whose bound holds for every size
    have one. A module that implements `models.protocols.LipschitzBounded` computes its own bound. Integer labels y
    (1,) are constants, and the bound holds for all labels. `certify` says why there is no bound.
    """
    return certify(layer, input_shape, y).bound


def certify(layer: nn.Module, input_shape: Shape = None, y: Tensor | None = None) -> Certificate:
    """Return the bound of `certified_bound`, with the reason if it is infinite."""
    certificate = _certify(layer, input_shape, y)
    if input_shape is None or math.isinf(certificate.bound):
        return certificate
    with eval_mode(layer):
        if mixes_batch(layer, _example(layer, input_shape), y):
            return Certificate(math.inf, "the outputs of a batch depend on each other")
    return certificate


def _certify(layer: nn.Module, input_shape: Shape, y: Tensor | None) -> Certificate:
    for name, module in layer.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            # It divides by the deviation of the batch, which may be arbitrarily small.
            return Certificate(math.inf, f"{name or type(module).__name__} is in training mode")
    with eval_mode(layer), torch.no_grad():
        if input_shape is None:
            return _certify_any_size(layer)
        return Certificate(*network_bound(layer, _example(layer, input_shape), y, _get_bound))


def _example(layer: nn.Module, input_shape: Sequence[int]) -> Tensor:
    return torch.zeros(1, *input_shape).to(own_tensor(layer))


def _get_bound(part: nn.Module | Tensor, input_shape: Shape = None, /) -> float:
    if isinstance(part, Tensor):
        return largest_norm(part)
    return _certify(part, input_shape, None).bound


def _certify_any_size(layer: nn.Module) -> Certificate:
    """Return the bound of a single layer for inputs of any size."""
    if isinstance(layer, LipschitzBounded):
        hooked = layer._forward_hooks or layer._forward_pre_hooks
        if hooked or not is_trusted(layer):
            return Certificate(math.inf, f"{type(layer).__name__} is changed, and its input shape is unknown")
        return Certificate(layer.lipschitz_bound(None, _get_bound), type(layer).__name__)
    override = find_override(layer)
    if override is not None and not (isinstance(layer, _BatchNorm) and type(layer).__module__.startswith("models.")):
        return Certificate(math.inf, f"{override}, and its input shape is unknown")
    for types, bound in _ANY_SIZE:
        if isinstance(layer, types):
            return Certificate(bound(layer), type(layer).__name__)
    for types, shape in _SMALLEST:
        if isinstance(layer, types):
            return Certificate(*network_bound(layer, _example(layer, shape(layer)), None, _get_bound))
    return Certificate(math.inf, f"{type(layer).__name__} needs an input shape")


def _convolution(layer: Any) -> float:
    """Return the norm on the infinite plane, times that of the padding. A transposed convolution is the adjoint."""
    norm = plane_norm(dilate(layer.weight, layer.dilation), layer.stride, layer.groups)
    return norm * math.sqrt(padding_multiplicity(layer, None))


def _average_pool(layer: Any) -> float:
    """Return the norm of a depthwise convolution with a constant kernel."""
    axes = int(type(layer).__name__[-2])
    size, stride, padding = (_tuple(v, axes) for v in (layer.kernel_size, layer.stride, layer.padding))
    if layer.ceil_mode or getattr(layer, "divisor_override", None) or (max(padding) and not layer.count_include_pad):
        return math.inf
    return plane_norm(torch.full((1, 1, *size), 1 / math.prod(size), dtype=torch.float64), stride)


def _upsample(layer: nn.Upsample) -> float:
    """Return the square root of the number of pixels over which each pixel is spread, for whole factors."""
    modes = {"nearest": None, "nearest-exact": None, "linear": 1, "bilinear": 2, "trilinear": 3}
    factors = layer.scale_factor if isinstance(layer.scale_factor, tuple) else (layer.scale_factor,)
    axes = modes.get(layer.mode, 0) or len(factors)
    whole = all(f is not None and f >= 1 and f == int(f) for f in factors)
    if layer.mode not in modes or layer.align_corners or not whole or (len(factors) == 1 and modes[layer.mode] is None):
        return math.inf
    return math.sqrt(math.prod(_tuple(tuple(factors), axes)))


def _tuple(value: Any, axes: int) -> tuple[Any, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return values * axes if len(values) == 1 else values


_ANY_SIZE: tuple[tuple[Any, Callable[[Any], float]], ...] = (
    (nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d, _convolution),
    (nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d, _average_pool),
    (nn.Upsample, _upsample),
    (nn.Flatten | nn.Unflatten | nn.PixelShuffle | nn.PixelUnshuffle | nn.ChannelShuffle, lambda layer: 1.0),
    (nn.ZeroPad1d | nn.ZeroPad2d | nn.ZeroPad3d | nn.ConstantPad1d | nn.ConstantPad2d | nn.ConstantPad3d,
     lambda layer: 1.0),
    (nn.Softmax | nn.Softmax2d | nn.Softmin, lambda layer: 0.5),
)  # fmt: skip
"""Layers that depend on the size, with their bound for all sizes"""

_SMALLEST: tuple[tuple[Any, Callable[[Any], tuple[int, ...]]], ...] = (
    (nn.Linear, lambda layer: (layer.in_features,)),
    (nn.BatchNorm1d, lambda layer: (layer.num_features,)),
    (nn.BatchNorm2d, lambda layer: (layer.num_features, 1, 1)),
    (nn.BatchNorm3d, lambda layer: (layer.num_features, 1, 1, 1)),
    (nn.PReLU, lambda layer: (layer.num_parameters,)),
    (nn.MaxPool1d, lambda layer: (1, *_window(layer, 1))),
    (nn.MaxPool2d, lambda layer: (1, *_window(layer, 2))),
    (nn.MaxPool3d, lambda layer: (1, *_window(layer, 3))),
    ((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
      nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
      nn.Softsign, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid,
      nn.LogSigmoid, nn.Tanh, nn.Threshold), lambda layer: (1, 1, 1)),
)  # fmt: skip
"""Layers whose bound is the same for every size, with the smallest input"""


def _window(layer: Any, axes: int) -> list[int]:
    return list(effective_kernel_size(_tuple(layer.kernel_size, axes), _tuple(layer.dilation, axes)))
