"""Certified upper bounds of the Lipschitz constant (l2) of a layer or network, infinite where none is known."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metrics.lipschitz.batch import mixes_batch
from metrics.lipschitz.eval_mode import eval_mode
from metrics.lipschitz.network_bound import network_bound
from metrics.lipschitz.operator_norm import own_tensor


class Certificate(NamedTuple):
    """An upper bound of a Lipschitz constant, or infinity and the reason."""

    bound: float
    reason: str | None = None
    """The operation without a bound, such as "aten.exp at blocks.2" """

    def __str__(self) -> str:
        return f"none ({self.reason})" if math.isinf(self.bound) else f"{self.bound:.4f}"


def certified_bound(layer: nn.Module, input_shape: Sequence[int], y: Tensor | None = None) -> float:
    """Return an upper bound (l2) of the Lipschitz constant of `layer`, `math.inf` where none is known.

    The bound holds in evaluation mode and in exact arithmetic, and the mode of `layer` is restored afterwards. It is
    that of one input in the number format of the parameters: the outputs of a batch may not depend on each other. A
    `layer` that contains a batch norm in training mode has no bound. If the layer returns several tensors, the bound is
    that of all of them side by side.

    `input_shape` is (C, H, W), without batch dimension. A module that implements `models.protocols.LipschitzBounded`
    computes its own bound. Integer labels y (1,) are constants, and the bound holds for all labels. `certify` says why
    there is no bound.
    """
    return certify(layer, input_shape, y).bound


def certify(layer: nn.Module, input_shape: Sequence[int], y: Tensor | None = None) -> Certificate:
    """Return the bound of `certified_bound`, with the reason if it is infinite."""
    for name, module in layer.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            # It divides by the deviation of the batch, which may be arbitrarily small.
            return Certificate(math.inf, f"{name or type(module).__name__} is in training mode")
    with eval_mode(layer):
        example = torch.zeros(1, *input_shape).to(own_tensor(layer))
        certificate = Certificate(*network_bound(layer, example, y))
        if not math.isinf(certificate.bound) and mixes_batch(layer, example, y):
            return Certificate(math.inf, "the outputs of a batch depend on each other")
    return certificate
