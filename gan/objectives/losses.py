"""Adversarial losses: small callables of logits (B,), one for each player."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, cast

import torch.nn.functional as F
from torch import Tensor

from models.registry import Registry

LOSSES: Registry["Loss"] = Registry("loss")


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """Base of all losses. Logits are unbounded, high for real; both methods return a scalar to be minimized."""

    registry: ClassVar[Registry["Loss"]] = LOSSES
    generator_sees_real: ClassVar[bool] = False  # whether G's loss compares with logits of real images

    @abstractmethod
    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """Return D's loss on logits (B,) of real and fake images."""

    @abstractmethod
    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """Return G's loss on the logits (B,) of its images; `logits_real` (B,) come if `generator_sees_real`."""


@LOSSES.register("hinge")
@dataclass(frozen=True, kw_only=True)
class Hinge(Loss):
    """Hinge loss (Lim & Ye 2017; Miyato et al. 2018, eq. 16-17)."""

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]."""
        return F.relu(1 - logits_real).mean() + F.relu(1 + logits_fake).mean()

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """-E[D(G(z))]."""
        return -logits_fake.mean()


@LOSSES.register("nonsaturating")
@dataclass(frozen=True, kw_only=True)
class NonSaturating(Loss):
    """The original GAN's cross-entropy with the non-saturating generator loss (Goodfellow et al. 2014, section 3)."""

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """-E[log σ(D(x))] - E[log(1 - σ(D(G(z))))]."""
        return F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean()

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """-E[log σ(D(G(z)))]."""
        return F.softplus(-logits_fake).mean()


@LOSSES.register("wasserstein")
@dataclass(frozen=True, kw_only=True)
class Wasserstein(Loss):
    """Wasserstein loss (Arjovsky et al., ICML 2017, eq. 2); D must be kept Lipschitz by a norm or a penalty."""

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """E[D(G(z))] - E[D(x)]."""
        return logits_fake.mean() - logits_real.mean()

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """-E[D(G(z))]."""
        return -logits_fake.mean()


@LOSSES.register("least_squares")
@dataclass(frozen=True, kw_only=True)
class LeastSquares(Loss):
    """Least-squares loss with targets 0 (fake) and 1 (real) (Mao et al., ICCV 2017, eq. 9)."""

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """½ E[(D(x) - 1)²] + ½ E[D(G(z))²]."""
        return 0.5 * ((logits_real - 1).square().mean() + logits_fake.square().mean())

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """½ E[(D(G(z)) - 1)²]."""
        return 0.5 * (logits_fake - 1).square().mean()


@LOSSES.register("relativistic")
@dataclass(frozen=True, kw_only=True)
class Relativistic(Loss):
    """Relativistic pairing loss (Jolicoeur-Martineau 2019; R3GAN: Huang et al., NeurIPS 2024, eq. 2)."""

    generator_sees_real: ClassVar[bool] = True

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """E[softplus(-(D(x) - D(G(z))))]."""
        return F.softplus(logits_fake - logits_real).mean()

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """E[softplus(-(D(G(z)) - D(x)))], with as many real logits as fake ones."""
        return F.softplus(cast(Tensor, logits_real) - logits_fake).mean()  # given: `generator_sees_real`
