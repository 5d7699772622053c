"""Instance normalization (Ulyanov et al., 2016). The class-conditional form is from Dumoulin et al. (ICLR 2017)."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from models.activation_norms.base import ACTIVATION_NORMS, ActivationNorm, ClassConditional
from models.ranges import AT_LEAST_0


class InstanceNorm(nn.InstanceNorm2d):
    """`nn.InstanceNorm2d` that accepts and ignores labels."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Normalize each channel of each image in x (B, C, H, W), in both training and eval mode."""
        return super().forward(x)


@ACTIVATION_NORMS.register("instance")
@dataclass(frozen=True, kw_only=True)
class InstanceNormConfig(ActivationNorm):
    """Instance normalization with a learned scale and shift per channel."""

    eps: Annotated[float, AT_LEAST_0] = 1e-5
    """Added to the variance"""

    def build(self, channels: int, num_classes: int | None = None) -> nn.Module:
        """Return an instance norm for `channels` channels, class-conditional with `num_classes`."""
        norm = InstanceNorm(channels, eps=self.eps, affine=num_classes is None)
        return norm if num_classes is None else ClassConditional(norm, channels, num_classes)
