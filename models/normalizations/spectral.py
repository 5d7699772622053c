"""Spectral normalization of the reshaped kernel (Miyato et al., ICLR 2018)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize

from models.kernels import switch
from models.normalizations.base import NORMALIZATIONS, Normalization, Parametrization, reparametrize
from models.normalizations.weight_matrices import get_weight
from models.ranges import AT_LEAST_0, REPEATS

INITIAL_ITERATIONS = 15


@NORMALIZATIONS.register("spectral")
@dataclass(frozen=True, kw_only=True)
class SpectralNorm(Normalization):
    """gain W / σ(W_r), with W_r the kernel reshaped to an O x (I prod(k)) matrix (Miyato et al., ICLR 2018).

    σ(W_r) is not the norm of the convolution. The operator norm of the normalized layer lies between gain and
    ceil(k / s) gain for stride s, so the network is not 1-Lipschitz. In training, each access of the weight does
    `n_power_iterations`; in evaluation the singular vectors do not change. A D without batch norm sees real and fake
    images in one pass, so with n_critic = 5 an iteration of training does 6 power iterations, and one more for each
    gradient penalty. The authors' code and torch-mimicry pass them separately and do 11; `n_power_iterations: 2` does
    12.

    With the default gain, the function, its initialization and its state are those of
    `torch.nn.utils.parametrizations.spectral_norm`, except that a weight of zeros is not divided. Under autocast, σ is
    computed in the precision of the weight.

    A constant gain is `factor` of the authors' code (pfnet-research/sngan_projection), and a learned one is its
    `use_gamma`, which starts from σ of the initial weight. `only_lower` is W / max(1, σ / λ) with λ the gain, the
    constraint of Gouk et al. (Machine Learning, 2021). In their code (henrygouk/keras-lipschitz-networks), the stored
    weight itself is replaced after each update, and σ is that of the convolution on its map.
    """

    has_state: ClassVar[bool] = True

    gain: Annotated[float, AT_LEAST_0] = 1.0
    """Norm of the normalized matrix W_r"""
    learn_gain: bool = False
    """Learn the gain of each layer, from `gain` on"""
    only_lower: bool = False
    """Lower norms above the gain, and leave smaller ones as they are: W min(1, gain / σ)"""
    n_power_iterations: Annotated[int, REPEATS] = 1
    """Power iterations per access of the weight in training"""
    eps: Annotated[float, AT_LEAST_0] = 1e-12
    """Lower limit of the norms of the vectors in the power iteration; a weight of a smaller norm is not divided"""

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Reparametrize `layer.weight` and return the layer."""
        return reparametrize(layer, DividedBySpectralNorm(layer, self))

    def apply(
        self, network: nn.Module, types: tuple[type[nn.Module], ...] | None = None, exclude: Sequence[str] = ()
    ) -> nn.Module:
        """Normalize the layers of `network`. On a GPU its forward passes normalize all weights together."""
        normalized = super().apply(network, types, exclude)
        if normalized is network:
            network.register_forward_pre_hook(_normalize_together)
            network.register_forward_hook(_forget_weights, always_call=True)
        return normalized


