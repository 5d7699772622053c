"""All singular values of a layer, and its stable rank."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.lipschitz.eval_mode import eval_mode
from metrics.lipschitz.frequencies import CircularConvolution, measure_convolution, read_convolution
from metrics.lipschitz.operator_norm import is_affine, join_outputs, own_tensor, start_vector, stays_affine
from models.kernels import plain_kernels
from models.kernels.switch import gram_is_faster

LARGEST_MATRIX = 2**21  # entries of a dense matrix whose SVD takes about a second


def singular_values(layer: nn.Module, input_shape: Sequence[int], largest: int = LARGEST_MATRIX) -> Tensor | None:
    """Return the singular values of x -> layer(x) - layer(0), largest first, computed in double precision.

    `is_exact` returns whether they are those of the layer itself. They are those of its matrix, if that has at most
    `largest` entries. For a larger convolution they are those of the circular convolution on a map of the same size
    (Sedghi, Gupta & Long, ICLR 2019), see `metrics.lipschitz.frequencies`. Any other larger layer of maps is measured
    on a smaller map, since its singular values are often repeated over the positions. Returns None if that is not
    possible either. The values are NaN for a diverged layer and for one that is not affine. The layer is measured in
    evaluation mode and is not changed. On a GPU, values below about 1e-7 of the largest are rounding errors, see
    `gram_is_faster`.
    """
    with eval_mode(layer), plain_kernels(), torch.no_grad():
        if not _fits(layer, input_shape, largest):
            convolution = read_convolution(layer, input_shape) or measure_convolution(layer, input_shape)
            if convolution is not None:
                return _values_of_convolution(convolution)
            smaller = _smaller_shape(layer, input_shape, largest)
            if smaller is None:
                return None
            input_shape = smaller
        values = _singular_values(_dense_matrix(layer, input_shape))
        if stays_affine(layer):
            return values
        return torch.where(is_affine(layer, start_vector(layer, input_shape)), values, math.nan)


def is_exact(layer: nn.Module, input_shape: Sequence[int], largest: int = LARGEST_MATRIX) -> bool:
    """Return whether `singular_values` are those of the layer itself: not on a smaller or a circular map."""
    with eval_mode(layer), plain_kernels(), torch.no_grad():
        if _fits(layer, input_shape, largest):
            return True
        convolution = read_convolution(layer, input_shape)
        return convolution is not None and convolution.is_layer


def stable_rank(values: Tensor) -> float:
    """Return ||A||_F² / ||A||² of a matrix with these singular values.

    It lies between 1 and the rank. It is 0 for a zero matrix.
    """
    top = values.max()
    return (values.square().sum() / top.square()).item() if top > 0 else 0.0


def _values_of_convolution(convolution: CircularConvolution) -> Tensor:
    symbols, repeats = convolution.symbols()
    values = _singular_values(symbols)  # (F, G, min(a, b))
    values = F.pad(values, (0, convolution.count - values.shape[2])).flatten(1)
    total = math.prod(convolution.grid)  # given, so that the host does not wait for the sum of the repeats
    return values.repeat_interleave(repeats, dim=0, output_size=total).flatten().sort(descending=True).values


def _singular_values(matrices: Tensor) -> Tensor:
    """Return the singular values (..., a) of matrices (..., a, b), largest first; all are NaN if an entry diverged."""
    finite = matrices.isfinite().all()
    matrices = torch.where(finite, matrices, 0.0)
    matrices = matrices.to(torch.complex128 if matrices.is_complex() else torch.float64)
    if gram_is_faster(matrices):
        gram = matrices @ matrices.mH if matrices.shape[-2] < matrices.shape[-1] else matrices.mH @ matrices
        values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(-1)
    else:
        values = torch.linalg.svdvals(matrices)
    return torch.where(finite, values, math.nan)


def _fits(layer: nn.Module, input_shape: Sequence[int], largest: int) -> bool:
    """Return whether the matrix of the layer has at most `largest` entries."""
    example = own_tensor(layer).new_zeros(tuple(input_shape))
    return example.numel() * join_outputs(layer(example[None]), 1).numel() <= largest


def _dense_matrix(layer: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """Return the matrix of x -> layer(x) - layer(0), transposed: a row for each entry of x."""
    example = own_tensor(layer).new_zeros(tuple(input_shape))
    basis = torch.eye(example.numel(), dtype=example.dtype, device=example.device).view(-1, *example.shape)
    offset = join_outputs(layer(example[None]), 1)
    return torch.cat([(join_outputs(layer(part), len(part)) - offset).flatten(1) for part in basis.split(256)])


def _smaller_shape(layer: nn.Module, input_shape: Sequence[int], largest: int) -> tuple[int, ...] | None:
    """Return the input shape (C, H, W), halved in H and W until the layer's matrix has at most `largest` entries.

    Returns None if a side would be below 2, since on such a map most of a kernel overlaps the padding, and if the layer
    does not accept the map.
    """
    shape = tuple(input_shape)
    while len(shape) == 3 and min(shape[1:]) >= 4:
        shape = shape[0], *(side // 2 for side in shape[1:])
        try:
            if _fits(layer, shape, largest):
                return shape
        except Exception:  # the code of any layer may run here
            return None
    return None
