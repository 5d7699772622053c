"""Layer normalization (Ba et al., 2016) as convolutional GANs use it."""

from dataclasses import dataclass
from typing import Annotated

from torch import nn

from models.activation_norms.base import ACTIVATION_NORMS, ActivationNorm, ClassConditional
from models.activation_norms.group import GroupNorm
from models.ranges import AT_LEAST_0


@ACTIVATION_NORMS.register("layer")
@dataclass(frozen=True, kw_only=True)
class LayerNormConfig(ActivationNorm):
    """Normalizes each image of (B, C, H, W) over C, H and W together, scale and shift per channel.

    This is the layer norm of the critics of WGAN-GP (Gulrajani et al., NeurIPS 2017, section 4) and of SNGAN's
    comparison, a group norm of one group; the `nn.LayerNorm` of transformers normalizes over C alone. Scale and shift
    belong to class and channel when conditional.
    """

    eps: Annotated[float, AT_LEAST_0] = 1e-5
    """Added to the variance"""

    def build(self, channels: int, num_classes: int | None = None) -> nn.Module:
        """Return the layer norm of `channels` channels."""
        norm = GroupNorm(1, channels, eps=self.eps, affine=num_classes is None)
        return norm if num_classes is None else ClassConditional(norm, channels, num_classes)
