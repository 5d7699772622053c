"""Operator norm of one layer's affine map, zero padding and stride included, by Lanczos iteration.

The layer is used as a black box through its forward pass and its vector-Jacobian product, so that every normalization
and every custom layer is supported.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from metrics.lipschitz.eval_mode import eval_mode
from metrics.lipschitz.host import to_host
from models.kernels import plain_kernels
from models.kernels.switch import reading_waits

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
        space = krylov_space(*affine_map(layer, start), start, iterations)
    ((sigma, _),) = largest_singular_values([space])
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
    scale = torch.stack(values).abs().max().double()
    return bool(~deviation.isfinite().all() | (deviation.abs().max() <= 1e-3 * scale))


def start_vector(layer: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """Return a random unit vector of `input_shape`. It is the same at every call; the global RNG is not used."""
    vector = torch.randn(tuple(input_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (vector / vector.norm()).to(own_tensor(layer))


def own_tensor(layer: nn.Module) -> Tensor:
    """Return a tensor with the device and dtype of the layer's parameters, or of its buffers."""
    own = (*layer.parameters(), *layer.buffers())
    return next((tensor.detach() for tensor in own if tensor.is_floating_point()), torch.empty(0))


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


def krylov_space(forward: LinearMap, adjoint: LinearMap, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Return an orthonormal basis (k, n) of the Krylov space of AᵀA, and AᵀA in that basis (k, k), for a linear map A.

    The basis is built with full reorthogonalization. In exact arithmetic this is Golub-Kahan bidiagonalization (Golub &
    Van Loan, section 10.4). The iteration stops as soon as the space is exhausted. Where the host would have to wait
    to know that, it goes on: the remaining basis vectors are zero, with -1 on the diagonal of the matrix, below all
    eigenvalues of AᵀA. A diverged A leaves NaN or infinity in the matrix.
    """
    basis = start.flatten()[None] / start.norm()  # (j, n)
    images = basis[:0]  # AᵀA of each row
    exhausted = torch.zeros((), dtype=torch.bool, device=start.device)
    unused = []  # whether each row is zero
    for _ in range(min(iterations, start.numel())):
        unused.append(exhausted)
        image = adjoint(forward(basis[-1].view_as(start))).flatten()
        images = torch.cat([images, image[None]])
        rest = image
        for _ in range(2):  # the second pass removes rounding errors
            rest = rest - basis.T @ (basis @ rest)
        size = rest.norm()
        exhausted = exhausted | ~(size > 1e-6 * image.norm())  # also after NaN
        if not reading_waits(exhausted) and exhausted:
            break
        basis = torch.cat([basis, torch.where(exhausted, 0.0, rest / size)[None]])
    basis = basis[: len(images)]
    projected = (basis @ images.T).double()
    return basis, (projected + projected.T) / 2 - torch.stack(unused).double().diag()


def largest_singular_values(spaces: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[float, Tensor]]:
    """Return the largest singular value and its unit right singular vector (n,) for the `krylov_space` of each map.

    This is the Rayleigh-Ritz method. The small eigenproblems are solved on the host, with one copy in each direction.
    The value is NaN for a diverged map, and its vector is then the first of the basis.
    """
    values, tops = [], []
    for matrix in to_host([matrix for _, matrix in spaces]):
        value, top = math.nan, torch.eye(len(matrix), dtype=matrix.dtype)[0]
        if matrix.isfinite().all():
            eigenvalues, vectors = torch.linalg.eigh(matrix)
            value, top = eigenvalues[-1].clamp(min=0).sqrt().item(), vectors[:, -1]
        values.append(value)
        tops.append(top)
    if not spaces:
        return []
    on_device = torch.cat(tops).to(spaces[0][0].device).split([len(top) for top in tops])
    vectors = [top.to(basis.dtype) @ basis for top, (basis, _) in zip(on_device, spaces, strict=True)]
    return [(value, vector / vector.norm()) for value, vector in zip(values, vectors, strict=True)]
