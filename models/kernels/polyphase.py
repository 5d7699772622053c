"""The taps of a strided and dilated kernel, as a stride-1 kernel of its phases without the gaps of the dilation.

A dilated 3 x 3 kernel has nine taps at any dilation, so that its spectrum costs what nine taps cost.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.kernels.constants import constant, fake_mode
from models.kernels.symbol import fold_phases

Positions = tuple[tuple[int, ...], ...]
"""Positions of the taps per axis"""


def fold_taps(kernel: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> tuple[Tensor, Positions]:
    """Return the stride-1 kernel of the phases and the positions of its taps: (O, I, *k) -> (O, I, *s, *t), positions.

    Tap a of an axis is at the pixel a d. Its phase is a d mod s, and its position is a d // s. There are t <= k
    different positions. Without dilation, the result is that of `fold_phases`.
    """
    size = kernel.shape[2:]
    if all(d == 1 for d in dilation):
        folded = fold_phases(kernel, stride)
        return folded, tuple(tuple(range(n)) for n in folded.shape[2 + len(stride) :])
    pixels = [[a * d for a in range(k)] for k, d in zip(size, dilation, strict=True)]
    positions = tuple(tuple(sorted({x // s for x in axis})) for axis, s in zip(pixels, stride, strict=True))
    if all(s == 1 for s in stride):
        return kernel.reshape(*kernel.shape[:2], *stride, *size), positions
    folded = kernel.new_zeros(*stride, *map(len, positions), *kernel.shape[:2])
    index = [[x % s for x in axis] for axis, s in zip(pixels, stride, strict=True)]
    index += [[p.index(x // s) for x in axis] for axis, s, p in zip(pixels, stride, positions, strict=True)]
    mode = fake_mode(kernel)
    grids = tuple(_axis(tuple(v), i % len(size), len(size), kernel.device, mode) for i, v in enumerate(index))
    return folded.index_put(grids, kernel.movedim((0, 1), (-2, -1))).movedim((-2, -1), (0, 1)), positions


@constant
def _axis(values: tuple[int, ...], axis: int, axes: int, device: torch.device, mode: object) -> Tensor:
    """Return values along one of several axes, to be broadcast along the others."""
    return torch.tensor(values, device=device).view([-1 if a == axis else 1 for a in range(axes)])
