"""Skew orthogonal convolutions (Singla & Feizi, ICML 2021, arXiv 2105.11417)."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from models.kernels import switch
from models.kernels.conv import CONVOLVE, conv2d
from models.kernels.symbol import fold_phases, padding_sides, plane_norm
from models.normalizations.base import NORMALIZATIONS, reparametrize
from models.normalizations.cayley import CayleyMatrix, OrthogonalLayers
from models.normalizations.conv_wrapper import ConvWrapper, is_circular, output_size, padding_norm
from models.normalizations.weight_matrices import LeadingSingularVectors, divisor, get_weight
from models.ranges import REPEATS

CORRECTION = 0.7  # of the authors: the norm of the convolution S is then near 1 for random weights
INITIAL_ITERATIONS = 50  # power iterations at initialization, as in the authors' code


@NORMALIZATIONS.register("soc")
@dataclass(frozen=True, kw_only=True)
class SOC(OrthogonalLayers):
    r"""y = Σ_i Sⁱ x / i!, i = 0, ..., `terms`, with the convolution S = 0.7 (M - Mᵀ) / σ and M the kernel as a square.

    Mᵀ is the adjoint: channels are transposed and taps flipped. S is skew-symmetric, with zero padding too, so that its
    exponential is orthogonal. M is the kernel of the input phases, as after the authors' invertible downsampling, with
    rows or columns of zeros up to the larger number of channels. Missing input channels are zeros, and additional
    output channels are dropped: with fewer inputs than outputs the layer is an isometry, else the transpose of one.

    σ is the authors' bound: the smallest norm of the reshapings of M - Mᵀ, (O, I prod(k)) and those with some of the
    spatial axes on the side of O, so that ||S|| <= 0.7 sqrt(prod(k)). For a single tap, S is (M - Mᵀ) / σ. A weight of
    zeros is not divided, and gives the identity. Each group of a grouped convolution has a σ of its own. In training,
    each call does one power iteration; in evaluation the singular vectors do not change.

    The singular values of the layer are those of the series, |Σ_i (iθ)ⁱ / i!| for the singular values θ of S, for
    circular padding, if a map of side n has an output of side n / s, and for zero padding that centers the kernel. They
    differ from 1 by at most ||S||^(T+1) / (T+1)!, with T the number of terms: by 3e-6 for T = 12 and 0.12 for T = 5 at
    the largest ||S|| of a 3x3 kernel, 2.1. In all other cases, the layer is a part of such a layer on a larger map, and
    its norm is at most 1 plus this error, times the norm of a padding that repeats pixels.

    For linear and embedding layers, this is `cayley`: S would have the norm 1, and the row of a layer with one output a
    fixed entry. Transposed convolutions and dilations are not accepted.

    This is the authors' `SOC` (singlasahil14/SOC, checked), with zero padding and a kernel of size k at stride 1 or s k
    at stride s, if the entries of their M that have no place in the weight are zero: for O != I s², they learn
    max(O, I s²)² kernels, and this layer O I s². They train with 5 terms and evaluate with 12, which are two functions,
    and do 50 power iterations in every 200th call. Their last layer is a matrix of the same form.
    """

    terms: Annotated[int, REPEATS] = 12
    """Terms of the series after the identity, each of which costs a convolution (authors: 5, and 12 in evaluation)"""

    has_state: ClassVar[bool] = True

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Wrap a convolution; reparametrize the weight of a linear or embedding layer."""
        return SkewConv(layer, self.terms) if isinstance(layer, _ConvNd) else reparametrize(layer, CayleyMatrix())


