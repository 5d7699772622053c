"""No activation norm."""

from dataclasses import dataclass

from torch import Tensor, nn

from models.activation_norms.base import ACTIVATION_NORMS, ActivationNorm


class Identity(nn.Module):
    """Returns x and ignores y."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to itself."""
        return x


@ACTIVATION_NORMS.register("none")
@dataclass(frozen=True, kw_only=True)
class NoActivationNorm(ActivationNorm):
    """Leaves activations as they are."""

    def build(self, channels: int, num_classes: int | None = None) -> nn.Module:
        """Return the identity."""
        return Identity()
