"""SNDCGAN, the standard CNN of SNGAN (Miyato et al., ICLR 2018), for resolutions that are multiples of 8.

The paper uses it for 32 x 32 and 48 x 48 images. The class-conditional networks follow those of DCGAN.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from torch import Tensor, nn

from models.activation_norms import ActivationNorm
from models.networks.base import DISCRIMINATORS, GENERATORS, DiscriminatorConfig, GeneratorConfig, ImageShape
from models.networks.dcgan import init_normal
from models.networks.layers import ProjectionHead, check_labels
from models.ranges import SIZE


@GENERATORS.register("sndcgan", aliases=["sncnn"])
@dataclass(frozen=True, kw_only=True)
class SNDCGANGeneratorConfig(GeneratorConfig):
    """Linear projection, three 4x4 stride-2 transposed convolutions with ReLU, a 3x3 convolution, final tanh."""

    width: Annotated[int, SIZE] = 64
    """Channels at full resolution; the number doubles with each halving of the resolution"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the generator for `image`."""
        return SNDCGANGenerator(image, self.z_dim, self.width, self.activation_norm)


@DISCRIMINATORS.register("sndcgan", aliases=["sncnn"])
@dataclass(frozen=True, kw_only=True)
class SNDCGANDiscriminatorConfig(DiscriminatorConfig):
    """Three pairs of a 3x3 and a 4x4 stride-2 convolution, a 3x3 convolution, LeakyReLU 0.1, then a linear head."""

    width: Annotated[int, SIZE] = 64
    """Channels of the first convolution; the last one has eight times as many"""
    doubling: Literal["3x3", "4x4"] = "3x3"
    """Convolutions that double the channels: 3x3 as in the paper's table, or 4x4 (stride 2) as in the authors' code"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the discriminator for `image`."""
        return SNDCGANDiscriminator(self, image)


class SNDCGANGenerator(nn.Module):
    """The SNDCGAN generator.

    Maps z (B, z_dim) and, if class-conditional, labels y (B,) to images (B, C, H, W) in [-1, 1].
    As in the authors' code, the projection is also followed by a norm and ReLU, which the paper's table omits.
    """

    def __init__(self, image: ImageShape, z_dim: int, width: int, activation_norm: ActivationNorm):
        super().__init__()
        self.num_classes = image.num_classes
        self.base_size = _get_base_size(image.resolution)
        widths = [8 * width, 4 * width, 2 * width, width]  # from the smallest map to the largest
        self.project = nn.Linear(z_dim, widths[0] * self.base_size**2)
        self.norms = nn.ModuleList(activation_norm.build(channels, image.num_classes) for channels in widths)
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
            for in_channels, out_channels in pairwise(widths)
        )
        self.convs.append(nn.Conv2d(width, image.channels, 3, padding=1))
        self.apply(init_normal)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Generate images (B, C, H, W). Raises ValueError for missing or unexpected labels."""
        check_labels(y, self.num_classes)
        h = self.project(z).unflatten(1, (-1, self.base_size, self.base_size))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(norm(h, y).relu())
        return h.tanh()


class SNDCGANDiscriminator(nn.Module):
    """The SNDCGAN discriminator.

    Maps images (B, C, H, W) and, if class-conditional, labels y (B,) to logits (B,).
    There is no activation norm after the first convolution. As in DCGAN, the projection head operates on the flattened
    last feature map.
    """

    def __init__(self, config: SNDCGANDiscriminatorConfig, image: ImageShape):
        super().__init__()
        base_size = _get_base_size(image.resolution)
        doubled = [2, 2, 4, 4, 8, 8]  # from the second convolution on, in units of the width
        multiples = [1, 1, *doubled[:-1]] if config.doubling == "3x3" else [1, *doubled]
        widths = [image.channels, *(config.width * multiple for multiple in multiples)]
        convs = [
            nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1)
            if i % 2
            else nn.Conv2d(in_channels, out_channels, 3, padding=1)
            for i, (in_channels, out_channels) in enumerate(pairwise(widths))
        ]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(config.activation_norm.build(conv.out_channels) for conv in convs[1:])
        self.activation = config.build_activation(nn.LeakyReLU(0.1))
        self.head = ProjectionHead(widths[-1] * base_size**2, image.num_classes)
        self.apply(init_normal)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return logits (B,). Raises ValueError for missing or unexpected labels."""
        h = self.activation(self.convs[0](x))
        for conv, norm in zip(self.convs[1:], self.norms, strict=True):
            h = self.activation(norm(conv(h)))
        return self.head(h.flatten(1), y)


def _get_base_size(resolution: int) -> int:
    """Return resolution / 8. Raises ValueError if it is not an integer of at least 2."""
    if resolution % 8 or resolution < 16:
        raise ValueError(
            f"sndcgan does not support {resolution} x {resolution} images: the resolution must be a multiple of 8"
            " and at least 16"
        )
    return resolution // 8
