"""Gradient normalization of a whole discriminator (GN-GAN, Wu et al., ICCV 2021, arXiv 2109.02235)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from models.calls import get_logits
from models.kernels.eager import eager
from models.normalizations.base import NORMALIZATIONS, Normalization, Wrapper
from models.normalizations.obstacles import find_normalization


@NORMALIZATIONS.register("gradient")
@dataclass(frozen=True, kw_only=True)
class GradientNorm(Normalization):
    """f(x) / (||∇ₓ f(x)|| + |f(x)|), with f the whole discriminator.

    The logits are in (-1, 1). Where f is linear in a neighborhood of x (almost everywhere for ReLU networks), the
    gradient of the result has the norm (||∇f|| / (||∇f|| + |f|))² <= 1. This does not give a Lipschitz constant, since
    ||∇f|| and hence the result are discontinuous between linear pieces; and it does not hold for a smooth f. The layers
    are not normalized, so the product of their norms is unrelated to the normalized network. This is the function
    `normalize_gradient` of the authors' code (github.com/basiclab/GNGAN-PyTorch).

    Each pass costs a forward and a backward pass of f, in evaluation too, and each training step a double backward
    pass. It runs in eager mode under torch.compile. Training and evaluation compute the same function. The gradient is
    that of the sum of all logits, which is correct if f processes each image separately, that is without batch norm.
    """

    @property
    def types(self) -> tuple[type[nn.Module], ...]:
        """Any module: the network as a whole."""
        return (nn.Module,)

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Return `layer` itself, since the network is normalized as a whole."""
        return layer

    def apply(
        self, network: nn.Module, types: tuple[type[nn.Module], ...] | None = None, exclude: Sequence[str] = ()
    ) -> nn.Module:
        """Wrap the discriminator `network`.

        Raises ValueError for types and patterns of layers, which do not apply, and for a network that is normalized.
        """
        if types is not None or self.include != ("*",) or self.exclude or exclude:
            raise ValueError("gradient normalizes the network as a whole: remove include, exclude and types")
        for path, module in network.named_modules():
            if reason := find_normalization(module):
                raise ValueError(f"gradient cannot normalize {path or 'the network'}: {reason}")
        return GradientNormalized(network)


class GradientNormalized(Wrapper):
    """A discriminator whose logits (B,) are divided by their gradient norms plus their magnitudes."""

    is_layer = False

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    @property
    def wrapped(self) -> nn.Module:
        """The discriminator."""
        return self.network

    @eager  # compiled graphs do not support double backward
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return normalized logits (B,). Raises ValueError if the network does not return (B,) or (B, 1)."""
        if isinstance(x, fx.Proxy):
            return self.trace(x, y)  # pyright: ignore[reportReturnType]
        if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            raise RuntimeError("gradient normalization computes a gradient, which torch.jit.trace cannot record")
        differentiable = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x
            y = y.clone() if y is not None and y.is_inference() else y
            if not (differentiable and x.requires_grad):
                x = x.detach().requires_grad_(True)
            logits = get_logits(self.network, x, y)
            (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=differentiable)
            size = gradient.flatten(1).to(logits.dtype).norm(dim=1) + logits.abs()
            normalized = logits / torch.where(size > 0, size, 1.0)
        return normalized if differentiable else normalized.detach()

    def lipschitz_bound(self, input_shape: Sequence[int]) -> float:
        """Return infinity, since the normalized network is discontinuous."""
        return math.inf
