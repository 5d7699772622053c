"""Operator norm of one layer's affine map, zero padding and stride included, by Lanczos iteration.

The layer is used as a black box through its forward pass and its vector-Jacobian product, so that every normalization
and every custom layer is supported.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from metrics.lipschitz.eval_mode import eval_mode
from models.kernels import plain_kernels

LinearMap = Callable[[Tensor], Tensor]


def operator_norm(layer: nn.Module, input_shape: Sequence[int], iterations: int = 50) -> float:
    """Return the largest singular value of x -> layer(x) - layer(0) for inputs of `input_shape`, such as (C, H, W).

    The result is a lower bound that converges as `iterations` grows. The layer is measured in evaluation mode and is
    not changed. `input_shape` has no batch dimension. Raises ValueError for a layer that is not affine in evaluation
    mode, since it has no operator norm.
    """
    start = start_vector(layer, input_shape)
    with eval_mode(layer), plain_kernels():
        if not is_affine(layer, start):
            raise ValueError(f"{type(layer).__name__} is not affine in evaluation mode: it has no operator norm")
        sigma, _ = largest_singular_value(*affine_map(layer, start), start, iterations)
    return sigma


@torch.no_grad()
def is_affine(layer: nn.Module, direction: Tensor) -> bool:
    """Return whether f(v + 2 u) - f(v) + 2 (f(-u) - f(0)) is 0 for the layer f, as it is for every affine f.

    v is `direction`, scaled to entries near 1, and u is v in reverse order. A diverged layer counts as affine, so that
    its norm is reported as NaN.
    """
    v = direction * direction.numel() ** 0.5
    u = v.flatten().flip(0).view_as(v)
    values = [layer(x[None]) for x in (v + 2 * u, v, -u, torch.zeros_like(v))]
    deviation = values[0] - values[1] + 2 * (values[2] - values[3])
    scale = max(value.abs().max().item() for value in values)
    return not deviation.isfinite().all() or deviation.abs().max().item() <= 1e-3 * scale


def start_vector(layer: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """Return a random unit vector of `input_shape`. It is the same at every call; the global RNG is not used."""
    vector = torch.randn(tuple(input_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = (*layer.parameters(), *layer.buffers())
    weight = next((tensor for tensor in own if tensor.is_floating_point()), torch.empty(0))
    return (vector / vector.norm()).to(weight.device, weight.dtype)


def affine_map(layer: nn.Module, example: Tensor) -> tuple[LinearMap, LinearMap]:
    """Return A: x -> layer(x) - layer(0) and its adjoint by vjp, for inputs shaped like `example` (no batch)."""
    with torch.enable_grad():
        zero = torch.zeros_like(example).requires_grad_(True)
        output = layer(zero[None])[0]

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            return layer(x[None])[0] - output.detach()

    def adjoint(y: Tensor) -> Tensor:
        return torch.autograd.grad(output, zero, y, retain_graph=True)[0]

    return forward, adjoint


def largest_singular_value(
    forward: LinearMap, adjoint: LinearMap, start: Tensor, iterations: int
) -> tuple[float, Tensor]:
    """Return the largest singular value of a linear map A, and its unit right singular vector.

    Rayleigh-Ritz on the Krylov space of AᵀA with full reorthogonalization. In exact arithmetic this is Golub-Kahan
    bidiagonalization (Golub & Van Loan, section 10.4). It stops early if the Krylov space is exhausted. The value is
    NaN for a diverged layer.
    """
    basis = start.flatten()[None] / start.norm()  # (j, n), orthonormal rows
    images = basis[:0]  # AᵀA of each row
    for _ in range(min(iterations, start.numel())):
        image = adjoint(forward(basis[-1].view_as(start))).flatten()
        images = torch.cat([images, image[None]])
        rest = image
        for _ in range(2):  # the second pass removes rounding errors
            rest = rest - basis.T @ (basis @ rest)
        if rest.norm() <= 1e-6 * image.norm():
            break
        basis = torch.cat([basis, rest[None] / rest.norm()])
    basis = basis[: len(images)]
    if not images.isfinite().all():
        return math.nan, start
    projected = (basis @ images.T).double()
    values, vectors = torch.linalg.eigh((projected + projected.T) / 2)
    top = vectors[:, -1].to(basis.dtype) @ basis
    return values[-1].clamp(min=0).sqrt().item(), (top / top.norm()).view_as(start)
