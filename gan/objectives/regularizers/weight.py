"""Penalties on the weights of a network's layers, for orthogonality or for small singular values.

They apply to `layer.weight` of all convolutions, transposed convolutions and linear layers. For a reparametrized layer
this is the normalized weight. For a layer in a wrapper such as ConvNorm, which normalizes the output, it is the
original kernel.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.objectives.regularizers.base import REGULARIZERS, Batch, Regularizer
from gan.options.schedules import Scheduled
from models.kernels import switch
from models.normalizations.weight_matrices import Layout
from models.ranges import AT_LEAST_0, REPEATS

Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


@dataclass(frozen=True, kw_only=True)
class WeightPenalty(Regularizer):
    """Base class of penalties that depend on the weights only, and therefore apply to any network.

    A penalty on G is part of each of its updates; `every` is about D only.
    """

    networks: tuple[Literal["generator", "discriminator"], ...] = ("discriminator",)
    """Networks whose weights are penalized, each in its own loss"""

    def __post_init__(self):
        """Raise ValueError if no network is penalized."""
        if not self.networks:
            raise ValueError("networks: name at least one of generator and discriminator, or set weight: 0")

    def penalty(self, D: nn.Module, batch: Batch, random: torch.Generator) -> Tensor:
        """Return the penalty on the weights of D, which is 0 if D is not one of the networks."""
        return self.weight_penalty(D, random) if "discriminator" in self.networks else batch.x_real.new_zeros(())

    def generator_penalty(
        self, G: nn.Module, z: Tensor, y: Tensor | None, x_fake: Tensor, random: torch.Generator
    ) -> Tensor | None:
        """Return the penalty on the weights of G, or None if G is not one of the networks."""
        if "generator" not in self.networks:
            return None
        with switch.without_autocast(z.device):  # in fp16, products of large weights are infinite
            return self.weight_penalty(G, random)

    @abstractmethod
    def weight_penalty(self, network: nn.Module, random: torch.Generator) -> Tensor:
        """Return the unweighted penalty, a scalar that is differentiable with respect to the network's parameters."""


@REGULARIZERS.register("orthogonal")
@dataclass(frozen=True, kw_only=True)
class Orthogonal(WeightPenalty):
    """Σ ||W Wᵀ ⊙ (1 - I)||²_F over the weight matrices (Brock et al., ICLR 2019).

    The norms of the rows are not constrained. The paper penalizes the generator (`networks`). The authors' PyTorch code
    (github.com/ajbrock/BigGAN-PyTorch) adds the gradient of half of this penalty, so that its strength s is the weight
    s / 2 here. It takes the weights before spectral norm, and those of embeddings other than the shared one of G.
    """

    weight: Annotated[Scheduled, AT_LEAST_0] = 1e-4
    """Factor of the penalty in the loss"""

    def weight_penalty(self, network: nn.Module, random: torch.Generator) -> Tensor:
        """Return the sum of squared inner products of different rows."""
        grams = (matrix @ matrix.T for matrix in _list_matrices(network))
        return _sum(gram.square().sum() - gram.diagonal().square().sum() for gram in grams)


