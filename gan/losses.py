"""Adversarial losses: small callables of logits (B,), one for each player."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from models.registry import Registry

LOSSES: Registry["Loss"] = Registry("loss")


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """Base of all losses. Logits are unbounded, high for real; both methods return a scalar to be minimized."""

    registry: ClassVar[Registry["Loss"]] = LOSSES

    @abstractmethod
    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """Return D's loss on logits (B,) of real and fake images."""

    @abstractmethod
    def generator(self, logits_fake: Tensor) -> Tensor:
        """Return G's loss on the logits (B,) of its images."""


@LOSSES.register("hinge")
@dataclass(frozen=True, kw_only=True)
class Hinge(Loss):
    """Hinge loss (Lim & Ye 2017; Miyato et al. 2018, eq. 16-17)."""

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]."""
        return F.relu(1 - logits_real).mean() + F.relu(1 + logits_fake).mean()

    def generator(self, logits_fake: Tensor) -> Tensor:
        """-E[D(G(z))]."""
        return -logits_fake.mean()


@LOSSES.register("nonsaturating")
@dataclass(frozen=True, kw_only=True)
class NonSaturating(Loss):
    """The original GAN's cross-entropy with the non-saturating generator loss (Goodfellow et al. 2014, section 3)."""

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """-E[log σ(D(x))] - E[log(1 - σ(D(G(z))))]."""
        return F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean()

    def generator(self, logits_fake: Tensor) -> Tensor:
        """-E[log σ(D(G(z)))]."""
        return F.softplus(-logits_fake).mean()
