"""Lipschitz constants of functions of single entries, and of softmax."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

GELU = (1 + math.erf(1)) / 2 + 1 / (math.e * math.sqrt(math.pi))
"""1.12890: the derivative Φ(x) + x φ(x) has the derivative φ(x) (2 - x²), so that it is largest at √2"""
GELU_TANH = 1.128994
"""The maximum 1.1289931 of the derivative of the form with tanh, at 1.4185 (found numerically, rounded up)"""
SILU = 1.0998394
"""The maximum 1.0998393 of the derivative σ(x) (1 + x (1 - σ(x))), where x tanh(x / 2) = 2 (rounded up)"""
MISH = 1.0884982
"""The maximum 1.0884982 of the derivative, at 1.4906 (found numerically, rounded up)"""


def _elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> float:
    """scale x, or scale alpha (exp(input_scale x) - 1) below 0, whose slope is largest at 0. SELU has 1.7581."""
    return max(abs(scale), abs(scale * alpha * input_scale)) if input_scale >= 0 else math.inf


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> float:
    """The derivative is a sigmoid, but PyTorch's function jumps by log(1 + exp(-threshold)) / beta at its threshold.

    A jump has no constant. One below the rounding error of single precision, as for the default, counts as none.
    """
    jump = math.log1p(math.exp(-threshold)) if threshold > -700 else math.inf
    return 1.0 if jump <= threshold * torch.finfo(torch.float32).eps else math.inf


def _prelu(weight: Tensor) -> float:
    return max(1.0, weight.abs().max().item())


def _one_if(condition: bool) -> float:
    return 1.0 if condition else math.inf


ACTIVATIONS: dict[str, Callable[..., float]] = {
    **dict.fromkeys(("relu", "abs", "neg", "positive", "tanh", "sin", "cos", "atan", "asinh"), lambda: 1.0),
    "erf": lambda: 2 / math.sqrt(math.pi),
    "sigmoid": lambda: 0.25,  # σ (1 - σ)
    "log_sigmoid_forward": lambda: 1.0,  # σ(-x)
    "hardsigmoid": lambda: 1 / 6,
    "hardswish": lambda: 1.5,  # (2 x + 3) / 6 at 3
    "hardtanh": lambda min_val, max_val: 1.0,  # also relu6
    "softshrink": lambda lambd: 1.0,
    "hardshrink": lambda lambd: _one_if(lambd <= 0),  # it jumps by lambd
    "threshold": lambda threshold, value: _one_if(threshold == value),  # it jumps from value to threshold
    "leaky_relu": lambda negative_slope: max(1.0, abs(negative_slope)),
    "_prelu_kernel": _prelu,
    "elu": _elu,
    "celu": lambda alpha: _elu(alpha, 1.0, 1 / alpha),
    "gelu": lambda approximate: GELU if approximate == "none" else GELU_TANH,
    "silu": lambda: SILU,
    "mish": lambda: MISH,
    "softplus": _softplus,
    "clamp": lambda min, max: 1.0,
    "clamp_min": lambda min: 1.0,
    "clamp_max": lambda max: 1.0,
    # diag(p) - p pᵀ has absolute row sums 2 p_i (1 - p_i) <= 1 / 2 (Gershgorin)
    "_softmax": lambda dim, half_to_float: 0.5,
    "native_dropout": lambda p, train: _one_if(train is False),
}
"""By operator: a function of all its arguments but the first, which returns the constant, infinity if there is none"""


def log_softmax(entries: int) -> float:
    """Return the constant of log-softmax of n entries, √n, and 0 for a single one.

    I - 1 pᵀ is a projection, since pᵀ 1 = 1, and has the norm of the complementary projection 1 pᵀ, which is √n ||p||.
    """
    return math.sqrt(entries) if entries > 1 else 0.0
