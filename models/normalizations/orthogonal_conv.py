"""Orthogonal convolutions: BCOP (Li et al., NeurIPS 2019) with the strides of AOC (Boissin et al., ICML 2025)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels.symbol import fold_phases
from models.normalizations.base import NORMALIZATIONS, Normalization, Parametrization, reparametrize
from models.normalizations.weight_matrices import divisor, get_weight

SMALLEST = 2e-3
"""Singular values from here on, relative to the largest, become 1; those below become smaller ones"""
STABLE = 0.3
"""Least singular value for which a scale is optimal (`cushion` in Polar Express, Amsel et al., 2025)"""


@NORMALIZATIONS.register("orthogonal_conv")
@dataclass(frozen=True, kw_only=True)
class OrthogonalConv(Normalization):
    r"""Composition of convolutions with 2 taps, P + (I - P) z, and of one with an orthogonal s x s kernel and stride s.

    Here, z is a shift along an axis and P an orthogonal projection of the channels, so that each factor is orthogonal.
    A kernel of size k and stride s has k - s such factors per axis, and its last factor is an orthogonal matrix from
    min(k, s)² pixels to the output channels (an orthogonal 1x1 convolution for s = 1). All singular values of the layer
    are 1 for circular padding, if k >= s and a map of side n has an output of side n / s. With fewer outputs than
    inputs the layer is the transpose of an isometry. For zero padding and any size, the norm is at most 1. For padding
    that repeats pixels (reflect, replicate, and circular for other sizes), this bound is multiplied by the norm of the
    padding. Training and evaluation compute the same function.

    All factors are computed from the weight, which no longer is a kernel: the matrix from its first taps, and the
    projection of tap j of an axis from the sum of the weight over the other axes. With c inner channels, projections
    have the rank c / 2, or the number of output channels if that is smaller. For s = 1, c is the larger number of
    channels; for other strides c is that of the inputs, or a multiple of it if there are more than c s² outputs. A
    matrix whose sides differ by less than a factor of 2 is a part of (I - 2 P)(I - 2 Q) with two such projections, as
    in AOC. Others, and the bases of the projections, are polar factors, by Newton-Schulz iteration with the scales of
    Chen & Chow (2014) instead of the authors' power iteration and Björck iteration with a scale of 1. The gradient is
    inversely proportional to the length of the vectors that are orthogonalized, which can be short by chance where they
    have 2 or 3 channels.

    The weight of a transposed convolution is that of its adjoint, a grouped convolution has one kernel per group, and
    linear and embedding layers have an orthogonal matrix. A dilation and a stride of the same axis must have no common
    divisor. A single channel is refused, since its orthogonal kernels are shifts.

    For the same projections, this is the kernel of `FastBlockConv2d` and `BcopRkoConv2d` (thib-s/orthogonium, checked;
    for more outputs than inputs and a stride, they have other inner channels). They store projections and matrices as
    parameters of their own.
    """

    def find_obstacle(self, layer: nn.Module) -> str | None:
        """Return why `layer` cannot be normalized, or None if it can."""
        if obstacle := super().find_obstacle(layer):
            return obstacle
        plan = Plan(layer)
        if any(s > 1 and k > 1 and math.gcd(s, d) > 1 for k, s, d in plan.axes):
            return "its stride and dilation have a common divisor, and no such kernel is orthogonal"
        if plan.rows == plan.inner * math.prod(plan.box) == 1:
            return "it maps one channel to one (per group), and the orthogonal kernels of one channel are shifts"
        return None

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight` and return the layer."""
        return reparametrize(layer, OrthogonalKernel(layer))


