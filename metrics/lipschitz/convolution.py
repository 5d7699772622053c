"""Norms of convolutions, alone and together with the linear map after them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.kernels.conv import CONVOLVE
from models.kernels.symbol import dilate, effective_kernel_size, plane_grid, plane_norm, symbol_norm


@dataclass(frozen=True)
class Convolution:
    """A convolution with zero padding, without bias."""

    weight: Tensor
    """(O, I / groups, *k)"""
    stride: Sequence[int]
    dilation: Sequence[int]
    groups: int
    circle: tuple[int, ...] | None = None
    """The size of a map on whose periodic grid it is the convolution, if its input is padded circularly"""

    def norm(self) -> float:
        """Return an upper bound of the norm for an input of any size."""
        return plane_norm(dilate(self.weight, self.dilation), self.stride, self.groups)

    def plane_grid(self) -> list[int]:
        """Return the frequencies per axis at which `norm` evaluates the symbol."""
        return plane_grid(effective_kernel_size(self.weight.shape[2:], self.dilation), self.stride)

    def circular_norm(self) -> float:
        """Return the norm on the periodic grid of `circle`."""
        assert self.circle is not None
        grid = [n // s for n, s in zip(self.circle, self.stride, strict=True)]
        return symbol_norm(dilate(self.weight, self.dilation), self.stride, grid, self.groups)

    def scale(self, factors: Tensor) -> "Convolution":
        """Return the convolution followed by a multiplication of its channels by `factors` (O,)."""
        weight = self.weight.double() * factors.double().view(-1, *[1] * (self.weight.dim() - 1))
        return replace(self, weight=weight)

    def average(self, window: Sequence[int]) -> "Convolution | None":
        """Return the convolution followed by an average over disjoint windows, None if it is no convolution.

        That is so if it has a stride, or if the windows do not fit into the periodic grid.
        """
        circle = self.circle or window
        if any(s != 1 for s in self.stride) or any(n % side for n, side in zip(circle, window, strict=True)):
            return None
        weight = dilate(self.weight, self.dilation).double()
        box = weight.new_full((1, 1, *window), 1 / math.prod(window))
        kernel = CONVOLVE[len(window)](weight.flatten(0, 1)[:, None], box, padding=[side - 1 for side in window])[:, 0]
        weight = kernel.unflatten(0, weight.shape[:2])
        return replace(self, weight=weight, stride=tuple(window), dilation=[1] * len(window))


def find_circle(positions: Tensor, size: Sequence[int]) -> bool:
    """Return whether `positions` (C, *m), the flat positions of the entries of a map (C, *size), pad it circularly."""
    start = positions[(0,) * positions.dim()].item()
    if start != int(start):
        return False
    expected = torch.arange(len(positions), device=positions.device) * math.prod(size)
    for axis, (n, m) in enumerate(zip(size, positions.shape[1:], strict=True)):
        stride = math.prod(size[axis + 1 :])
        first = int(start) // stride % n
        places = (torch.arange(m, device=positions.device) + first) % n
        expected = expected[..., None] + places * stride
    return torch.equal(positions, expected.to(positions))
