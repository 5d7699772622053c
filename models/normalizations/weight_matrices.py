"""Weights as matrices of shape (groups, outputs, ...), and their leading singular vectors."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

SMALLEST_DIVISOR = 1e-12


class Layout(NamedTuple):
    """The layout of a layer's weight. A grouped convolution has a block diagonal matrix with one block per group."""

    groups: int
    transposed: bool

    @classmethod
    def from_layer(cls, layer: nn.Module) -> "Layout":
        """Return the layout of the weight of a convolution, linear layer or embedding."""
        return cls(getattr(layer, "groups", 1), isinstance(layer, _ConvTransposeNd))

    def kernel(self, weight: Tensor) -> Tensor:
        """Return a view of the weight as (g, O / g, I / g, *k). A matrix has a kernel of size 1."""
        weight = weight[..., None, None] if weight.dim() == 2 else weight
        kernel = weight.unflatten(0, (self.groups, -1))
        return kernel.transpose(1, 2) if self.transposed else kernel

    def rows(self, weight: Tensor) -> Tensor:
        """Return the weight as (g, O / g, prod(k) I / g), with one row per output channel."""
        return self.kernel(weight).flatten(2)

    def restore(self, rows: Tensor, like: Tensor) -> Tensor:
        """Return (g, O / g, ...), as returned by `rows` or `kernel`, in the shape of the weight `like`."""
        rows = rows.reshape(self.kernel(like).shape)
        return (rows.transpose(1, 2) if self.transposed else rows).reshape(like.shape)


def get_weight(layer: nn.Module) -> Tensor:
    """Return the current weight of a layer. Raises TypeError if it has none."""
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight")
    return weight


class LeadingSingularVectors(nn.Module):
    """Largest singular values σ = uᵀ M v of matrices M, one per group, by power iteration on the buffers u and v.

    `initialize` makes u and v exact, and `estimate` nearly so. In training, each call does `n_power_iterations`; in
    evaluation they do not change. They are constants for the gradient.
    """

    u: Tensor
    v: Tensor

    def __init__(self, matrix: Tensor, n_power_iterations: int):
        """Allocate u and v for matrices shaped like `matrix` (g, r, c)."""
        super().__init__()
        self.n_power_iterations = n_power_iterations
        self.register_buffer("u", matrix.new_empty(matrix.shape[:2]))
        self.register_buffer("v", matrix.new_empty(matrix.shape[0], matrix.shape[2]))

    @torch.no_grad()
    def initialize(self, matrix: Tensor) -> None:
        """Set u and v from an eigenvector of the smaller Gram matrix of `matrix` (g, r, c).

        A matrix of zeros gets random vectors, from which the power iteration finds those of the first matrix that is
        not zero.
        """
        wide = matrix.double()
        tall = wide.shape[1] > wide.shape[2]
        wide = wide.mT if tall else wide
        left = torch.linalg.eigh(wide @ wide.mT).eigenvectors[..., -1]
        right = F.normalize((wide.mT @ left[..., None])[..., 0], dim=1)
        zero = (right == 0).all(dim=1, keepdim=True)
        left, right = (torch.where(zero, random_directions(x), x) for x in (left, right))
        u, v = (right, left) if tall else (left, right)
        self.u.copy_(u)
        self.v.copy_(v)

    def estimate(self, matrix: Tensor, iterations: int) -> None:
        """Set u and v by power iterations on `matrix` (g, r, c) from random vectors, at a fraction of the cost."""
        self.u.copy_(random_directions(self.u))
        self.v.copy_(random_directions(self.v))
        self.iterate(matrix, iterations)

    def forward(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return σ (g,), u (g, r) and v (g, c) of `matrix` (g, r, c)."""
        if self.training:
            self.iterate(matrix, self.n_power_iterations)
        # Copies, since a second forward pass may update the buffers before the backward pass of the first.
        u, v = self.u.clone(), self.v.clone()
        return torch.einsum("gr,grc,gc->g", u, matrix, v), u, v

    @torch.no_grad()
    def iterate(self, matrix: Tensor, iterations: int) -> None:
        """Update u and v by power iterations on `matrix` (g, r, c)."""
        for _ in range(iterations):
            self.u.copy_(direction((matrix @ self.v[..., None])[..., 0], self.u, dim=(1,)))
            self.v.copy_(direction((matrix.mT @ self.u[..., None])[..., 0], self.v, dim=(1,)))


def direction(vector: Tensor, fallback: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Return `vector` scaled to norm 1 over `dim`, or `fallback` where it is zero, as for a weight of zeros."""
    norm = vector.norm(dim=dim, keepdim=True)
    return torch.where(norm > 0, vector / norm, fallback)


def random_directions(like: Tensor) -> Tensor:
    """Return random vectors of norm 1 along the last axis, shaped like `like`, the same at every call."""
    random = torch.randn(like.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return F.normalize(random, dim=-1).to(like)


def divisor(norm: Tensor) -> Tensor:
    """Return `norm`, or 1 where it is at most `SMALLEST_DIVISOR`: a weight of zeros is not divided.

    Its gradient is then that of the undivided weight, which is of the size of any other gradient. With a small divisor
    instead it would be huge, and gradient clipping would scale the gradients of all other weights to zero.
    """
    return torch.where(norm > SMALLEST_DIVISOR, norm, 1.0)
