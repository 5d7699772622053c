"""Orthogonal convolutions by the Cayley transform in the Fourier domain (Trockman & Kolter, ICLR 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from models.kernels import switch
from models.kernels.symbol import fold_phases, padding_sides
from models.normalizations.base import NORMALIZATIONS, Normalization, Parametrization, reparametrize
from models.normalizations.conv_wrapper import ConvWrapper, is_circular, output_size, padding_norm
from models.normalizations.obstacles import find_normalization, find_obstacle_to_wrapping

CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, kw_only=True)
class OrthogonalLayers(Normalization):
    """Base class of `cayley` and `soc`, which wrap a convolution and reparametrize linear and embedding layers."""

    @property
    def types(self) -> tuple[type[nn.Module], ...]:
        """Convolutions, linear layers and embeddings."""
        return (*CONVOLUTIONS, nn.Linear, nn.Embedding)

    def find_obstacle(self, layer: nn.Module) -> str | None:
        """Return why `layer` cannot be normalized: a convolution with its own forward or hooks would be bypassed."""
        if not isinstance(layer, _ConvNd):
            return super().find_obstacle(layer)
        if max(layer.dilation) > 1:
            return "it is dilated"
        return find_normalization(layer) or find_obstacle_to_wrapping(layer) or self.find_obstacle_to_state(layer)


@NORMALIZATIONS.register("cayley")
@dataclass(frozen=True, kw_only=True)
class Cayley(OrthogonalLayers):
    r"""Q(w) = [(I + A)⁻¹ (I - A); -2 V (I + A)⁻¹] with A = U - Uᴴ + Vᴴ V at each frequency w, for K(w) = [U; V].

    K is the matrix by which the convolution acts on a frequency, with more outputs than inputs. Otherwise, Q is the
    transpose of that for the transpose of K. The matrices Q have orthonormal columns or rows, and so has the layer: all
    its singular values are 1 for circular padding, if a map of side n has an output of side n / s. Its kernel is as
    large as the map. For other padding, the map is padded with as many pixels as the convolution does, and the output
    is the same part of the circular convolution on this larger map as that of the convolution. The norm is then at most
    1 for zero padding, and that of the padding if it repeats pixels. Training and evaluation compute the same function.

    A strided convolution acts on its input phases, as the authors' invertible downsampling. Each group of a grouped
    convolution has a matrix of its own. For linear and embedding layers, K is the matrix. The function depends on the
    size of the weight: small weights give nearly the identity. Transposed convolutions and dilations are not accepted.

    This is the authors' `CayleyConv` (locuslab/orthogonal-convolutions, checked for odd kernels, circular padding and
    square maps) without the learned scale of the whole weight, which starts as the factor 1. In their code, padding is
    always circular, and a stride of 2 halves the kernel.
    """

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Wrap a convolution; reparametrize the weight of a linear or embedding layer."""
        return CayleyConv(layer) if isinstance(layer, _ConvNd) else reparametrize(layer, CayleyMatrix())


class CayleyMatrix(Parametrization):
    """Parametrization that maps a matrix to one with orthonormal rows or columns."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return the orthogonal matrix."""
        return cayley(weight.float() if weight.dtype.itemsize < 4 else weight).to(weight.dtype)


class CayleyConv(ConvWrapper):
    """Orthogonal convolution on the grid of its padded input, (B, I, *n) -> (B, O, *n') as the convolution."""

    normalization = "Cayley"

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I, *n) or (I, *n) to the shape of the bare convolution."""
        return self._call(x)

    def _compute(self, x: Tensor) -> Tensor:
        conv = self.conv
        with switch.without_autocast(x.device):
            weight = conv.weight.float() if conv.weight.dtype.itemsize < 4 else conv.weight
            convolve = self._convolve if len(x) else conv._conv_forward  # MKL has no DFT of an empty batch
            y = convolve(x.to(weight.dtype), weight, None).to(x.dtype)
        return y if conv.bias is None else y + conv.bias.to(x.dtype).view(-1, *[1] * (y.dim() - 2))

    def lipschitz_bound(self, input_shape: Sequence[int]) -> float:
        """Return 1, times the norm of a padding that repeats pixels."""
        return padding_norm(self.conv, input_shape[1:])

    def _convolve(self, x: Tensor, weight: Tensor, bias: None) -> Tensor:
        conv, sides, stride = self.conv, padding_sides(self.conv), self.conv.stride
        size = x.shape[2:]
        counts = output_size(conv, size)
        if is_circular(conv, size):
            grid = [n // s for n, s in zip(size, stride, strict=True)]
        else:
            if conv.padding_mode != "zeros":
                x = F.pad(x, [side for p in reversed(sides) for side in p], mode=conv.padding_mode)
                sides = ((0, 0),) * len(stride)
            # Zeros at the end are the padding on both sides of a circle.
            grid = [
                -(-max(n + sum(p), k + -p[0] % s) // s)
                for n, p, k, s in zip(x.shape[2:], sides, conv.kernel_size, stride, strict=True)
            ]
            missing = [m * s - n for m, s, n in zip(grid, stride, x.shape[2:], strict=True)]
            x = F.pad(x, [side for m in reversed(missing) for side in (0, m)])

        # The kernel begins at -p. A multiple of the stride before it makes that a position of the grid.
        front = [-p[0] % s for p, s in zip(sides, stride, strict=True)]
        kernel = fold_phases(F.pad(weight, [side for f in reversed(front) for side in (f, 0)]), stride)
        kernel = kernel.flatten(1, 1 + len(stride))  # (O, I / g prod(s), *t)
        kernel = F.pad(
            kernel, [side for m, t in zip(grid[::-1], kernel.shape[:1:-1], strict=True) for side in (0, m - t)]
        )
        starts = [-(p[0] + f) // s for p, f, s in zip(sides, front, stride, strict=True)]
        spatial = tuple(range(2, 2 + len(grid)))
        kernel = kernel.roll(starts, spatial)

        symbol = torch.fft.rfftn(kernel, dim=spatial).conj().unflatten(0, (conv.groups, -1))
        matrices = cayley(symbol.flatten(3).permute(3, 0, 1, 2))  # (F, g, O / g, I / g prod(s))
        phases = fold_phases(x, stride).flatten(1, 1 + len(stride))
        spectrum = torch.fft.rfftn(phases, dim=spatial)
        columns = spectrum.unflatten(1, (conv.groups, -1)).flatten(3).permute(3, 1, 2, 0)  # (F, g, I / g prod(s), B)
        result = (matrices @ columns).permute(3, 1, 2, 0).flatten(1, 2)
        y = torch.fft.irfftn(result.unflatten(2, spectrum.shape[2:]), s=grid, dim=spatial)
        return y[(..., *(slice(count) for count in counts))]


def cayley(matrix: Tensor) -> Tensor:
    """Return real or complex matrices (..., a, b) with orthonormal columns, or rows if there are fewer."""
    rows, columns = matrix.shape[-2:]
    if columns > rows:
        return cayley(matrix.mT).mT
    u, v = matrix[..., :columns, :], matrix[..., columns:, :]
    eye = torch.eye(columns, dtype=matrix.dtype, device=matrix.device)
    a = u - u.mH + v.mH @ v
    inverse = torch.linalg.inv_ex(eye + a).inverse  # it exists, since a has no negative real part
    return torch.cat([inverse @ (eye - a), -2 * v @ inverse], dim=-2)
