"""Upper bounds of the largest eigenvalue of many Hermitian matrices."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = 1e-6
"""Relative error of the square root of the result"""
CHUNK = 2**22  # entries of matrices that are held in memory at once
POWER_STEPS = 5
EXACT = 4  # matrices whose eigenvalues are computed at once

Build = Callable[[Tensor, torch.dtype], Tensor]


def largest_eigenvalue(build: Build, count: int, size: int, error: float) -> float:
    """Return an upper bound of the largest eigenvalue of positive semidefinite matrices, tight to twice `TOLERANCE`.

    `build` returns the matrices (F, n, n) at some of the indices 0 .. count - 1 (F,), in single or double precision,
    real or complex. They must be finite. In single precision, they may differ in norm by `error`.

    Power iteration says which matrices may have the largest eigenvalue, and their eigenvalues are computed. Every other
    matrix G is dropped if t I - G, with t slightly above the largest eigenvalue so far, has a Cholesky factorization:
    then all eigenvalues of G are below t. This is tried in single precision, with a margin for its rounding errors, and
    otherwise in double precision, whose rounding errors are far below `TOLERANCE`.
    """
    largest = 0.0
    chunks = math.ceil(count / max(1, CHUNK // size**2))
    for first in range(chunks):
        rest = torch.arange(first, count, chunks)
        if count > EXACT:
            largest, rest = _reduce(build, rest, torch.float32, largest, error, search=largest == 0)
        search = largest == 0
        while len(rest):
            largest, rest = _reduce(build, rest, torch.float64, largest, 0.0, search)
            search = True
    return largest * (1 + 2 * TOLERANCE)


def _reduce(
    build: Build, indices: Tensor, dtype: torch.dtype, largest: float, error: float, search: bool
) -> tuple[float, Tensor]:
    """Return the indices of matrices that may exceed `largest`, which is first raised by a `search`."""
    matrices = build(indices, dtype)
    n = matrices.shape[-1]
    top = indices[:0]
    if search:
        top = _find_largest(matrices)
        exact = torch.linalg.eigvalsh(build(indices[top], torch.float64))[:, -1].max().item()
        largest = max(largest, exact)
    limit = largest * (1 + TOLERANCE)
    # A factorization is exact for a matrix that differs by γ tr(t I - G) at most, with γ = (n + 1) u for real numbers
    # (Rump, BIT 2006), and √2 times as much for complex ones, to first order in the rounding unit u.
    margin = 1.5 * (n + 4) * n * torch.finfo(dtype).eps / 2 * limit + error if dtype is torch.float32 else 0.0
    matrices.neg_().diagonal(dim1=1, dim2=2).add_(limit - margin)
    unknown = (torch.linalg.cholesky_ex(matrices).info != 0).cpu()
    unknown[top] = False
    return largest, indices[unknown] if largest > 0 else indices[:0]


def _find_largest(matrices: Tensor) -> Tensor:
    """Return the indices of the matrices (F, n, n) that have the largest eigenvalues, judged by power iteration."""
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(matrices.shape[-1], 1, generator=random).to(matrices).expand(len(matrices), -1, 1)
    growth = vectors
    for _ in range(POWER_STEPS):
        vectors = matrices @ vectors
        growth = vectors.norm(dim=1, keepdim=True)
        vectors = vectors / growth.clamp_min(1e-30)
    return growth[:, 0, 0].topk(min(EXACT, len(matrices))).indices.cpu()