class SkewConv(ConvWrapper):
    """Exponential of a skew-symmetric convolution, (B, I, *n) -> (B, O, *n') as the convolution."""

    normalization = "SOC"

    def __init__(self, conv: _ConvNd, terms: int):
        super().__init__(conv)
        self.terms = terms
        matrices = _reshape(self._skew_part().detach())
        self.norms = nn.ModuleList(LeadingSingularVectors(matrix, 1) for matrix in matrices)
        self.initialize()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of this module, or of the convolution, whose weight has singular vectors."""
        super().__setattr__(name, value)
        if name == "weight":
            self.initialize()

    @property
    def _vectors(self) -> Iterable[LeadingSingularVectors]:
        return cast("Iterable[LeadingSingularVectors]", self.norms)

    @torch.no_grad()
    def initialize(self) -> None:
        """Compute the singular vectors of the current weight."""
        for vectors, matrix in zip(self._vectors, _reshape(self._skew_part()), strict=True):
            vectors.estimate(matrix, INITIAL_ITERATIONS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I, *n) or (I, *n) to the shape of the bare convolution."""
        return self._call(x)

    def extra_repr(self) -> str:
        """Show the options."""
        return f"terms={self.terms}"

    def lipschitz_bound(self, input_shape: Sequence[int]) -> float:
        """Return 1 and the remainder of the series, times the norm of a padding that repeats pixels."""
        kernel = self._kernel().detach()
        norm = plane_norm(kernel, [1] * (kernel.dim() - 2), self.conv.groups)
        remainder = math.prod(norm / i for i in range(1, self.terms + 2))
        return (1 + remainder) * padding_norm(self.conv, input_shape[1:])

    def _compute(self, x: Tensor) -> Tensor:
        conv, size = self.conv, x.shape[2:]
        counts, circular = output_size(conv, size), is_circular(conv, size)
        with switch.without_autocast(x.device):
            kernel = self._kernel()
        first, center = self._taps()
        start = [0] * len(size)  # the position of the first pixel
        if conv.padding_mode != "zeros" and not circular:
            sides = padding_sides(conv)
            x = F.pad(x, [side for p in reversed(sides) for side in p], mode=conv.padding_mode)
            x, start = _pad(x, [(-p[0] % s, 0) for p, s in zip(sides, conv.stride, strict=True)]), first
        x = fold_phases(x, conv.stride).flatten(1, 1 + len(size))
        if circular:  # all centers are 0 then
            y = self._exponential(x, kernel, circular)
        else:  # on all positions with pixels or outputs
            axes = [*zip(start, x.shape[2:], center, counts, strict=True)]
            x = _pad(x, [(max(0, a - c), max(0, c + m - a - n)) for a, n, c, m in axes])
            y = self._exponential(x, kernel, circular)
            y = y[(..., *(slice(max(0, c - a), max(0, c - a) + m) for a, _, c, m in axes))]
        return y if conv.bias is None else y + conv.bias.to(y.dtype).view(-1, *[1] * len(size))

    def _exponential(self, x: Tensor, kernel: Tensor, circular: bool) -> Tensor:
        """Return the series for x (B, I prod(s), *m) as (B, O, *m)."""
        groups, axes, channels = self.conv.groups, x.dim() - 2, kernel.shape[1]
        missing = channels - x.shape[1] // groups
        if missing:
            x = F.pad(x.unflatten(1, (groups, -1)), [0, 0] * axes + [0, missing]).flatten(1, 2)
        y = x
        for i in range(self.terms, 0, -1):  # Horner's scheme
            y = x + _convolve(y, kernel, groups, circular) / i
        outputs = self.conv.out_channels // groups
        return y if outputs == channels else y.unflatten(1, (groups, -1))[:, :, :outputs].flatten(1, 2)

    def _kernel(self) -> Tensor:
        """Return the kernel of S, (g C, C, *t)."""
        skew = self._skew_part()
        norms = [vectors(matrix)[0] for vectors, matrix in zip(self._vectors, _reshape(skew), strict=True)]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).amin(dim=0)  # (g,)
        correction = 1.0 if max(skew.shape[3:]) == 1 else CORRECTION
        return (skew * (correction / divisor(norm)).view(-1, *[1] * (skew.dim() - 1))).flatten(0, 1)

    def _skew_part(self) -> Tensor:
        """Return M - Mᵀ as (g, C, C, *t), with an odd number of taps."""
        conv, (first, center) = self.conv, self._taps()
        axes = list(zip(first, center, padding_sides(conv), conv.stride, strict=True))
        kernel = _pad(get_weight(conv), [(-p[0] % s, 0) for _, _, p, s in axes])
        kernel = fold_phases(kernel, conv.stride).flatten(1, 1 + len(axes)).unflatten(0, (conv.groups, -1))
        outputs, inputs, *taps = kernel.shape[1:]
        channels = max(outputs, inputs)
        radius = [max(c - a, a + t - 1 - c) for (a, c, _, _), t in zip(axes, taps, strict=True)]
        before = [r - (c - a) for r, (a, c, _, _) in zip(radius, axes, strict=True)]
        after = [2 * r + 1 - t - b for r, t, b in zip(radius, taps, before, strict=True)]
        square = _pad(kernel, [(0, channels - outputs), (0, channels - inputs), *zip(before, after, strict=True)])
        return square - square.transpose(1, 2).flip([*range(3, square.dim())])

    def _taps(self) -> tuple[list[int], list[int]]:
        """Return the positions of the first tap and of the center of the kernel of the phases, seen from the output.

        The center is the tap in the middle. Of the two taps in the middle, it is the one that is nearer to the output.
        """
        axes = zip(padding_sides(self.conv), self.conv.kernel_size, self.conv.stride, strict=True)
        ends = [(-p[0] // s, (k - 1 - p[0]) // s) for p, k, s in axes]
        return [a for a, _ in ends], [int((a + b) / 2) for a, b in ends]


def _reshape(kernel: Tensor) -> Iterator[Tensor]:
    """Return the matrices (g, rows, columns) of a skew-symmetric kernel (g, C, C, *t), up to transposes.

    Exchanging the axes of the rows with those of the columns gives a transpose.
    """
    _, *others = [axis for axis in range(3, kernel.dim()) if kernel.shape[axis] > 1] or [3]
    for count in range(len(others) + 1):
        for rows in itertools.combinations(others, count):
            columns = [axis for axis in range(3, kernel.dim()) if axis not in rows]
            yield kernel.permute(0, 1, *rows, 2, *columns).flatten(1, 1 + count).flatten(2)


def _convolve(x: Tensor, kernel: Tensor, groups: int, circular: bool) -> Tensor:
    """Convolve x (B, g C, *m) with a kernel (g C, C, *t) with an odd number of taps, and keep its size."""
    radius = [t // 2 for t in kernel.shape[2:]]
    if circular:
        x = F.pad(x, [r for r in reversed(radius) for _ in range(2)], mode="circular")
        radius = [0] * len(radius)
    if len(radius) == 2:
        return conv2d(x, kernel, (1, 1), radius, (1, 1), groups)
    return CONVOLVE[len(radius)](x, kernel, padding=radius, groups=groups)


def _pad(x: Tensor, sides: Sequence[tuple[int, int]]) -> Tensor:
    """Pad the last axes of x with zeros, (before, after) each. `F.pad` copies x even if the padding is zero."""
    return F.pad(x, [side for pair in reversed(sides) for side in pair]) if any(map(any, sides)) else x
