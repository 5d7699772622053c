"""Operator norm of one layer's affine map, zero padding and stride included, by Lanczos iteration.

The layer is used as a black box through its forward pass and its vector-Jacobian product, so that every normalization
and every custom layer is supported.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from metrics.lipschitz.eval_mode import eval_mode
from metrics.lipschitz.host import to_host
from models.kernels import plain_kernels
from models.kernels.switch import reading_waits
from models.overrides import find_override
from models.protocols import is_composite_layer

LinearMap = Callable[[Tensor], Tensor]

EXHAUSTED = 1e-6
"""Part of a vector outside of a Krylov space, relative to its norm, that counts as rounding error"""


def operator_norm(layer: nn.Module, input_shape: Sequence[int], iterations: int = 50) -> float:
    """Return the largest singular value of x -> layer(x) - layer(0) for inputs of `input_shape`, such as (C, H, W).

    The result is a lower bound that converges as `iterations` grows. The layer is measured in evaluation mode and is
    not changed. `input_shape` has no batch dimension. The outputs of a layer that returns several tensors are measured
    together. Raises ValueError for a layer that is not affine in evaluation
    mode, since it has no operator norm.
    """
    with eval_mode(layer), plain_kernels():
        start = start_vector(layer, input_shape)
        if not is_affine(layer, start):
            raise ValueError(f"{type(layer).__name__} is not affine in evaluation mode: it has no operator norm")
        space = krylov_space(*affine_map(layer, start), start, iterations)
        ((sigma, _),) = largest_singular_values([space])
    return sigma


@torch.no_grad()
def is_affine(layer: nn.Module, direction: Tensor) -> Tensor:
    """Return whether f(v + 2 u) - f(v) + 2 (f(-u) - f(0)) is 0 for the layer f, as it is for every affine f.

    v is `direction`, scaled to entries near 1, and u is v in reverse order. A diverged layer counts as affine, so that
    its norm is reported as NaN. The result is on the device of the layer.
    """
    v = direction * direction.numel() ** 0.5
    u = v.flatten().flip(0).view_as(v)
    values = [join_outputs(layer(x[None]), 1) for x in (v + 2 * u, v, -u, torch.zeros_like(v))]
    deviation = values[0] - values[1] + 2 * (values[2] - values[3])
    scale = torch.stack(values).abs().max().double()
    return ~deviation.isfinite().all() | (deviation.abs().max() <= 1e-3 * scale)


def stays_affine(layer: nn.Module) -> bool:
    """Return whether an affine layer is affine for all values of its parameters.

    Another layer may be affine by accident, such as a residual block whose branch has a factor of 0 at first.
    """
    return is_composite_layer(layer) or (
        isinstance(layer, _ConvNd | nn.Linear | _BatchNorm) and find_override(layer) is None
    )


def start_vector(layer: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """Return a random unit vector of `input_shape`. It is the same at every call; the global RNG is not used."""
    vector = torch.randn(tuple(input_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (vector / vector.norm()).to(own_tensor(layer))


def own_tensor(layer: nn.Module) -> Tensor:
    """Return a tensor with the device and dtype of the layer's parameters, or of its buffers.

    Inside `eval_mode` it has at least single precision.
    """
    own = (*layer.parameters(), *layer.buffers())
    return next((tensor.detach() for tensor in own if tensor.is_floating_point()), torch.empty(0))


def join_outputs(output: Any, batch: int) -> Tensor:
    """Return the output of a layer for a batch as one tensor (batch, ...), with the outputs of a tuple side by side.

    Outputs that are not floating-point are left out. Raises ValueError if there is no other, or no batch dimension.
    """
    tensors = [tensor for tensor in _iterate_tensors(output) if tensor.is_floating_point()]
    if not tensors or any(tensor.shape[:1] != (batch,) for tensor in tensors):
        raise ValueError(f"its output is not a batch of floating-point tensors: {_describe(output)}")
    return tensors[0] if len(tensors) == 1 else torch.cat([tensor.flatten(1) for tensor in tensors], dim=1)


def _iterate_tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _iterate_tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _iterate_tensors(value)


def _describe(output: Any) -> str:
    shapes = ", ".join(f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in _iterate_tensors(output))
    return shapes or type(output).__name__


def affine_map(layer: nn.Module, example: Tensor) -> tuple[LinearMap, LinearMap]:
    """Return A: x -> layer(x) - layer(0) and its adjoint by vjp, for inputs shaped like `example` (no batch)."""
    with torch.enable_grad():
        zero = torch.zeros_like(example).requires_grad_(True)
        output = join_outputs(layer(zero[None]), 1)[0]

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            return join_outputs(layer(x[None]), 1)[0] - output.detach()

    def adjoint(y: Tensor) -> Tensor:
        return torch.autograd.grad(output, zero, y, retain_graph=True)[0]

    return forward, adjoint


class KrylovSpace(NamedTuple):
    """Orthonormal vectors, and AᵀA in their basis. Only the rows before the first small value of `new` count."""

    basis: Tensor
    """Vectors of the space (k, n)"""
    matrix: Tensor
    """AᵀA in the basis (k, k), in double precision"""
    new: Tensor
    """How much of AᵀA times each vector is outside of the space up to it (k,), relative to its norm"""


def krylov_space(forward: LinearMap, adjoint: LinearMap, start: Tensor, iterations: int) -> KrylovSpace:
    """Return the Krylov space of AᵀA for a linear map A and a start vector.

    The basis is built with full reorthogonalization. In exact arithmetic this is Golub-Kahan bidiagonalization (Golub &
    Van Loan). The iteration stops as soon as the space is exhausted, unless the host would have to wait to know that. A
    diverged A leaves NaN or infinity in the matrix.
    """
    iterations = min(iterations, start.numel())
    basis = start.new_empty(iterations, start.numel())
    torch.div(start.flatten(), start.norm(), out=basis[0])
    images, new = [], []
    for i in range(iterations):
        image = adjoint(forward(basis[i].view_as(start))).flatten()
        rest, known = image, basis[: i + 1]
        for _ in range(2):  # the second pass removes rounding errors
            rest = rest - known.T @ (known @ rest)
        size = rest.norm()
        images.append(image)
        new.append(size / image.norm())
        if i + 1 == iterations or (not reading_waits(size) and not new[-1] > EXHAUSTED):
            break
        torch.div(rest, size, out=basis[i + 1])
    basis = basis[: len(images)]
    projected = (basis @ torch.stack(images).T).double()
    return KrylovSpace(basis, (projected + projected.T) / 2, torch.stack(new).double())


def largest_singular_values(spaces: Sequence[KrylovSpace]) -> list[tuple[float, Tensor]]:
    """Return the largest singular value and its unit right singular vector (n,) of the map of each space.

    This is the Rayleigh-Ritz method. The small eigenproblems are solved on the host, with one copy in each direction.
    The value is NaN for a diverged map, and its vector is then the first of the basis.
    """
    if not spaces:
        return []
    on_host = to_host([tensor for space in spaces for tensor in (space.matrix, space.new)])
    values, tops = [], []
    for matrix, new in zip(on_host[::2], on_host[1::2], strict=True):
        exhausted = (~(new > EXHAUSTED)).nonzero()  # also NaN
        count = int(exhausted[0]) + 1 if len(exhausted) else len(new)
        matrix = matrix[:count, :count]
        value, top = math.nan, torch.eye(count, dtype=matrix.dtype)[0]
        if matrix.isfinite().all():
            eigenvalues, vectors = torch.linalg.eigh(matrix)
            value, top = eigenvalues[-1].clamp(min=0).sqrt().item(), vectors[:, -1]
        values.append(value)
        tops.append(top)
    on_device = torch.cat(tops).to(spaces[0].basis.device).split([len(top) for top in tops])
    vectors = [top.to(s.basis.dtype) @ s.basis[: len(top)] for top, s in zip(on_device, spaces, strict=True)]
    return [(value, vector / vector.norm()) for value, vector in zip(values, vectors, strict=True)]