class DividedBySpectralNorm(Parametrization):
    """Parametrization W -> gain W / σ(W_r), with σ = uᵀ W_r v by power iteration on the buffers `_u` and `_v`."""

    _u: Tensor
    _v: Tensor

    def __init__(self, layer: nn.Module, options: SpectralNorm):
        super().__init__()
        self.options = options
        self.out_dim = 1 if isinstance(layer, _ConvTransposeNd) else 0
        self.normalized: Tensor | None = None
        """The normalized weight for the next access, if it has been computed with those of other layers"""
        self.was_zero = False
        """Whether the weight was zero at first. It is then normalized alone, which leaves v at a weight of zeros"""
        matrix = self._matrix(get_weight(layer).detach())
        self.gain = nn.Parameter(matrix.new_tensor(options.gain)) if options.learn_gain else options.gain
        for name, size in zip(("_u", "_v"), matrix.shape, strict=True):
            vector = matrix.new_empty(size).normal_()
            self.register_buffer(name, F.normalize(vector, dim=0, eps=options.eps))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalized weight."""
        if self.normalized is not None:
            normalized, self.normalized = self.normalized, None
            return normalized
        matrix = self._matrix(weight)
        if self.training:
            self._iterate(matrix, self.options.n_power_iterations)
        # Copies, since a second forward pass may update the buffers before the backward pass of the first.
        u, v = self._u.clone(), self._v.clone()
        sigma = torch.vdot(u, torch.mv(matrix, v))
        sigma = torch.where(sigma.abs() > self.options.eps, sigma, 1.0)
        if self.options.only_lower:
            return weight * (self.gain / sigma).clamp(max=1)
        return self.scale(weight / sigma)

    def scale(self, normalized: Tensor) -> Tensor:
        """Return a weight of norm 1 times the gain."""
        return self.gain * normalized if isinstance(self.gain, Tensor) or self.gain != 1 else normalized

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return `weight`, which is its own normalized weight if its norm is the gain."""
        matrix = self._matrix(weight)
        sigma = torch.vdot(self._u, torch.mv(matrix, self._v))
        if not torch.isclose(
            sigma, torch.ones_like(sigma) * self.gain
        ):  # else the vectors fit: those of `layer.weight`
            self._iterate(matrix, INITIAL_ITERATIONS)
        self.was_zero = not matrix.any().item()
        return weight

    def extra_repr(self) -> str:
        """Show the options."""
        options = self.options
        return f"gain={options.gain:g}, n_power_iterations={options.n_power_iterations}, eps={options.eps:g}"

    def _matrix(self, weight: Tensor) -> Tensor:
        """Return the weight with one row per output channel."""
        return weight.movedim(self.out_dim, 0).flatten(1)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor, iterations: int) -> None:
        for _ in range(iterations):
            self._u.copy_(F.normalize(torch.mv(matrix, self._v), dim=0, eps=self.options.eps))
            v = torch.mv(matrix.mT, self._u)
            # A weight of zeros leaves v, from which the iteration finds the vectors of a later weight.
            self._v.copy_(torch.where(v.any(), F.normalize(v, dim=0, eps=self.options.eps), self._v))


class _Part:
    """A weight and its singular vectors, with the axes of the weight in the order of a stack of matrices."""

    def __init__(self, layer: nn.Module):
        parametrizations = _get_parametrizations(layer)
        self.parametrization: DividedBySpectralNorm = parametrizations[0]
        weight: Tensor = parametrizations.original
        out_dim = self.parametrization.out_dim
        columns = [dim for dim in range(weight.dim()) if dim != out_dim]
        # The columns in the order in which they are stored, so that no stack reorders a weight in channels last.
        stored = sorted(columns, key=weight.stride, reverse=True)
        self.order = [out_dim, *stored]
        self.weight = weight.permute(self.order)
        self.u = self.parametrization._u
        shape = [weight.shape[dim] for dim in columns]
        self.v = self.parametrization._v.view(shape).permute([columns.index(dim) for dim in stored])

    def keep(self, divided: Tensor, sigma: Tensor) -> None:
        """Keep the normalized weight for the next access, given W / σ in the shape of `self.weight`."""
        inverse = [self.order.index(dim) for dim in range(len(self.order))]
        normalized = self.parametrization.scale(divided)
        if self.parametrization.options.only_lower:
            normalized = torch.where(sigma > self.parametrization.gain, normalized, self.weight)
        self.parametrization.normalized = normalized.permute(inverse)


