"""No activation norm."""

from dataclasses import dataclass

from torch import Tensor, nn

from models.activation_norms.base import ACTIVATION_NORMS, ActivationNorm, ClassConditional


class Identity(nn.Module):
    """Returns x and ignores y."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to itself."""
        return x


@ACTIVATION_NORMS.register("none")
@dataclass(frozen=True, kw_only=True)
class NoActivationNorm(ActivationNorm):
    """Leaves activations as they are.

    Class-conditional: a scale and a shift per class and channel alone (FiLM, Perez et al., AAAI 2018).
    """

    def build(self, channels: int, num_classes: int | None = None) -> nn.Module:
        """Return the identity, or the scale and shift of each class."""
        return Identity() if num_classes is None else ClassConditional(Identity(), channels, num_classes)
