"""No activation norm."""

from dataclasses import dataclass

from torch import Tensor, nn

from models.activation_norms.base import ACTIVATION_NORMS, ActivationNorm, ClassConditional


class Identity(nn.Module):
    """Identity that accepts and ignores labels."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return x."""
        return x


@ACTIVATION_NORMS.register("none")
@dataclass(frozen=True, kw_only=True)
class NoActivationNorm(ActivationNorm):
    """No normalization of the activations.

    The class-conditional form only scales and shifts per class and channel (FiLM, Perez et al., AAAI 2018).
    """

    def build(self, channels: int, num_classes: int | None = None) -> nn.Module:
        """Return the identity, or the class-conditional scale and shift with `num_classes`."""
        return Identity() if num_classes is None else ClassConditional(Identity(), channels, num_classes)
