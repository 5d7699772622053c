"""What the normalizations that compute a convolution themselves share: a wrapper with the convolution's attributes."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from models.kernels.symbol import padding_multiplicity, padding_sides
from models.normalizations.layers import Wrapper
from models.normalizations.obstacles import find_obstacle_to_wrapping

OF_THE_CONVOLUTION = frozenset(
    {
        *("weight", "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
        *("padding_mode", "transposed", "output_padding"),
    }
)
"""Attributes of the convolution that its wrapper has too"""


class ConvWrapper(Wrapper):
    """Base of the layers that hold a convolution `conv`, compute another function of it, and never call it.

    Such a layer accepts only a convolution with PyTorch's own forward and without hooks (ValueError), and hooks that
    `conv` gets later raise RuntimeError. It has the attributes of the convolution, such as `weight` and `stride`.
    """

    normalization: ClassVar[str]
    """The name of the normalization in error messages"""

    def __init__(self, conv: _ConvNd):
        super().__init__()
        if obstacle := find_obstacle_to_wrapping(conv):
            raise ValueError(f"{type(conv).__name__} cannot be wrapped by {self.normalization}: {obstacle}")
        self.conv = conv

    @property
    def wrapped(self) -> nn.Module:
        """The convolution."""
        return self.conv

    def get_bias(self) -> Tensor | None:
        """Return the bias of the output, or None."""
        return self.conv.bias

    def set_bias(self, bias: Any) -> None:
        """Replace the bias of the output."""
        self.conv.bias = bias

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of this module, or of the convolution."""
        if name in OF_THE_CONVOLUTION:
            return getattr(self.conv, name)
        return self.get_bias() if name == "bias" else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of this module, or of the convolution."""
        if name in OF_THE_CONVOLUTION:
            setattr(self.conv, name, value)
        elif name == "bias":
            self.set_bias(value)
        else:
            super().__setattr__(name, value)

    def _call(self, x: Tensor, *arguments: Any) -> Tensor:
        """Return the output for a batch or a single map, or record the call where `torch.fx` traces."""
        if isinstance(x, fx.Proxy):
            return self.trace(x, *arguments)  # pyright: ignore[reportReturnType]
        conv = self.conv
        if conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks or conv._backward_pre_hooks:
            raise RuntimeError(
                f"{type(self).__name__} does not call its `conv`, so that the hooks of `conv` would not run: register"
                " them on the layer itself"
            )
        if x.dim() == len(conv.kernel_size) + 1:
            return self._compute(x[None], *arguments)[0]
        return self._compute(x, *arguments)

    @abstractmethod
    def _compute(self, x: Tensor, *arguments: Any) -> Tensor:
        """Return the output for x (B, I, *n)."""


def output_size(conv: _ConvNd, size: Sequence[int]) -> list[int]:
    """Return the size of the output of an undilated convolution for an input of `size`. ValueError if it is empty."""
    axes = zip(size, padding_sides(conv), conv.kernel_size, conv.stride, strict=True)
    counts = [(n + sum(p) - k) // s + 1 for n, p, k, s in axes]
    if min(counts) <= 0:
        raise ValueError(f"a kernel of size {conv.kernel_size} does not fit into an input of size {tuple(size)}")
    return counts


def is_circular(conv: _ConvNd, size: Sequence[int]) -> bool:
    """Return whether an undilated convolution is circular on the grid of its own input of `size`."""
    axes = list(zip(size, padding_sides(conv), conv.kernel_size, conv.stride, strict=True))
    whole = all(n % s == 0 and (n + sum(p) - k) // s + 1 == n // s for n, p, k, s in axes)
    return conv.padding_mode == "circular" and whole and all(k + -p[0] % s <= n for n, p, k, s in axes)


def padding_norm(conv: _ConvNd, size: Sequence[int]) -> float:
    """Return the norm of the padding of a layer that pads before it convolves, except where `is_circular` holds."""
    return 1.0 if is_circular(conv, size) else math.sqrt(padding_multiplicity(conv, size))
