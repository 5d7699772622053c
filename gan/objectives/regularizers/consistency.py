"""Consistency regularization of D under augmentations, and of both networks under noise in the latents.

Both are from "Improved Consistency Regularization for GANs" (Zhao et al., AAAI 2021), whose authors have published no
code. They were compared with POSTECH-CVLab/PyTorch-StudioGAN, commit 947b35e (src/worker.py, src/utils/sample.py and
src/utils/cr.py). Squared norms are means over the batch, and over the pixels of images, as there. The paper's ICR is
both penalties together.
"""

from dataclasses import dataclass
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.objectives.augment import AugmentationName, augment
from gan.objectives.regularizers.base import REGULARIZERS, Batch, Regularizer
from gan.runtime.distributed import draw_shard
from models.calls import call_network, get_logits
from models.ranges import AT_LEAST_0


@REGULARIZERS.register("bcr")
@dataclass(frozen=True, kw_only=True)
class BalancedConsistency(Regularizer):
    """λ_real E[(D(x) - D(T(x)))²] + λ_fake E[(D(G(z)) - D(T(G(z))))²] (bCR: Zhao et al., AAAI 2021).

    T is a random augmentation, by default a flip and a shift, as in the paper. The shift is that of `train.augment`, by
    up to 1/8 of the side, with zeros at the border, where StudioGAN reflects the image. With `train.augment`, T(x) is
    computed from the image before it, as in StudioGAN.
    """

    lambda_real: Annotated[float, AT_LEAST_0] = 10.0
    """Factor of the penalty at real images"""
    lambda_fake: Annotated[float, AT_LEAST_0] = 10.0
    """Factor of the penalty at generated images"""
    augment: tuple[AugmentationName, ...] = ("flip", "translation")
    """The augmentation T: names as in train.augment"""

    def penalty(self, D: nn.Module, batch: Batch, random: torch.Generator) -> Tensor:
        """Return the weighted sum of both mean squared differences of logits."""
        total = batch.x_real.new_zeros(())
        for factor, raw, x, y, logits in (
            (self.lambda_real, batch.raw_real, batch.x_real, batch.y_real, batch.logits_real),
            (self.lambda_fake, batch.raw_fake, batch.x_fake, batch.y_fake, batch.logits_fake),
        ):
            augmented = augment((x if raw is None else raw).detach(), self.augment, random)
            total = total + factor * F.mse_loss(get_logits(D, augmented, y).float(), cast(Tensor, logits))
        return total


@REGULARIZERS.register("zcr")
@dataclass(frozen=True, kw_only=True)
class LatentConsistency(Regularizer):
    """λ_dis E[(D(G(z)) - D(G(z + ε)))²] for D, and -λ_gen E[(G(z) - G(z + ε))²] for G (zCR: Zhao et al., AAAI 2021).

    The noise ε ~ N(0, σ²) is added to each coordinate of the latents. D should not see a difference, and G should make
    one. The defaults are those of the paper; StudioGAN's config of ICR has σ = 0.05 and λ_dis = 20. With
    `train.augment`, G(z) is augmented and G(z + ε) is not, as in StudioGAN. `every` is about D only.
    """

    sigma: Annotated[float, AT_LEAST_0] = 0.03
    """Standard deviation σ of the noise"""
    lambda_gen: Annotated[float, AT_LEAST_0] = 0.5
    """Factor of the penalty on G, which is negative"""
    lambda_dis: Annotated[float, AT_LEAST_0] = 5.0
    """Factor of the penalty on D"""

    def penalty(self, D: nn.Module, batch: Batch, random: torch.Generator) -> Tensor:
        """Return the weighted mean squared difference of the logits of G(z) and G(z + ε)."""
        G, z, logits = cast(nn.Module, batch.G), cast(Tensor, batch.z), cast(Tensor, batch.logits_fake)
        with torch.no_grad():
            x = call_network(G, self._add_noise(z, random), batch.y_fake).to(batch.x_fake.dtype)
        return self.lambda_dis * F.mse_loss(get_logits(D, x, batch.y_fake).float(), logits)

    def generator_penalty(
        self, G: nn.Module, z: Tensor, y: Tensor | None, x_fake: Tensor, random: torch.Generator
    ) -> Tensor:
        """Return the negative weighted mean squared difference of the pixels of G(z) and G(z + ε)."""
        return -self.lambda_gen * F.mse_loss(call_network(G, self._add_noise(z, random), y).float(), x_fake)

    def _add_noise(self, z: Tensor, random: torch.Generator) -> Tensor:
        return z + self.sigma * draw_shard(torch.randn, z.shape, random, dtype=z.dtype)
