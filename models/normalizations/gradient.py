"""Gradient normalization of a whole discriminator (GN-GAN, Wu et al., ICCV 2021, arXiv 2109.02235)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.normalizations.base import LAYER_TYPES, NORMALIZATIONS, Normalization
from models.protocols import GetBound


@NORMALIZATIONS.register("gradient")
@dataclass(frozen=True, kw_only=True)
class GradientNorm(Normalization):
    """f(x) / (||∇ₓ f(x)|| + |f(x)|), with f the whole discriminator (paper, section 3).

    The logits lie in (-1, 1). Where f is linear around x (ReLU networks, almost everywhere) the gradient of the result
    has the norm (||∇f|| / (||∇f|| + |f|))² <= 1. That is no Lipschitz constant: ||∇f|| jumps from one linear piece
    to the next, and the result jumps with it; nor does it hold for a smooth f. Layers are left as they are, so the
    product of their norms says nothing about the normalized network.

    Each pass costs a forward and a backward pass of f, in evaluation too, and each training step a double backward
    pass; it runs in eager mode under torch.compile. Training and evaluation are the same. f is taken for each image
    alone: batch norm in f mixes them, and the sum of all logits is what is differentiated.
    """

    def normalize(self, layer: nn.Module) -> nn.Module:
        """Return `layer` itself: the network is normalized as a whole."""
        return layer

    def apply(
        self, network: nn.Module, types: tuple[type[nn.Module], ...] = LAYER_TYPES, exclude: Sequence[str] = ()
    ) -> nn.Module:
        """Return the discriminator `network` wrapped; ValueError for patterns of layers, which have no meaning here."""
        if self.include != ("*",) or self.exclude or exclude:
            raise ValueError("gradient normalizes the network as a whole: include and exclude do not apply")
        return GradientNormalized(network)


class GradientNormalized(nn.Module):
    """A discriminator x (B, ...), y (B,) or None -> logits (B,), divided by its gradient norm plus its magnitude."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    @torch.compiler.disable  # compiled graphs have no double backward
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return normalized logits (B,); ValueError when the network gives anything but one logit an input."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            if not (differentiable and x.requires_grad):
                x = x.detach().requires_grad_(True)
            logits = self.network(x) if y is None else self.network(x, y)
            if logits.shape != x.shape[:1]:
                raise ValueError(
                    f"gradient normalization is for discriminators with one logit an input, not for {logits.shape}"
                )
            (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=differentiable)
            size = gradient.flatten(1).to(logits.dtype).norm(dim=1) + logits.abs()
            normalized = logits / torch.where(size > 0, size, 1.0)
        return normalized if differentiable else normalized.detach()

    def lipschitz_bound(self, input_shape: Sequence[int] | None, get_bound: GetBound) -> float:
        """Return infinity: the gradient jumps where f has a kink, and the result with it."""
        return math.inf
