"""Weights as matrices with one row per output channel, whatever the layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def output_axis(layer: nn.Module) -> int:
    """Return the axis of `layer.weight` that counts output channels: 1 in a transposed convolution, else 0."""
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0


def as_matrix(weight: Tensor, axis: int) -> Tensor:
    """Unfold a weight to (channels along `axis`, all the rest)."""
    return weight.movedim(axis, 0).flatten(1)


def from_matrix(matrix: Tensor, shape: torch.Size, axis: int) -> Tensor:
    """Undo `as_matrix` for a weight of `shape`."""
    moved = [shape[axis], *shape[:axis], *shape[axis + 1 :]]
    return matrix.reshape(moved).movedim(0, axis)


class PowerIteration(nn.Module):
    """The leading singular vectors of a matrix, followed by `steps` power iterations a training access.

    They start from the SVD of the matrix at hand and stand still in evaluation. σ = uᵀ W v is differentiable in W with
    u and v held fixed.
    """

    u: Tensor
    v: Tensor

    def __init__(self, matrix: Tensor, steps: int):
        super().__init__()
        self.steps = steps
        with torch.no_grad():
            left, _, right = torch.linalg.svd(matrix.float(), full_matrices=False)
        self.register_buffer("u", left[:, 0].to(matrix.dtype))
        self.register_buffer("v", right[0].to(matrix.dtype))

    def forward(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return u (O,), σ and v (I,) of a matrix (O, I)."""
        if self.training:
            with torch.no_grad():
                for _ in range(self.steps):
                    self.u = F.normalize(matrix @ self.v, dim=0)
                    self.v = F.normalize(matrix.T @ self.u, dim=0)
        return self.u, self.u @ (matrix @ self.v), self.v
