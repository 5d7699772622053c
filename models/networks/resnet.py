"""SNGAN's residual networks (Miyato et al., ICLR 2018, tables 4 to 6; Miyato & Koyama, ICLR 2018, for 64 and labels).

Two sorts of tables. Up to 32 x 32 (CIFAR-10) all maps have the same width: the generator doubles the bottom map block
by block, the discriminator has four blocks of which two halve. Above, width doubles with each halving of the side,
from `width` at full resolution up to 16 times as many: the discriminator has at least five blocks and halves at most
five times. At 48, 64 and 128 this gives the published tables (64 -> 512, 64 -> 1024, 64 -> 1024); other sides follow
the same rule. torch-mimicry has the same layers (its discriminators compute something else in one place: an in-place
ReLU rectifies the input of the shortcuts, too).

Class-conditional: the norms of the generator's blocks have a scale and a shift per class (the last norm does not, as
in the authors' code), the discriminator has a projection head on the sum-pooled features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from models.activation_norms import ActivationNorm
from models.kernels.fused import conv_then_pool, convolve, upsample, upsample_then_conv
from models.networks.base import DISCRIMINATORS, GENERATORS, DiscriminatorConfig, GeneratorConfig, ImageShape
from models.networks.layers import ProjectionHead, SelfAttention, check_labels, split_resolution
from models.ranges import AT_LEAST_1, SIZE

Upsampling = Literal["nearest", "bilinear"]


@GENERATORS.register("resnet")
@dataclass(frozen=True, kw_only=True)
class ResNetGeneratorConfig(GeneratorConfig):
    """Linear projection to the bottom map, residual blocks that double the side, norm, ReLU, 3x3 convolution, tanh."""

    width: Annotated[int, SIZE] | None = None
    """Channels at full resolution (null: the paper's, 256 up to 32 x 32 and 64 above)"""
    upsample: Upsampling = "nearest"
    """Upsampling in the blocks: nearest as in the authors' code, or bilinear as in torch-mimicry"""
    bottom: Annotated[int, AT_LEAST_1] | None = None
    """Side of the smallest map (null: the paper's, 4 or 6, or else the one of 4 to 7)"""
    attention: Annotated[int, AT_LEAST_1] | None = None
    """Side of the map that gets self-attention, as 32 in SAGAN at 128 x 128 (null: none)"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the generator for `image`."""
        width = self.width or (256 if image.resolution <= 32 else 64)
        sides = split_resolution(image.resolution, self.bottom)
        return ResNetGenerator(image, self.z_dim, width, self.activation_norm, self.upsample, self.attention, sides)


@DISCRIMINATORS.register("resnet")
@dataclass(frozen=True, kw_only=True)
class ResNetDiscriminatorConfig(DiscriminatorConfig):
    """Residual blocks that halve the side, ReLU, sum over the map, then a linear head."""

    width: Annotated[int, SIZE] | None = None
    """Channels of the first block (null: the paper's, 128 up to 32 x 32 and 64 above)"""
    head_bias: bool = True
    """Bias of the linear head (torch-mimicry has it; the authors' code leaves it out at 32 x 32 alone)"""
    attention: Annotated[int, AT_LEAST_1] | None = None
    """Side of the map that gets self-attention, as 32 in SAGAN at 128 x 128 (null: none)"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the discriminator for `image`."""
        width = self.width or (128 if image.resolution <= 32 else 64)
        return ResNetDiscriminator(image, width, self.activation_norm, self.head_bias, self.attention)


class ResNetGenerator(nn.Module):
    """z (B, z_dim), labels y (B,) of a conditional one -> images (B, C, H, W) in [-1, 1]."""

    def __init__(
        self,
        image: ImageShape,
        z_dim: int,
        width: int,
        activation_norm: ActivationNorm,
        upsample: Upsampling,
        attention: int | None,
        sides: tuple[int, int],
    ):
        super().__init__()
        self.num_classes = image.num_classes
        self.bottom, halvings = sides
        widths = _widths(width, halvings + 1, image.resolution)[::-1]  # from the bottom map up
        self.project = nn.Linear(z_dim, widths[0] * self.bottom**2)
        blocks = [
            UpBlock(before, after, activation_norm, image.num_classes, upsample) for before, after in pairwise(widths)
        ]
        sides_out = [self.bottom * 2 ** (i + 1) for i in range(halvings)]
        self.blocks = _with_attention(blocks, sides_out, widths[1:], attention)
        self.norm = activation_norm.build(widths[-1])
        self.to_image = nn.Conv2d(widths[-1], image.channels, 3, padding=1)
        self.apply(init_xavier)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Map z (B, z_dim), y (B,) to images (B, C, H, W) in [-1, 1]; ValueError for labels that do not fit."""
        check_labels(y, self.num_classes)
        h = self.project(z).unflatten(1, (-1, self.bottom, self.bottom))
        for block in self.blocks:
            h = block(h, y)
        return self.to_image(self.norm(h).relu()).tanh()


class ResNetDiscriminator(nn.Module):
    """Images (B, C, H, W), labels y (B,) of a conditional one -> logits (B,)."""

    def __init__(
        self, image: ImageShape, width: int, activation_norm: ActivationNorm, head_bias: bool, attention: int | None
    ):
        super().__init__()
        _, halvings = split_resolution(image.resolution)
        count, downs = (4, 2) if image.resolution <= 32 else (max(5, halvings + 1), min(5, halvings + 1))
        if image.resolution % 2**downs:
            raise ValueError(
                f"the resnet discriminator halves the side {downs} times, and 2^{downs} does not divide"
                f" {image.resolution}"
            )
        widths = _widths(width, count, image.resolution)
        blocks = [
            DownBlock(before, after, activation_norm, halve=i < downs, first=i == 0)
            for i, (before, after) in enumerate(zip([image.channels, *widths], widths, strict=False))
        ]
        sides = [image.resolution // 2 ** min(i + 1, downs) for i in range(count)]
        self.blocks = _with_attention(blocks, sides, widths, attention)
        self.head = ProjectionHead(widths[-1], image.num_classes, bias=head_bias)
        self.apply(init_xavier)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W), y (B,) to logits (B,); ValueError for labels that do not fit."""
        h = x
        for block in self.blocks:
            h = block(h)
        return self.head(h.relu().sum((2, 3)), y)


class UpBlock(nn.Module):
    """Residual block of the generator: (B, I, H, W) -> (B, O, 2H, 2W)."""

    def __init__(
        self,
        before: int,
        after: int,
        activation_norm: ActivationNorm,
        num_classes: int | None = None,
        upsample: Upsampling = "nearest",
    ):
        super().__init__()
        self.upsample = upsample
        self.norm1 = activation_norm.build(before, num_classes)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = activation_norm.build(after, num_classes)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Norm, ReLU, upsampling, convolution, norm, ReLU, convolution, plus the shortcut."""
        h = upsample_then_conv(self.conv1, self.norm1(x, y).relu(), self.upsample)
        h = convolve(self.conv2, self.norm2(h, y).relu())
        # A 1x1 convolution commutes with upsampling, and costs a quarter on the small map.
        return h + upsample(self.shortcut(x), self.upsample)


class DownBlock(nn.Module):
    """Residual block of the discriminator: (B, I, H, W) -> (B, O, H / 2, W / 2), or of the same size.

    Norm, ReLU, 3x3 convolution, norm, ReLU, 3x3 convolution, average pooling; the shortcut has a 1x1 convolution
    unless it leaves the shape alone. The `first` block starts with the convolution (the authors' optimized block).
    """

    def __init__(self, before: int, after: int, activation_norm: ActivationNorm, halve: bool, first: bool = False):
        super().__init__()
        hidden = after if first else before
        self.halve = halve
        self.norm1 = None if first else activation_norm.build(before)
        self.conv1 = nn.Conv2d(before, hidden, 3, padding=1)
        self.norm2 = activation_norm.build(hidden)
        self.conv2 = nn.Conv2d(hidden, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1) if halve or before != after else None

    def forward(self, x: Tensor) -> Tensor:
        """Return residual plus shortcut."""
        h = x if self.norm1 is None else self.norm1(x).relu()
        h = self.norm2(convolve(self.conv1, h)).relu()
        h = conv_then_pool(self.conv2, h) if self.halve else convolve(self.conv2, h)
        # A 1x1 convolution commutes with average pooling, and costs a quarter on the small map.
        shortcut = F.avg_pool2d(x, 2) if self.halve else x
        return h + (shortcut if self.shortcut is None else self.shortcut(shortcut))


def init_xavier(module: nn.Module) -> None:
    """Draw weights Xavier uniform, with gain √2 for the 3x3 convolutions of blocks, and set biases to 0."""
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        nn.init.xavier_uniform_(module.weight)
        if isinstance(bias := getattr(module, "bias", None), Tensor):
            nn.init.zeros_(bias)
    elif isinstance(module, UpBlock | DownBlock):  # `apply` comes to a block after its layers
        for conv in (module.conv1, module.conv2):
            nn.init.xavier_uniform_(conv.weight, gain=math.sqrt(2))


def _widths(width: int, count: int, resolution: int) -> list[int]:
    """Return the channels of `count` maps from full resolution down."""
    largest = 1 if resolution <= 32 else 16
    return [width * min(2**i, largest) for i in range(count)]


def _with_attention(
    blocks: Sequence[nn.Module], sides: list[int], widths: list[int], attention: int | None
) -> nn.ModuleList:
    """Put self-attention behind the first block whose output has side `attention`; ValueError when none has."""
    if attention is None:
        return nn.ModuleList(blocks)
    if attention not in sides:
        choices = ", ".join(map(str, sorted(set(sides))))
        raise ValueError(f"attention: no block has an output of side {attention} (choices: {choices})")
    at = sides.index(attention)
    return nn.ModuleList([*blocks[: at + 1], SelfAttention(widths[at]), *blocks[at + 1 :]])
