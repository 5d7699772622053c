"""Weights as matrices of shape (groups, outputs, ...), and their leading singular vectors."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layout(NamedTuple):
    """The layout of a layer's weight. A grouped convolution has a block diagonal matrix with one block per group."""

    groups: int
    transposed: bool

    @classmethod
    def from_layer(cls, layer: nn.Module) -> "Layout":
        """Return the layout of the weight of a convolution, linear layer or embedding."""
        return cls(getattr(layer, "groups", 1), isinstance(layer, nn.ConvTranspose2d))

    def kernel(self, weight: Tensor) -> Tensor:
        """Return a view of the weight as (g, O / g, I / g, kh, kw). A matrix has a kernel of size 1."""
        weight = weight[..., None, None] if weight.dim() == 2 else weight
        kernel = weight.unflatten(0, (self.groups, -1))
        return kernel.transpose(1, 2) if self.transposed else kernel

    def rows(self, weight: Tensor) -> Tensor:
        """Return the weight as (g, O / g, I kh kw / g), with one row per output channel."""
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

    Initially u and v are exact. In training, each call does `n_power_iterations`; in evaluation they do not change.
    They are constants for the gradient.
    """

    u: Tensor
    v: Tensor

    def __init__(self, matrix: Tensor, n_power_iterations: int):
        """Initialize u and v from an eigenvector of the smaller Gram matrix of `matrix` (g, r, c)."""
        super().__init__()
        self.n_power_iterations = n_power_iterations
        wide = matrix.detach().double()
        tall = wide.shape[1] > wide.shape[2]
        wide = wide.mT if tall else wide
        left = torch.linalg.eigh(wide @ wide.mT).eigenvectors[..., -1]
        right = F.normalize((wide.mT @ left[..., None])[..., 0], dim=1)
        u, v = (right, left) if tall else (left, right)
        self.register_buffer("u", u.to(matrix.dtype))
        self.register_buffer("v", v.to(matrix.dtype))

    def forward(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return σ (g,), u (g, r) and v (g, c) of `matrix` (g, r, c)."""
        if self.training:
            self._iterate(matrix.detach())
        # Copies, since a second forward pass may update the buffers before the backward pass of the first.
        u, v = self.u.clone(), self.v.clone()
        return torch.einsum("gr,grc,gc->g", u, matrix, v), u, v

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> None:
        for _ in range(self.n_power_iterations):
            self.u.copy_(direction((matrix @ self.v[..., None])[..., 0], self.u, dim=(1,)))
            self.v.copy_(direction((matrix.mT @ self.u[..., None])[..., 0], self.v, dim=(1,)))


def direction(vector: Tensor, fallback: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Return `vector` scaled to norm 1 over `dim`, or `fallback` where it is zero, as for a weight of zeros."""
    norm = vector.norm(dim=dim, keepdim=True)
    return torch.where(norm > 0, vector / norm, fallback)


def clamp_positive(sigma: Tensor) -> Tensor:
    """Clamp σ from below, so that dividing a weight of zeros by it does not give NaN."""
    return sigma.clamp_min(torch.finfo(sigma.dtype).tiny ** 0.5)
