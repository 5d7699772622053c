"""All singular values of a layer's map, and its stable rank."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metrics.lipschitz.measuring import measuring
from metrics.lipschitz.operator_norm import start_vector

LARGEST_MATRIX = 2**21  # entries of a layer's dense matrix: its SVD takes about a second


def singular_values(layer: nn.Module, input_shape: Sequence[int], largest: int = LARGEST_MATRIX) -> Tensor:
    """Return the singular values of x -> layer(x) - layer(0), largest first, by a dense SVD in double precision.

    Exact for any affine layer of up to `largest` matrix entries. A larger one is measured at `feasible_shape`: the
    distribution of a convolution's singular values depends little on the side. The layer is measured in evaluation
    mode.
    """
    with measuring(layer):
        example = start_vector(layer, feasible_shape(layer, input_shape, largest))
        basis = torch.eye(example.numel(), dtype=example.dtype, device=example.device).view(-1, *example.shape)
        with torch.no_grad():
            offset = layer(torch.zeros_like(example)[None])
            matrix = torch.cat([(layer(part) - offset).flatten(1) for part in basis.split(256)])
    return torch.linalg.svdvals(matrix.double())


@torch.no_grad()
def feasible_shape(layer: nn.Module, input_shape: Sequence[int], largest: int = LARGEST_MATRIX) -> tuple[int, ...]:
    """Return `input_shape` (C, H, W), its side halved until the layer's matrix has at most `largest` entries."""
    shape = tuple(input_shape)
    with measuring(layer):
        while len(shape) == 3 and min(shape[1:]) >= 8:
            example = start_vector(layer, shape)
            if example.numel() * layer(example[None]).numel() <= largest:
                break
            shape = shape[0], *(side // 2 for side in shape[1:])
    return shape


def stable_rank(values: Tensor) -> float:
    """Return ||A||_F² / ||A||² of a matrix with these singular values: between 1 and the rank, 0 for a zero matrix."""
    top = values.max()
    return (values.square().sum() / top.square()).item() if top > 0 else 0.0
