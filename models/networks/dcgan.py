"""DCGAN (Radford et al., ICLR 2016): strided 4x4 convolutions between a small bottom map and the image.

Class-conditional as in Miyato & Koyama (ICLR 2018): every activation norm of the generator has a scale and a shift per
class, the discriminator a projection head.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from models.activation_norms import ActivationNorm
from models.networks.base import DISCRIMINATORS, GENERATORS, DiscriminatorConfig, GeneratorConfig, ImageShape
from models.networks.layers import ProjectionHead, bottom_size, check_labels
from models.ranges import SIZE


@GENERATORS.register("dcgan")
@dataclass(frozen=True, kw_only=True)
class DCGANGeneratorConfig(GeneratorConfig):
    """Linear projection to the bottom map, then 4x4 stride-2 transposed convolutions, ReLU, tanh at the end."""

    width: Annotated[int, SIZE] = 64
    """Channels of the largest hidden map; each smaller one has twice as many"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the generator for `image`."""
        return DCGANGenerator(image, self.z_dim, self.width, self.activation_norm)


@DISCRIMINATORS.register("dcgan")
@dataclass(frozen=True, kw_only=True)
class DCGANDiscriminatorConfig(DiscriminatorConfig):
    """4x4 stride-2 convolutions down to the bottom map, LeakyReLU 0.2, then a linear head."""

    width: Annotated[int, SIZE] = 64
    """Channels after the first convolution; each later one has twice as many"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the discriminator for `image`."""
        return DCGANDiscriminator(image, self.width, self.activation_norm)


class DCGANGenerator(nn.Module):
    """z (B, z_dim), labels y (B,) of a conditional one -> images (B, C, H, W) in [-1, 1]."""

    def __init__(self, image: ImageShape, z_dim: int, width: int, activation_norm: ActivationNorm):
        super().__init__()
        self.num_classes = image.num_classes
        self.bottom, halvings = bottom_size(image.resolution)
        widths = [width * 2**i for i in reversed(range(halvings))]  # from the bottom map up
        self.project = nn.Linear(z_dim, widths[0] * self.bottom**2)
        self.norms = nn.ModuleList(activation_norm.build(channels, image.num_classes) for channels in widths)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
            for before, after in zip(widths, [*widths[1:], image.channels], strict=True)
        )
        self.apply(init_normal)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Map z (B, z_dim), y (B,) to images (B, C, H, W) in [-1, 1]; ValueError for labels that do not fit."""
        check_labels(y, self.num_classes)
        h = self.project(z).unflatten(1, (-1, self.bottom, self.bottom))
        for norm, up in zip(self.norms, self.ups, strict=True):
            h = up(norm(h, y).relu())
        return h.tanh()


class DCGANDiscriminator(nn.Module):
    """Images (B, C, H, W), labels y (B,) of a conditional one -> logits (B,).

    The first convolution has no activation norm, as in the paper. The projection head works on the flattened bottom
    map and not on a pooled one: that is the vector the linear head of DCGAN sees, so each class has a linear head of
    its own and the network without labels is the paper's. The embedding holds a weight for each entry of that map.
    """

    def __init__(self, image: ImageShape, width: int, activation_norm: ActivationNorm):
        super().__init__()
        bottom, halvings = bottom_size(image.resolution)
        widths = [width * 2**i for i in range(halvings)]
        self.downs = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1)
            for before, after in zip([image.channels, *widths], widths, strict=False)
        )
        self.norms = nn.ModuleList(activation_norm.build(channels) for channels in widths[1:])
        self.activation = nn.LeakyReLU(0.2)
        self.head = ProjectionHead(widths[-1] * bottom**2, image.num_classes)
        self.apply(init_normal)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W), y (B,) to logits (B,); ValueError for labels that do not fit."""
        h = self.activation(self.downs[0](x))
        for down, norm in zip(self.downs[1:], self.norms, strict=True):
            h = self.activation(norm(down(h)))
        return self.head(h.flatten(1), y)


def init_normal(module: nn.Module) -> None:
    """Draw weights from N(0, 0.02²) and set biases to 0 (paper, section 4)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if isinstance(bias := getattr(module, "bias", None), Tensor):
            nn.init.zeros_(bias)