class Plan:
    """The shapes of the factors of an orthogonal kernel.

    Attributes:
        size: that of the kernel.
        axes: size, stride and dilation of each axis.
        box: the size of the last factor.
        rows: the number of its outputs.
        adjoint: whether the kernel is computed as that of the adjoint.
        copies, inner: the number of channels of the other factors is `inner`, which is `copies` times the inputs.
    """

    def __init__(self, layer: nn.Module):
        weight = get_weight(layer)
        self.groups: int = getattr(layer, "groups", 1)
        rows, columns = weight.shape[0] // self.groups, weight.shape[1]
        self.size = tuple(weight.shape[2:]) or (1,)
        stride, dilation = (getattr(layer, name, (1,)) for name in ("stride", "dilation"))
        self.axes = list(zip(self.size, stride, dilation, strict=True))
        self.box = tuple(min(k, s) for k, s, _ in self.axes)
        pixels = math.prod(self.box)
        self.adjoint = pixels == 1 and rows >= columns
        self.rows, columns = (columns, rows) if self.adjoint else (rows, columns)
        boxes = math.prod(k // m for k, m in zip(self.size, self.box, strict=True))
        self.copies = max(1, min(self.rows // (columns * pixels), boxes))
        self.inner = self.copies * columns


class OrthogonalKernel(Parametrization):
    """Parametrization that maps a weight to an orthogonal kernel of the same shape."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.plan = Plan(layer)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the orthogonal kernel."""
        plan = self.plan
        source = weight.float() if weight.dtype.itemsize < 4 else weight  # 16 bits are too few for the iteration
        source = source[..., None] if source.dim() == 2 else source
        source = source.unflatten(0, (plan.groups, -1))  # (g, O / g, I / g, *k)
        source = source.transpose(1, 2) if plan.adjoint else source
        kernel = self._last_factor(source)  # (g, *m, O, c)
        for axis, basis in self._projections(source):
            basis = basis.view(len(basis), *[1] * len(plan.size), *basis.shape[1:])
            projected = kernel @ basis @ basis.mT
            before = [0, 0] * (kernel.dim() - 1 - axis) + [1, 0]
            after = [0, 0] * (kernel.dim() - 1 - axis) + [0, 1]
            kernel = F.pad(projected, after) + F.pad(kernel - projected, before)
        kernel = kernel[..., : source.shape[2]].movedim((-2, -1), (1, 2))
        kernel = kernel.transpose(1, 2) if plan.adjoint else kernel
        return kernel.reshape(weight.shape).to(weight.dtype)

    def _last_factor(self, source: Tensor) -> Tensor:
        """Return the orthogonal kernel with the size of its stride as (g, *m, O, c)."""
        plan = self.plan
        whole = (slice(k // m * m) for k, m in zip(plan.size, plan.box, strict=True))
        boxes = fold_phases(source.flatten(0, 1)[(..., *whole)], plan.box)  # (g O, I, *m, *(k // m))
        boxes = boxes.flatten(2 + len(plan.box))[..., : plan.copies].movedim(-1, 1)  # (g O, copies, I, *m)
        matrix = boxes.reshape(plan.groups, plan.rows, -1)
        matrix = orthogonal_matrix(matrix).reshape(plan.groups, plan.rows, plan.inner, *plan.box)
        return matrix.movedim((1, 2), (-2, -1))

    def _projections(self, source: Tensor) -> Iterable[tuple[int, Tensor]]:
        """Return the axes of the factors with two taps, and a basis (g, c, rank) of the projection of each."""
        plan = self.plan
        rank = min(plan.inner // 2, plan.rows // plan.copies)
        axes, matrices = [], []
        for tap in reversed(range(max(plan.size))):
            for axis in range(len(plan.size)):
                if plan.box[axis] <= tap < plan.size[axis]:
                    others = [3 + other for other in range(len(plan.size)) if other != axis]
                    rows = source.select(3 + axis, tap) if not others else source.sum(others)[..., tap]
                    rows = rows[:, : plan.rows // plan.copies * plan.copies].reshape(plan.groups, -1, plan.inner)
                    axes.append(1 + axis)
                    matrices.append(rows[:, :rank])
        bases = polar_factor(torch.cat(matrices)).mT.chunk(len(axes)) if axes else ()
        return zip(axes, bases, strict=True)


def orthogonal_matrix(matrix: Tensor) -> Tensor:
    """Return matrices (g, a, b) with orthonormal rows, or columns if there are fewer, computed from those given."""
    rows, columns = matrix.shape[1:]
    if rows > columns:
        return orthogonal_matrix(matrix.mT).mT
    if 2 * rows <= columns or columns == 1:
        return polar_factor(matrix)
    # Square matrices have small singular values, with which the polar factor would be inaccurate.
    half = columns // 2
    result = torch.eye(rows, columns, dtype=matrix.dtype, device=matrix.device).expand_as(matrix)
    for basis in polar_factor(torch.cat([matrix[:, :half], matrix[:, rows - half :]])).mT.chunk(2):
        result = result - 2 * (result @ basis) @ basis.mT
    return result


def polar_factor(matrix: Tensor) -> Tensor:
    """Return the polar factor of matrices (g, a, b) with a <= b: their singular values become 1, and none exceeds 1.

    A row of zeros counts as a row of the identity matrix, so that it has a gradient.
    """
    with torch.no_grad():
        size = divisor(matrix.norm(dim=(1, 2), keepdim=True))
        zero = (matrix == 0).all(dim=2, keepdim=True)
    x = matrix / size + torch.eye(*matrix.shape[1:], dtype=matrix.dtype, device=matrix.device) * zero
    with torch.no_grad():
        gram = x @ x.mT
        bound = (gram @ gram).norm(dim=(1, 2), keepdim=True).sqrt().sqrt()
    x = x / bound
    for scale in SCALES:
        x = torch.baddbmm(x, x @ x.mT, x, beta=1.5 * scale, alpha=-0.5 * scale**3)
    return x


def _stable_scales() -> list[float]:
    """Return scales a for x -> (3 a x - (a x)³) / 2 that bring [SMALLEST, 1] to 1.

    A scale maximizes the least value on an interval that ends at 1. With a wider interval than `STABLE` allows, values
    near 1 would become small ones, and single precision would lose digits of the result and more of the gradient.
    """
    scales, least = [], SMALLEST
    while 1 - least > 1e-8:
        start = max(least, STABLE)
        scales.append(math.sqrt(3 / (1 + start + start**2)))
        least = min(scales[-1] * x * (3 - (scales[-1] * x) ** 2) / 2 for x in (least, 1))
    return [*scales, 1.0]


SCALES = _stable_scales()
