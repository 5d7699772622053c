"""Upper bounds of the largest eigenvalue of many Hermitian matrices."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

TOLERANCE = 1e-6
"""Relative, of the square root of an eigenvalue"""
POWER_STEPS = 6
EXACT = 4  # matrices whose eigenvalues are computed at once


def largest_eigenvalue(chunks: Iterable[Tensor]) -> float:
    """Return an upper bound of the largest eigenvalue of positive semidefinite matrices, tight to twice `TOLERANCE`.

    The matrices are given in chunks (F, n, n), in double precision. The result is infinite if an entry is not finite.
    """
    largest = 0.0
    for matrices in chunks:
        largest = _largest_eigenvalue(matrices, largest)
        if math.isinf(largest):
            return math.inf
    return largest * (1 + 2 * TOLERANCE)


def _largest_eigenvalue(matrices: Tensor, largest: float) -> float:
    """Return the larger one of `largest` and the eigenvalues of `matrices`, with a relative error of `TOLERANCE`.

    Power iteration says which matrices may have the largest one, and their eigenvalues are computed. Every other matrix
    G is dropped if t I - G, with t slightly above the largest eigenvalue so far, has a Cholesky factorization: then all
    eigenvalues of G are below t. Rounding changes this by n² eps at most (Rump, 2006), which is far below `TOLERANCE`.
    """
    traces = matrices.diagonal(dim1=1, dim2=2).real.sum(dim=1)
    if not matrices.isfinite().all():
        return math.inf
    matrices = matrices[traces > largest]  # the others cannot have a larger eigenvalue
    single = matrices.to(torch.complex64 if matrices.is_complex() else torch.float32)
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(single.shape[-1], 1, generator=random).to(single).expand(len(single), -1, 1)
    while len(matrices):
        for _ in range(POWER_STEPS):
            vectors = single @ vectors
            vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-30)
        growth = (single @ vectors).norm(dim=(1, 2))
        top = growth.topk(min(EXACT, len(matrices))).indices
        largest = max(largest, torch.linalg.eigvalsh(matrices[top])[:, -1].max().item())
        shifted = -matrices
        shifted.diagonal(dim1=1, dim2=2).add_(largest * (1 + TOLERANCE))
        unknown = torch.linalg.cholesky_ex(shifted).info != 0
        unknown[top] = False
        matrices, single, vectors = matrices[unknown], single[unknown], vectors[unknown]
    return largest
