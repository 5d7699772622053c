"""BigGAN's networks (Brock et al., ICLR 2019): wide residual networks whose generator is conditioned in every block.

The generator splits z into chunks of about equal size. The first one is projected to the smallest feature map. The
others, one for each block, are joined with an embedding of the class that all blocks share, and linear layers map them
to the scales and shifts of the block's norms. The discriminator has a projection head on the sum-pooled features.

The layers are those of the authors' PyTorch code (github.com/ajbrock/BigGAN-PyTorch, BigGAN.py and layers.py): with its
weights, the networks have its outputs at 32, 64, 128 and 256. These differ:

- That code drops the remainder of z_dim divided by the number of chunks; here it belongs to the first chunk.
- In its discriminator for 32 x 32, the attention at 16 follows all four blocks, since its table names 16 as the
  resolution of each. Here it follows the first block with that resolution, as in POSTECH-CVLab/PyTorch-StudioGAN.
- It excludes the shared embedding from spectral norm; here, `generator.normalization.exclude: [embedding]` does.

Sizes of 5, 6 and 7 times a power of 2 have the same tables as 4 times this power; 16 x 16 has that of 32 x 32.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn

from models.activation_norms.base import ClassConditional
from models.kernels import Conv2d
from models.networks.base import DISCRIMINATORS, GENERATORS, DiscriminatorConfig, GeneratorConfig, ImageShape
from models.networks.layers import ProjectionHead, SelfAttention, check_labels, split_resolution
from models.networks.resnet import DownBlock, UpBlock, with_attention
from models.ranges import AT_LEAST_1, SIZE

Init = Literal["orthogonal", "normal"]


class Table(NamedTuple):
    """Channels of the feature maps in multiples of the width, and how often the discriminator halves the resolution."""

    generator: tuple[int, ...]
    """From the smallest map to the largest"""
    discriminator: tuple[int, ...]
    """After each block"""
    halvings: int


TABLES = {  # by the doublings in the generator
    2: Table((4, 4, 4), (4, 4, 4, 4), 2),
    3: Table((4, 4, 4, 4), (4, 4, 4, 4), 2),
    4: Table((16, 16, 8, 4, 2), (1, 2, 4, 8, 16), 4),
    5: Table((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),
    6: Table((16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6),
}


@dataclass(frozen=True, kw_only=True)
class BigGANOptions:
    """Options of both networks."""

    width: Annotated[int, SIZE] = 64
    """Unit of the numbers of channels; at 32 x 32, all feature maps have 4 times as many"""
    attention: Annotated[int, AT_LEAST_1] | None = None
    """Resolution of the feature map with self-attention, 64 in the paper at 128 x 128 (null: none)"""
    init: Init = "orthogonal"
    """Initial weights: orthogonal, or N(0, 0.02²) as in the authors' script for CIFAR-10; biases as in PyTorch"""


@GENERATORS.register("biggan")
@dataclass(frozen=True, kw_only=True)
class BigGANGeneratorConfig(BigGANOptions, GeneratorConfig):
    """Residual blocks with upsampling whose norms are conditioned on a class embedding and a part of z, tanh."""

    hierarchical: bool = True
    """Compute scales and shifts from a shared class embedding and a chunk of z (false: a table for each norm)"""
    embedding_dim: Annotated[int, SIZE] = 128
    """Dimension of the shared class embedding, if hierarchical"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the generator for `image`."""
        return BigGANGenerator(self, image)


@DISCRIMINATORS.register("biggan")
@dataclass(frozen=True, kw_only=True)
class BigGANDiscriminatorConfig(BigGANOptions, DiscriminatorConfig):
    """Wide residual blocks with downsampling, ReLU, sum over the feature map, linear head with a projection."""

    rectified_shortcuts: bool = False
    """Apply ReLU to the input of the shortcuts, except in the first block, as StudioGAN's in-place ReLU does"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the discriminator for `image`."""
        return BigGANDiscriminator(self, image)


