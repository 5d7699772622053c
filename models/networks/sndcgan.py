"""SNGAN's standard CNN, also known as SNDCGAN (Miyato et al., ICLR 2018, table 3), for sides that 8 divides.

The published nets are those of 32 x 32 and 48 x 48 images. The class-conditional form is that of DCGAN.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from torch import Tensor, nn

from models.activation_norms import ActivationNorm
from models.networks.base import DISCRIMINATORS, GENERATORS, DiscriminatorConfig, GeneratorConfig, ImageShape
from models.networks.dcgan import init_normal
from models.networks.layers import ProjectionHead, check_labels
from models.ranges import SIZE


@GENERATORS.register("sncnn")
@dataclass(frozen=True, kw_only=True)
class SNCNNGeneratorConfig(GeneratorConfig):
    """Linear projection to side / 8, three 4x4 stride-2 transposed convolutions, ReLU, a 3x3 convolution, tanh."""

    width: Annotated[int, SIZE] = 64
    """Channels of the largest map; each smaller one has twice as many"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the generator for `image`."""
        return SNCNNGenerator(image, self.z_dim, self.width, self.activation_norm)


@DISCRIMINATORS.register("sncnn")
@dataclass(frozen=True, kw_only=True)
class SNCNNDiscriminatorConfig(DiscriminatorConfig):
    """Three pairs of a 3x3 and a 4x4 stride-2 convolution, a 3x3 convolution, LeakyReLU 0.1, then a linear head."""

    width: Annotated[int, SIZE] = 64
    """Channels of the first pair; each later pair, and the last convolution, has twice as many"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the discriminator for `image`."""
        return SNCNNDiscriminator(image, self.width, self.activation_norm)


class SNCNNGenerator(nn.Module):
    """z (B, z_dim), labels y (B,) of a conditional one -> images (B, C, H, W) in [-1, 1].

    Norm and ReLU follow the projection too, as in the authors' code; the paper's table names none there.
    """

    def __init__(self, image: ImageShape, z_dim: int, width: int, activation_norm: ActivationNorm):
        super().__init__()
        self.num_classes = image.num_classes
        self.bottom = _eighth(image.resolution)
        widths = [8 * width, 4 * width, 2 * width, width]  # from the bottom map up
        self.project = nn.Linear(z_dim, widths[0] * self.bottom**2)
        self.norms = nn.ModuleList(activation_norm.build(channels, image.num_classes) for channels in widths)
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.convs.append(nn.Conv2d(width, image.channels, 3, padding=1))
        self.apply(init_normal)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Map z (B, z_dim), y (B,) to images (B, C, H, W) in [-1, 1]; ValueError for labels that do not fit."""
        check_labels(y, self.num_classes)
        h = self.project(z).unflatten(1, (-1, self.bottom, self.bottom))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(norm(h, y).relu())
        return h.tanh()


class SNCNNDiscriminator(nn.Module):
    """Images (B, C, H, W), labels y (B,) of a conditional one -> logits (B,).

    The widths are those of the paper's table; in the authors' code the stride-2 convolutions double them already.
    The first convolution has no activation norm. The projection head works on the flattened map, as in DCGAN.
    """

    def __init__(self, image: ImageShape, width: int, activation_norm: ActivationNorm):
        super().__init__()
        bottom = _eighth(image.resolution)
        convs, before = [], image.channels
        for channels in (width, 2 * width, 4 * width):
            convs.append(nn.Conv2d(before, channels, 3, padding=1))
            convs.append(nn.Conv2d(channels, channels, 4, stride=2, padding=1))
            before = channels
        convs.append(nn.Conv2d(before, 8 * width, 3, padding=1))
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(activation_norm.build(conv.out_channels) for conv in convs[1:])
        self.activation = nn.LeakyReLU(0.1)
        self.head = ProjectionHead(8 * width * bottom**2, image.num_classes)
        self.apply(init_normal)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W), y (B,) to logits (B,); ValueError for labels that do not fit."""
        h = self.activation(self.convs[0](x))
        for conv, norm in zip(self.convs[1:], self.norms, strict=True):
            h = self.activation(norm(conv(h)))
        return self.head(h.flatten(1), y)


def _eighth(resolution: int) -> int:
    """Return resolution / 8; ValueError when it is not a whole number of at least 2 pixels."""
    if resolution % 8 or resolution < 16:
        raise ValueError(
            f"sncnn cannot make {resolution} x {resolution} images: the side must be a multiple of 8, at least 16"
        )
    return resolution // 8
