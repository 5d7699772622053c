"""Group normalization (Wu & He, ECCV 2018)."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from models.activation_norms.base import ACTIVATION_NORMS, ActivationNorm, ClassConditional
from models.ranges import AT_LEAST_0, AT_LEAST_1


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` that accepts and ignores labels."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Normalize each group of channels of each image in x (B, C, H, W), in both training and eval mode."""
        return super().forward(x)


@ACTIVATION_NORMS.register("group")
@dataclass(frozen=True, kw_only=True)
class GroupNormConfig(ActivationNorm):
    """Group normalization with a learned scale and shift per channel.

    The number of groups is the largest divisor of the number of channels that is at most `groups`. With `groups: 32`
    there are 32 groups for 64 channels, 24 for 48 and 16 for 16. A layer with at most `groups` channels is thus
    normalized as by instance norm.
    """

    groups: Annotated[int, AT_LEAST_1] = 32
    """Maximum number of groups; a layer uses the largest divisor of its channels up to this number"""
    eps: Annotated[float, AT_LEAST_0] = 1e-5
    """Added to the variance"""

    def build(self, channels: int, num_classes: int | None = None) -> nn.Module:
        """Return a group norm for `channels` channels, class-conditional with `num_classes`."""
        groups = max(g for g in range(1, min(self.groups, channels) + 1) if channels % g == 0)
        norm = GroupNorm(groups, channels, eps=self.eps, affine=num_classes is None)
        return norm if num_classes is None else ClassConditional(norm, channels, num_classes)