def _normalize_together(network: nn.Module, inputs: tuple) -> None:
    """Normalize the weights of all layers of `network` before a forward pass in training, in few kernels.

    The results are those of `DividedBySpectralNorm.forward`, rounded differently. Layers of the same shape share each
    product, and all layers share the computation of the norms.
    """
    if not _is_normalized_together(network):
        return
    stacks: dict[tuple, list[_Part]] = defaultdict(list)
    for part in map(_Part, filter(_is_normalized, network.modules())):
        stacks[tuple(part.weight.shape)].append(part)
    parts = [part for stack in stacks.values() for part in stack]
    if not parts:
        return
    options = parts[0].parametrization.options
    with switch.without_autocast(parts[0].weight.device):
        weights = [_stack([part.weight for part in stack]) for stack in stacks.values()]
        with torch.no_grad():
            matrices = [weight.flatten(2) for weight in weights]
            v = [_stack([part.v for part in stack]).flatten(1)[..., None] for stack in stacks.values()]
            sizes = [len(matrix) for matrix in matrices]
            u, sigma = v, v[0].new_empty(0)
            for _ in range(options.n_power_iterations):
                u = [matrix @ vector for matrix, vector in zip(matrices, v, strict=True)]
                v = [matrix.mT @ vector for matrix, vector in zip(matrices, u, strict=True)]
                u_norms, v_norms = _norms([*u, *v], options.eps).chunk(2)
                u = [x / n[:, None, None] for x, n in zip(u, u_norms.split(sizes), strict=True)]
                v = [x / n[:, None, None] for x, n in zip(v, v_norms.split(sizes), strict=True)]
                sigma = v_norms / u_norms  # ||Wᵀ W v|| / ||W v|| = ||Wᵀ u|| = uᵀ W v, with the new u and v
            new = [vector for stack in (*u, *v) for vector in stack.unbind()]
            old = [*(part.u for part in parts), *(part.v for part in parts)]
            torch._foreach_copy_(old, [n.view(o.shape) for n, o in zip(new, old, strict=True)])  # pyright: ignore[reportPrivateImportUsage]
        for stack, *tensors in zip(stacks.values(), weights, u, v, sigma.split(sizes), strict=True):
            divided = _DivideBySigma.apply(*tensors)
            for part, *results in zip(stack, divided.unbind(), tensors[-1].unbind(), strict=True):
                part.keep(*results)


def _forget_weights(network: nn.Module, inputs: tuple, output: object) -> None:
    """Drop the normalized weights of layers that the forward pass did not use."""
    for module in network.modules() if _is_normalized_together(network) else ():
        if isinstance(module, DividedBySpectralNorm):
            module.normalized = None


class _DivideBySigma(torch.autograd.Function):
    """W / σ for a stack of weights (n, O, ...), with σ = uᵀ W v (n,), and u (n, O, 1) and v (n, ..., 1) constant.

    The gradient G of the result gives (G - <G, W> u vᵀ / σ) / σ.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
        ctx.save_for_backward(weight, u, v, sigma)
        return weight / sigma.view(-1, *[1] * (weight.dim() - 1))

    @staticmethod
    def backward(ctx, grad: Tensor):
        weight, u, v, sigma = ctx.saved_tensors
        matrix = weight.flatten(2)
        if torch.is_grad_enabled():  # for second derivatives, σ is a function of the weight
            sigma = (u * (matrix @ v)).sum(dim=(1, 2))
        scaled = grad.flatten(2) / sigma[:, None, None]
        along = scaled.flatten(1)[:, None] @ matrix.flatten(1)[..., None]  # (n, 1, 1)
        return torch.baddbmm(scaled, along / sigma[:, None, None] * u, v.mT, alpha=-1).view_as(grad), None, None, None


def _stack(tensors: list[Tensor]) -> Tensor:
    """Return a stack (n, ...); a single tensor is not copied."""
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0][None]


def _norms(stacks: list[Tensor], eps: float) -> Tensor:
    """Return the norms of all vectors of some stacks (n, r, 1) in one tensor, at least `eps`."""
    vectors = [vector for stack in stacks for vector in stack.unbind()]
    return torch.stack(torch._foreach_norm(vectors)).clamp_min(eps)  # pyright: ignore[reportPrivateImportUsage]


def _is_normalized_together(network: nn.Module) -> bool:
    return network.training and switch.batched_spectral_norm_is_faster(next(network.parameters()))


def _is_normalized(layer: nn.Module) -> bool:
    if not parametrize.is_parametrized(layer, "weight"):
        return False
    first, *others = _get_parametrizations(layer)
    return not others and isinstance(first, DividedBySpectralNorm) and not first.was_zero


def _get_parametrizations(layer: nn.Module) -> Any:
    return cast(nn.ModuleDict, layer.parametrizations)["weight"]
