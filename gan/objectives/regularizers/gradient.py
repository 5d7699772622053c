"""Penalties on the gradient of D with respect to its input."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from gan.objectives.regularizers.base import REGULARIZERS, Batch, Regularizer
from gan.options.schedules import Scheduled
from gan.runtime.distributed import draw_shard, std
from models.calls import get_logits
from models.ranges import AT_LEAST_0


@REGULARIZERS.register("r1")
@dataclass(frozen=True, kw_only=True)
class R1(Regularizer):
    """½ E[||∇ₓ D(x)||²] on real images (Mescheder et al., ICML 2018); `weight` is the paper's γ.

    With augmentation, the gradient is with respect to the image before it, as in R3GAN and StyleGAN2-ADA. The γ of
    their code is `weight`; the `reg_param` of the paper's code (github.com/LMescheder/GAN_stability) is half of it.
    """

    def penalty(self, D: nn.Module, batch: Batch, random: torch.Generator) -> Tensor:
        """Return half of the mean squared gradient norm at the real images."""
        return 0.5 * gradient_norms(D, batch.x_real, batch.y_real, batch.raw_real).square().mean()


@REGULARIZERS.register("r2")
@dataclass(frozen=True, kw_only=True)
class R2(Regularizer):
    """½ E[||∇ₓ D(G(z))||²] on generated images (Mescheder et al., ICML 2018), with the conventions of `r1`.

    R3GAN uses `r1` and `r2` with the same weight γ.
    """

    def penalty(self, D: nn.Module, batch: Batch, random: torch.Generator) -> Tensor:
        """Return half of the mean squared gradient norm at the fake images."""
        return 0.5 * gradient_norms(D, batch.x_fake, batch.y_fake, batch.raw_fake).square().mean()


@REGULARIZERS.register("gradient_penalty")
@dataclass(frozen=True, kw_only=True)
class GradientPenalty(Regularizer):
    """E[(||∇ₓ D(x̂)|| - 1)²] between real and fake images (WGAN-GP: Gulrajani et al., NeurIPS 2017).

    A conditional D receives the labels of the real images, as in the authors' code. With augmentation, the penalty is
    that of D at points between augmented images: it constrains D where D compares the two distributions.
    """

    weight: Annotated[Scheduled, AT_LEAST_0] = 10.0
    """Factor of the penalty in D's loss"""

    def penalty(self, D: nn.Module, batch: Batch, random: torch.Generator) -> Tensor:
        """Return the mean of (gradient norm - 1)² at random points between real and fake images."""
        mixed = torch.lerp(batch.x_real, batch.x_fake, _uniform(batch.x_real, random))
        return (gradient_norms(D, mixed, batch.y_real) - 1).square().mean()


@REGULARIZERS.register("dragan")
@dataclass(frozen=True, kw_only=True)
class DRAGAN(Regularizer):
    """E[(||∇ₓ D(x + α δ)|| - 1)²] around real images (Kodali et al. 2017), as in the authors' code.

    For each pixel, δ is uniform up to half the standard deviation of all pixels of the batch; α in [0, 1] is uniform
    for each image. With augmentation, the images are the augmented ones, as for `gradient_penalty`.
    """

    weight: Annotated[Scheduled, AT_LEAST_0] = 10.0
    """Factor of the penalty in D's loss"""

    def penalty(self, D: nn.Module, batch: Batch, random: torch.Generator) -> Tensor:
        """Return the mean of (gradient norm - 1)² at perturbed real images."""
        x = batch.x_real
        perturbation = _uniform(x, random, *x.shape[1:])
        perturbed = x + _uniform(x, random) * (0.5 * std(x) * perturbation)
        return (gradient_norms(D, perturbed, batch.y_real) - 1).square().mean()


def gradient_norms(D: nn.Module, x: Tensor, y: Tensor | None, raw: Tensor | None = None) -> Tensor:
    """Return ||∇ₓ D(x)|| for each image, (B,), differentiable with respect to the parameters of D.

    D returns one logit per image, (B,) or (B, 1). It is called without labels if y is None. If x was computed from
    images `raw`, the gradient is with respect to these.
    """
    if raw is None:
        raw = x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(get_logits(D, x, y).sum(), raw, create_graph=True)
    return gradient.float().flatten(1).norm(dim=1)


def _uniform(x: Tensor, random: torch.Generator, *shape: int) -> Tensor:
    """Return numbers from U(0, 1) of the given shape, by default (1, 1, 1), for each image of this process's shard."""
    return draw_shard(torch.rand, (len(x), *(shape or (1, 1, 1))), random, dtype=x.dtype)
