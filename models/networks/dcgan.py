"""DCGAN (Radford et al., ICLR 2016), built from strided 4x4 convolutions.

The options `base_size`, `bias`, `init`, `kernel_size` and `norm_last` give the networks of pytorch-gan-collections.
The class-conditional networks follow Miyato & Koyama (ICLR 2018): the activation norms of the generator are
class-conditional, and the discriminator has a projection head.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn

from models.networks.base import DISCRIMINATORS, GENERATORS, DiscriminatorConfig, GeneratorConfig, ImageShape
from models.networks.layers import ProjectionHead, check_labels, split_resolution
from models.ranges import AT_LEAST_1, SIZE


@dataclass(frozen=True, kw_only=True)
class DCGANOptions:
    """Options of both networks."""

    width: Annotated[int, SIZE] = 64
    """Channels of the largest hidden feature map; the number doubles with each halving of the resolution"""
    base_size: Annotated[int, AT_LEAST_1] | None = None
    """Resolution of the smallest feature map (null: from 4 to 7)"""
    bias: bool = True
    """Biases of the convolutions and of the generator's projection"""
    init: Literal["normal", "pytorch"] = "normal"
    """Initialization: N(0, 0.02²) and biases of 0 as in the paper, or that of PyTorch's convolutions"""


@GENERATORS.register("dcgan")
@dataclass(frozen=True, kw_only=True)
class DCGANGeneratorConfig(DCGANOptions, GeneratorConfig):
    """Linear projection to the smallest feature map, 4x4 stride-2 transposed convolutions with ReLU, final tanh."""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the generator for `image`."""
        return DCGANGenerator(self, image)


@DISCRIMINATORS.register("dcgan")
@dataclass(frozen=True, kw_only=True)
class DCGANDiscriminatorConfig(DCGANOptions, DiscriminatorConfig):
    """Stride-2 convolutions with LeakyReLU 0.2 down to the smallest feature map, then a linear head."""

    kernel_size: Literal[4, 5] = 4
    """Side of the kernels: 4, or 5 as in the paper"""
    norm_last: bool = False
    """Apply the activation norm after LeakyReLU instead of before it"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the discriminator for `image`."""
        return DCGANDiscriminator(self, image)


class DCGANGenerator(nn.Module):
    """The generator of a config, for images of a given shape.

    Maps z (B, z_dim) and, if class-conditional, labels y (B,) to images (B, C, H, W) in [-1, 1].
    """

    def __init__(self, config: DCGANGeneratorConfig, image: ImageShape):
        super().__init__()
        self.num_classes = image.num_classes
        self.base_size, doublings = split_resolution(image.resolution, config.base_size)
        widths = [config.width * 2**i for i in reversed(range(doublings))]  # from the smallest map to the largest
        self.project = nn.Linear(config.z_dim, widths[0] * self.base_size**2, bias=config.bias)
        self.norms = nn.ModuleList(config.activation_norm.build(channels, image.num_classes) for channels in widths)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=config.bias)
            for in_channels, out_channels in zip(widths, [*widths[1:], image.channels], strict=True)
        )
        if config.init == "normal":
            self.apply(init_normal)
        else:
            # The projection is a transposed convolution of a 1x1 map, whose fan-in PyTorch computes from its outputs.
            bound = 1 / math.sqrt(self.project.out_features)
            for parameter in self.project.parameters():
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Generate images (B, C, H, W). Raises ValueError for missing or unexpected labels."""
        check_labels(y, self.num_classes)
        h = self.project(z).unflatten(1, (-1, self.base_size, self.base_size))
        for norm, up in zip(self.norms, self.ups, strict=True):
            h = up(norm(h, y).relu())
        return h.tanh()


class DCGANDiscriminator(nn.Module):
    """The discriminator of a config, for images of a given shape.

    Maps images (B, C, H, W) and, if class-conditional, labels y (B,) to logits (B,).
    As in the paper, there is no activation norm after the first convolution. The projection head operates on the
    flattened last feature map, which is the input of DCGAN's linear head, instead of a pooled feature vector. Each
    class embedding thus has one entry for each channel and position of that map.
    """

    def __init__(self, config: DCGANDiscriminatorConfig, image: ImageShape):
        super().__init__()
        self.norm_last = config.norm_last
        base_size, halvings = split_resolution(image.resolution, config.base_size)
        widths = [config.width * 2**i for i in range(halvings)]
        padding = (config.kernel_size - 1) // 2
        self.downs = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, config.kernel_size, stride=2, padding=padding, bias=config.bias)
            for in_channels, out_channels in zip([image.channels, *widths], widths, strict=False)
        )
        self.norms = nn.ModuleList(config.activation_norm.build(channels) for channels in widths[1:])
        self.activation = config.build_activation(nn.LeakyReLU(0.2))
        self.head = ProjectionHead(widths[-1] * base_size**2, image.num_classes)
        if config.init == "normal":
            self.apply(init_normal)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return logits (B,). Raises ValueError for missing or unexpected labels."""
        h = self.activation(self.downs[0](x))
        for down, norm in zip(self.downs[1:], self.norms, strict=True):
            h = norm(self.activation(down(h))) if self.norm_last else self.activation(norm(down(h)))
        return self.head(h.flatten(1), y)


def init_normal(module: nn.Module) -> None:
    """Initialize the weights from N(0, 0.02²) and the biases to 0 (DCGAN paper)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if isinstance(bias := getattr(module, "bias", None), Tensor):
            nn.init.zeros_(bias)
