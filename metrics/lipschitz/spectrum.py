"""All singular values of a layer, and its stable rank."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metrics.lipschitz.eval_mode import eval_mode
from metrics.lipschitz.operator_norm import own_tensor
from models.kernels import plain_kernels
from models.kernels.switch import gram_is_faster

LARGEST_MATRIX = 2**21  # entries of a dense matrix whose SVD takes about a second


def singular_values(layer: nn.Module, input_shape: Sequence[int], largest: int = LARGEST_MATRIX) -> Tensor | None:
    """Return the singular values of x -> layer(x) - layer(0), largest first, computed in double precision.

    Exact for an affine layer whose matrix has at most `largest` entries. A larger layer is measured at
    `feasible_shape`, since the distribution of a convolution's singular values depends little on the size of the map.
    Returns None if no shape is feasible. The values are NaN for a diverged layer. The layer is measured in evaluation
    mode. On a GPU, values below about 1e-7 of the largest are rounding errors, see `gram_is_faster`.
    """
    shape = feasible_shape(layer, input_shape, largest)
    if shape is None:
        return None
    with eval_mode(layer), plain_kernels():
        example = own_tensor(layer).new_zeros(shape)
        basis = torch.eye(example.numel(), dtype=example.dtype, device=example.device).view(-1, *example.shape)
        with torch.no_grad():
            offset = layer(example[None])
            matrix = torch.cat([(layer(part) - offset).flatten(1) for part in basis.split(256)])
            finite = matrix.isfinite().all()
            values = _singular_values(torch.where(finite, matrix, 0.0).double())
            return torch.where(finite, values, math.nan)


@torch.no_grad()
def feasible_shape(
    layer: nn.Module, input_shape: Sequence[int], largest: int = LARGEST_MATRIX
) -> tuple[int, ...] | None:
    """Return `input_shape` (C, H, W), halved in H and W until the layer's matrix has at most `largest` entries.

    Returns None if a side would be below 2, since on such a map most of a kernel overlaps the padding.
    """
    shape = tuple(input_shape)
    with eval_mode(layer), plain_kernels():
        while True:
            example = own_tensor(layer).new_zeros(shape)
            if example.numel() * layer(example[None]).numel() <= largest:
                return shape
            if len(shape) != 3 or min(shape[1:]) < 4:
                return None
            shape = shape[0], *(side // 2 for side in shape[1:])


def _singular_values(matrix: Tensor) -> Tensor:
    if not gram_is_faster(matrix):
        return torch.linalg.svdvals(matrix)
    gram = matrix @ matrix.mT if len(matrix) < matrix.shape[1] else matrix.mT @ matrix
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)


def stable_rank(values: Tensor) -> float:
    """Return ||A||_F² / ||A||² of a matrix with these singular values.

    It lies between 1 and the rank. It is 0 for a zero matrix.
    """
    top = values.max()
    return (values.square().sum() / top.square()).item() if top > 0 else 0.0
