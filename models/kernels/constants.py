"""Tensors that depend on shapes and options only, and are computed once."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def constant(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute the tensor that a function returns only once for the same arguments, except in compiled functions.

    The first use must be outside of a captured CUDA graph. Fake tensors have no values and belong to a mode, so the
    last argument of the function must be the `fake_mode` of its users.
    """
    cached = functools.lru_cache(maxsize=64)(function)

    @functools.wraps(function)
    def compute(*arguments: object) -> Tensor:
        if torch.compiler.is_compiling():  # pyright: ignore[reportPrivateImportUsage]
            return function(*arguments)
        with torch.inference_mode(False), torch.no_grad():
            return cached(*arguments)

    return compute


def fake_mode(x: Tensor) -> object:
    """Return the mode of a fake tensor, or None for a tensor with values."""
    return getattr(x, "fake_mode", None)
