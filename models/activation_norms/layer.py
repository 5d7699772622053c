"""Layer normalization (Ba et al., 2016) for feature maps, as used in convolutional GANs."""

from dataclasses import dataclass
from typing import Annotated

from torch import nn

from models.activation_norms.base import ACTIVATION_NORMS, ActivationNorm, ClassConditional
from models.activation_norms.group import GroupNorm
from models.ranges import AT_LEAST_0


@ACTIVATION_NORMS.register("layer")
@dataclass(frozen=True, kw_only=True)
class LayerNormConfig(ActivationNorm):
    """Layer normalization over C, H and W of each image (B, C, H, W), with a learned scale and shift per channel.

    This is the layer norm in the critics of WGAN-GP (Gulrajani et al., NeurIPS 2017), which SNGAN also
    compares with. It equals a group norm with one group. The layer norm in transformers normalizes over C only.
    """

    eps: Annotated[float, AT_LEAST_0] = 1e-5
    """Added to the variance"""

    def build(self, channels: int, num_classes: int | None = None) -> nn.Module:
        """Return a layer norm for `channels` channels, class-conditional with `num_classes`."""
        norm = GroupNorm(1, channels, eps=self.eps, affine=num_classes is None)
        return norm if num_classes is None else ClassConditional(norm, channels, num_classes)