@REGULARIZERS.register("ocnn")
@dataclass(frozen=True, kw_only=True)
class OrthogonalConvolution(WeightPenalty):
    """Σ ||Conv(W, W) - I₀||²_F: orthogonality of the strided convolution itself (OCNN: Wang et al., CVPR 2020).

    Conv(W, W) is the correlation of the kernel with itself at all multiples of the stride, and I₀ is the identity at
    shift 0. A linear layer has only the shift 0.

    The authors' code (`deconv_orth_dist` and `orth_dist` of
    github.com/samaonline/Orthogonal-Convolutional-Neural-Networks) computes something else, which `form: code` selects:

    - the norm of each layer, not its square, so that weights of the two forms are not comparable
    - padding 1 for every kernel and stride. For k = 3 and stride 1 this leaves out the shifts of 2. For k = 3 and
      stride 2 there is no shift 0, and I₀ is at the shift of 1 along both axes, so that a delta kernel is penalized
    - for linear layers, and for kernels that do not overlap themselves, the smaller of both Gram matrices

    Their scripts apply the penalty to some layers of a ResNet; here it applies to all layers.
    """

    weight: Annotated[Scheduled, AT_LEAST_0] = 0.01
    """Factor of the penalty in the loss"""
    form: Literal["paper", "code"] = "paper"
    """`paper`: the squared norm over all shifts; `code`: as in the authors' code, the norm at padding 1"""

    def weight_penalty(self, network: nn.Module, random: torch.Generator) -> Tensor:
        """Return the sum over all layers."""
        return _sum(self._layer_penalty(layer) for layer in _list_layers(network))

    def _layer_penalty(self, layer: Layer) -> Tensor:
        if isinstance(layer, nn.Linear):
            kernel, stride, groups = layer.weight[:, :, None, None], (1, 1), 1
        else:
            kernel, stride, groups = layer.weight, layer.stride, layer.groups
        penalty = kernel.new_zeros(())
        for part in kernel.chunk(groups):
            if self.form == "paper":
                # Shifts are multiples of the stride. Dilation needs no special case: it scales all offsets.
                padding = [(k - 1) // s * s for k, s in zip(kernel.shape[2:], stride, strict=True)]
                penalty = penalty + _self_correlation_error(part, stride, padding).square().sum()
            elif all(k <= s for k, s in zip(kernel.shape[2:], stride, strict=True)):
                penalty = penalty + _isometry_error(part.flatten(1)).norm()
            else:
                penalty = penalty + _self_correlation_error(part, stride, [1, 1]).norm()
        return penalty


@REGULARIZERS.register("srip")
@dataclass(frozen=True, kw_only=True)
class SRIP(WeightPenalty):
    """Σ σ(W Wᵀ - I)²: spectral restricted isometry (Bansal et al., NeurIPS 2018), by power iteration.

    W has one row per output channel. If there are more rows than columns, Wᵀ W takes the place of W Wᵀ, since only the
    smaller of both can be the identity. This is the authors' code for Wide ResNets
    (github.com/VITA-Group/Orthogonality-in-CNNs), up to the distribution of the first vector, which is uniform there.
    Their code for ImageNet and SVHN always uses Wᵀ W, where the penalty of a matrix with more columns than rows is at
    least 1, even if its rows are orthonormal. As in both, the gradient passes through the power iteration.
    """

    weight: Annotated[Scheduled, AT_LEAST_0] = 1e-2
    """Factor of the penalty in the loss"""
    iterations: Annotated[int, REPEATS] = 2
    """Number of products with the matrix; each step starts from a new random vector, as in the paper"""

    def weight_penalty(self, network: nn.Module, random: torch.Generator) -> Tensor:
        """Return the sum over all layers."""
        return _sum(self._matrix_penalty(matrix, random) for matrix in _list_matrices(network))

    def _matrix_penalty(self, matrix: Tensor, random: torch.Generator) -> Tensor:
        deviation = _isometry_error(matrix)
        v = torch.randn(len(deviation), generator=random, device=matrix.device, dtype=matrix.dtype)
        for _ in range(self.iterations):
            v = deviation @ F.normalize(v, dim=0)
        return v.square().sum()


@REGULARIZERS.register("spectral_reg")
@dataclass(frozen=True, kw_only=True)
class SpectralRegularization(WeightPenalty):
    """½ Σ σ(W)² over the weight matrices (Yoshida & Miyato 2017), by power iteration."""

    weight: Annotated[Scheduled, AT_LEAST_0] = 1e-2
    """Factor of the penalty in the loss"""
    iterations: Annotated[int, REPEATS] = 10
    """Number of power iterations; each step starts from a new random vector"""

    def weight_penalty(self, network: nn.Module, random: torch.Generator) -> Tensor:
        """Return half of the sum of the squared norms."""
        norms = (_largest_singular_value(matrix, self.iterations, random) for matrix in _list_matrices(network))
        return 0.5 * _sum(norm.square() for norm in norms)


def _list_layers(network: nn.Module) -> Iterator[Layer]:
    return (m for m in network.modules() if isinstance(m, Layer))


def _list_matrices(network: nn.Module) -> Iterator[Tensor]:
    """Yield the weight matrices of all layers, one for each group of a grouped layer. A row is an output channel."""
    for layer in _list_layers(network):
        yield from Layout.from_layer(layer).rows(layer.weight)


def _sum(terms: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def _self_correlation_error(kernel: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Return the inner products of the kernel (O, I, kh, kw) with its shifts, minus the identity at the central one."""
    products = F.conv2d(kernel, kernel, stride=tuple(stride), padding=tuple(padding))  # (O, O, shifts, shifts)
    target = torch.zeros_like(products)
    target[:, :, products.shape[2] // 2, products.shape[3] // 2] = torch.eye(len(kernel), device=kernel.device)
    return products - target


def _isometry_error(matrix: Tensor) -> Tensor:
    """Return the smaller Gram matrix minus the identity."""
    matrix = matrix.T if len(matrix) > matrix.shape[1] else matrix
    return matrix @ matrix.T - torch.eye(len(matrix), device=matrix.device, dtype=matrix.dtype)


def _largest_singular_value(matrix: Tensor, iterations: int, random: torch.Generator) -> Tensor:
    """Return uᵀ A v with u and v from a power iteration. The gradient treats u and v as constants."""
    v = torch.randn(matrix.shape[1], generator=random, device=matrix.device, dtype=matrix.dtype)
    with torch.no_grad():
        for _ in range(iterations):
            u = F.normalize(matrix @ v, dim=0)
            v = F.normalize(matrix.T @ u, dim=0)
    return u @ (matrix @ v)