class BigGANGenerator(nn.Module):
    """The generator of a config, for images of a given shape.

    Maps z (B, z_dim) and, if class-conditional, labels y (B,) to images (B, C, H, W) in [-1, 1].
    """

    def __init__(self, config: BigGANGeneratorConfig, image: ImageShape):
        super().__init__()
        self.num_classes = image.num_classes
        self.base_size, doublings = split_resolution(image.resolution)
        widths = [config.width * factor for factor in _get_table(image.resolution).generator]
        self.chunks = [config.z_dim]
        self.embedding = None
        build_norm = partial(config.activation_norm.build, num_classes=image.num_classes)
        if config.hierarchical:
            self.chunks = _split(config.z_dim, doublings + 1)
            condition_dim = self.chunks[-1]
            if image.num_classes is not None:
                self.embedding = nn.Embedding(image.num_classes, config.embedding_dim)
                condition_dim += config.embedding_dim

            def build_norm(channels: int) -> nn.Module:
                return Conditional(config.activation_norm.build_without_affine(channels), channels, condition_dim)

        self.project = nn.Linear(self.chunks[0], widths[0] * self.base_size**2)
        blocks = [UpBlock(in_channels, out_channels, build_norm) for in_channels, out_channels in pairwise(widths)]
        resolutions = [self.base_size * 2 ** (i + 1) for i in range(doublings)]
        self.blocks = with_attention(blocks, resolutions, widths[1:], config.attention)
        self.norm = config.activation_norm.build(widths[-1])
        self.to_image = Conv2d(widths[-1], image.channels, 3, padding=1)
        self.apply(partial(_init, name=config.init))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Generate images (B, C, H, W). Raises ValueError for missing or unexpected labels."""
        check_labels(y, self.num_classes)
        z, *chunks = z.split(self.chunks, dim=1)
        conditions: Iterable[Tensor | None] = chunks
        if self.embedding is not None:
            embedded = self.embedding(y)
            conditions = [torch.cat([embedded, chunk], dim=1) for chunk in chunks]
        elif not chunks:
            conditions = [y] * len(self.blocks)
        conditions = iter(conditions)
        h = self.project(z).unflatten(1, (-1, self.base_size, self.base_size))
        for block in self.blocks:
            h = block(h) if isinstance(block, SelfAttention) else block(h, next(conditions))
        return self.to_image(self.norm(h).relu()).tanh()


class BigGANDiscriminator(nn.Module):
    """The discriminator of a config, for images of a given shape.

    Maps images (B, C, H, W) and, if class-conditional, labels y (B,) to logits (B,).
    """

    def __init__(self, config: BigGANDiscriminatorConfig, image: ImageShape):
        super().__init__()
        table = _get_table(image.resolution)
        widths = [config.width * factor for factor in table.discriminator]
        blocks = [
            DownBlock(
                in_channels,
                out_channels,
                config.activation_norm,
                halve=i < table.halvings,
                first=i == 0,
                rectified_shortcut=config.rectified_shortcuts and i > 0,
                activation=config.build_activation(nn.ReLU()),
                wide=True,
            )
            for i, (in_channels, out_channels) in enumerate(pairwise([image.channels, *widths]))
        ]
        resolutions = [image.resolution // 2 ** min(i + 1, table.halvings) for i in range(len(blocks))]
        self.blocks = with_attention(blocks, resolutions, widths, config.attention)
        self.activation = config.build_activation(nn.ReLU())
        self.head = ProjectionHead(widths[-1], image.num_classes)
        self.apply(partial(_init, name=config.init))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return logits (B,) for images (B, C, H, W). Raises ValueError for missing or unexpected labels."""
        h = x
        for block in self.blocks:
            h = block(h)
        return self.head(self.activation(h).sum((2, 3)), y)


class Conditional(nn.Module):
    """(1 + scale(c)) norm(x) + shift(c) with linear maps of a condition c (B, K), without biases.

    `norm` is a norm without learned scale and shift.
    """

    def __init__(self, norm: nn.Module, channels: int, condition_dim: int):
        super().__init__()
        self.norm = norm
        self.scale = nn.Linear(condition_dim, channels, bias=False)
        self.shift = nn.Linear(condition_dim, channels, bias=False)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Normalize x (B, C, H, W), then scale and shift its channels."""
        scale, shift = (layer(c)[:, :, None, None].to(x.dtype) for layer in (self.scale, self.shift))
        return (1 + scale) * self.norm(x) + shift


def _get_table(resolution: int) -> Table:
    """Return the numbers of channels. Raises ValueError for unsupported resolutions."""
    base_size, doublings = split_resolution(resolution)
    if doublings not in TABLES:
        raise ValueError(
            f"no biggan network for {resolution} x {resolution} images; the largest has"
            f" {base_size * 2 ** max(TABLES)} x {base_size * 2 ** max(TABLES)}"
        )
    return TABLES[doublings]


def _split(z_dim: int, count: int) -> list[int]:
    """Return the sizes of `count` chunks of z, of which the first one is the largest."""
    if z_dim < count:
        raise ValueError(f"z_dim={z_dim} must be at least {count}, one number for each block and one for the first map")
    size = z_dim // count
    return [z_dim - size * (count - 1)] + [size] * (count - 1)


def _init(module: nn.Module, name: Init) -> None:
    """Initialize the weights of a layer, or the tables of a class-conditional norm, whose scales are around 1."""
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        weights = [module.weight]
    elif isinstance(module, ClassConditional):
        weights = [module.weight, module.bias]
    else:
        return
    for weight in weights:
        if name == "orthogonal":
            nn.init.orthogonal_(weight)
        else:
            nn.init.normal_(weight, std=0.02)
    if isinstance(module, ClassConditional):
        with torch.no_grad():
            module.weight.add_(1)
