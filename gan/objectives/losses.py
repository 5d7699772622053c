"""Adversarial losses of the discriminator and the generator, computed from logits (B,)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, cast

import torch.nn.functional as F
from torch import Tensor

from models.registry import Registry

LOSSES: Registry["Loss"] = Registry("loss")


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """Base class of all losses. A high logit means real. Both methods return a scalar to be minimized."""

    registry: ClassVar[Registry["Loss"]] = LOSSES
    generator_sees_real: ClassVar[bool] = False
    """Whether real and fake images are compared: G's loss needs real logits, and fakes have the labels of real ones"""

    @abstractmethod
    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """Return the loss of D for the logits (B,) of real and fake images."""

    @abstractmethod
    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """Return the loss of G for the logits (B,) of its images.

        `logits_real` (B,) is given if `generator_sees_real` is True.
        """


@LOSSES.register("hinge")
@dataclass(frozen=True, kw_only=True)
class Hinge(Loss):
    """Hinge loss (Lim & Ye 2017; Miyato et al., ICLR 2018)."""

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]."""
        return F.relu(1 - logits_real).mean() + F.relu(1 + logits_fake).mean()

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """-E[D(G(z))]."""
        return -logits_fake.mean()


@LOSSES.register("nonsaturating")
@dataclass(frozen=True, kw_only=True)
class NonSaturating(Loss):
    """Cross-entropy loss of the original GAN, non-saturating for the generator (Goodfellow et al., NeurIPS 2014)."""

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """-E[log σ(D(x))] - E[log(1 - σ(D(G(z))))]."""
        return F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean()

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """-E[log σ(D(G(z)))]."""
        return F.softplus(-logits_fake).mean()


@LOSSES.register("minimax")
@dataclass(frozen=True, kw_only=True)
class Minimax(Loss):
    """The minimax game of the original GAN (Goodfellow et al., NeurIPS 2014): both networks have the same value.

    It is saturating: the generator's gradient vanishes where D is sure that its images are fake.
    """

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """-E[log σ(D(x))] - E[log(1 - σ(D(G(z))))]."""
        return F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean()

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """E[log(1 - σ(D(G(z))))]."""
        return -F.softplus(logits_fake).mean()


@LOSSES.register("wasserstein")
@dataclass(frozen=True, kw_only=True)
class Wasserstein(Loss):
    """Wasserstein loss (Arjovsky et al., ICML 2017).

    It requires a normalization or a penalty that limits the Lipschitz constant of D.
    """

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """E[D(G(z))] - E[D(x)]."""
        return logits_fake.mean() - logits_real.mean()

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """-E[D(G(z))]."""
        return -logits_fake.mean()


@LOSSES.register("least_squares")
@dataclass(frozen=True, kw_only=True)
class LeastSquares(Loss):
    """Least-squares loss with targets 0 (fake) and 1 (real) (Mao et al., ICCV 2017)."""

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """½ E[(D(x) - 1)²] + ½ E[D(G(z))²]."""
        return 0.5 * ((logits_real - 1).square().mean() + logits_fake.square().mean())

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """½ E[(D(G(z)) - 1)²]."""
        return 0.5 * (logits_fake - 1).square().mean()


@LOSSES.register("relativistic")
@dataclass(frozen=True, kw_only=True)
class Relativistic(Loss):
    """Relativistic pairing loss (Jolicoeur-Martineau 2019; R3GAN: Huang et al., NeurIPS 2024).

    As in R3GAN's code, both images of a pair have the same label, that of the real image.
    """

    generator_sees_real: ClassVar[bool] = True

    def discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """E[softplus(-(D(x) - D(G(z))))]."""
        return F.softplus(_difference(logits_fake, logits_real)).mean()

    def generator(self, logits_fake: Tensor, logits_real: Tensor | None = None) -> Tensor:
        """E[softplus(-(D(G(z)) - D(x)))]; the numbers of real and fake logits must be equal."""
        # The logits of real images are given, because of `generator_sees_real`.
        return F.softplus(_difference(cast(Tensor, logits_real), logits_fake)).mean()


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """Return a - b for pairs of logits. Raises ValueError for other shapes, which subtraction would broadcast."""
    if a.shape != b.shape:
        raise ValueError(f"logits of shapes {tuple(a.shape)} and {tuple(b.shape)} are no pairs of real and fake images")
    return a - b
