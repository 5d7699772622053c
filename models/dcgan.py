"""DCGAN (Radford et al., ICLR 2016): strided 4x4 convolutions between a small bottom map and the image."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from models.activation_norms import ActivationNorm
from models.base import DISCRIMINATORS, GENERATORS, DiscriminatorConfig, GeneratorConfig, ImageShape
from models.ranges import AT_LEAST_1


@GENERATORS.register("dcgan")
@dataclass(frozen=True, kw_only=True)
class DCGANGeneratorConfig(GeneratorConfig):
    """Linear projection to the bottom map, then 4x4 stride-2 transposed convolutions, ReLU, tanh at the end."""

    width: Annotated[int, AT_LEAST_1] = 64
    """Channels of the largest hidden map; each smaller one has twice as many"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the generator for `image`."""
        return DCGANGenerator(image, self.z_dim, self.width, self.activation_norm)


@DISCRIMINATORS.register("dcgan")
@dataclass(frozen=True, kw_only=True)
class DCGANDiscriminatorConfig(DiscriminatorConfig):
    """4x4 stride-2 convolutions down to the bottom map, LeakyReLU 0.2, then a linear head."""

    width: Annotated[int, AT_LEAST_1] = 64
    """Channels after the first convolution; each later one has twice as many"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the discriminator for `image`."""
        return DCGANDiscriminator(image, self.width, self.activation_norm)


class DCGANGenerator(nn.Module):
    """z (B, z_dim) -> images (B, C, H, W) in [-1, 1]."""

    def __init__(self, image: ImageShape, z_dim: int, width: int, activation_norm: ActivationNorm):
        super().__init__()
        self.bottom, halvings = bottom_size(image.resolution)
        widths = [width * 2**i for i in reversed(range(halvings))]  # from the bottom map up
        self.project = nn.Linear(z_dim, widths[0] * self.bottom**2)
        self.norms = nn.ModuleList(activation_norm.build(channels) for channels in widths)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
            for before, after in zip(widths, [*widths[1:], image.channels], strict=True)
        )
        self.apply(init_dcgan)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Map z (B, z_dim) to images (B, C, H, W) in [-1, 1]."""
        h = self.project(z).unflatten(1, (-1, self.bottom, self.bottom))
        for norm, up in zip(self.norms, self.ups, strict=True):
            h = up(norm(h, y).relu())
        return h.tanh()


class DCGANDiscriminator(nn.Module):
    """Images (B, C, H, W) -> logits (B,). The first convolution has no activation norm, as in the paper."""

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
        self.head = nn.Linear(widths[-1] * bottom**2, 1)
        self.apply(init_dcgan)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W) to logits (B,)."""
        h = self.activation(self.downs[0](x))
        for down, norm in zip(self.downs[1:], self.norms, strict=True):
            h = self.activation(norm(down(h), y))
        return self.head(h.flatten(1)).squeeze(1)


def bottom_size(resolution: int) -> tuple[int, int]:
    """Split `resolution` into bottom x 2^halvings with a bottom of 4 to 7 pixels; ValueError when there is none."""
    halvings = 0
    bottom = resolution
    while bottom >= 8 and bottom % 2 == 0:
        bottom, halvings = bottom // 2, halvings + 1
    if not 4 <= bottom < 8 or halvings == 0:
        raise ValueError(
            f"DCGAN cannot make {resolution} x {resolution} images: the side must be 4, 5, 6 or 7 times a power of 2"
            " (16, 32, 48, 64, 96, 128, ...)"
        )
    return bottom, halvings


def init_dcgan(module: nn.Module) -> None:
    """Draw weights from N(0, 0.02²) and set biases to 0 (paper, section 4)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
