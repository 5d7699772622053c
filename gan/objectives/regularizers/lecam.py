"""LeCam regularization: the logits of D are kept near their moving averages."""

from dataclasses import dataclass
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.objectives.regularizers.base import REGULARIZERS, Batch, Regularizer
from gan.options.schedules import Scheduled
from gan.runtime.distributed import all_reduce_mean
from models.ranges import AT_LEAST_0, INT64, Range


@REGULARIZERS.register("lecam")
@dataclass(frozen=True, kw_only=True)
class LeCam(Regularizer):
    """E[max(0, D(x) - a_F)²] + E[max(0, a_R - D(G(z)))²] (LeCam: Tseng et al., CVPR 2021).

    a_R and a_F are moving averages of the mean logits of real and of generated images. Those of the current update are
    included, as in the authors' code (github.com/google/lecam-gan, commit f9af948: `lecam_reg` of
    biggan_cifar/losses.py, `ema_losses` of third_party/utils.py, and third_party/train_fns.py; the tests contain its
    numbers). Their formula is this one; max(0, .) is not in the paper.

    Their code for CIFAR has the weight 0.3, a decay of 0.9, and starts after 1000 updates of G with 4 updates of D
    each. The decay of 0.99 is that of the paper and of their code for StyleGAN2, whose weights are 1e-6 and 3e-7. With
    `every` above 1, only the updates with the penalty count, and change the averages.
    """

    weight: Annotated[Scheduled, AT_LEAST_0] = 0.3
    """Factor of the penalty in D's loss"""
    decay: Annotated[float, Range(min=0, max=0.999999)] = 0.99
    """Decay rate of the moving averages of the mean logits"""
    start: Annotated[int, Range(min=0, max=INT64.max)] = 1000
    """D updates before the first penalty, in which the averages are the mean logits of the last update"""

    def penalty(self, D: nn.Module, batch: Batch, random: torch.Generator) -> Tensor:
        """Return the penalty on the logits of the batch, after an update of the averages; 0 before the start."""
        real, fake = cast(Tensor, batch.logits_real), cast(Tensor, batch.logits_fake)  # given in training
        averages = cast(LogitAverages, batch.state)
        averages.update(real, fake, self.decay, self.start)
        penalty = F.relu(real - averages.fake).square().mean() + F.relu(averages.real - fake).square().mean()
        return penalty * (averages.updates > self.start)

    def build_state(self) -> "LogitAverages":
        """Return the moving averages before the first update."""
        return LogitAverages()


class LogitAverages(nn.Module):
    """Moving averages of the mean logits of real and of generated images, as scalars `real` and `fake`."""

    updates: Tensor
    real: Tensor
    fake: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    @torch.no_grad()
    def update(self, real: Tensor, fake: Tensor, decay: float, start: int) -> None:
        """Include the logits (B,) of an update: this process's shards of them.

        Before update number `start`, and in the first one, they replace the averages.
        """
        means = [real.float().mean(), fake.float().mean()]
        all_reduce_mean(means)
        self.updates += 1
        weight = torch.where(self.updates < max(start, 2), 1.0, 1 - decay)
        for average, mean in zip((self.real, self.fake), means, strict=True):
            average.lerp_(mean, weight)
