"""SNGAN's residual networks (Miyato et al., ICLR 2018; Miyato & Koyama, ICLR 2018, for 64 and labels).

There are two kinds of tables. Up to 32 x 32 (CIFAR-10) all feature maps have the same width. The generator doubles the
resolution in each block; the discriminator has four blocks, two of which halve it. Above 32 x 32, the width doubles
with each halving of the resolution, from `width` at full resolution to at most 16 `width`; the discriminator has at
least five blocks and halves the resolution at most five times. At 48, 64 and 128 this gives the published tables
(widths 64 to 512, 64 to 1024, 64 to 1024); other resolutions follow the same rule.

torch-mimicry has the same layers. Options give its initialization, its bilinear upsampling, and its discriminators: an
in-place ReLU also changes the input of their shortcuts, and those for WGAN-GP average over the feature map.

In the class-conditional networks, the norms of the generator's blocks are class-conditional (its last norm is not, as
in the authors' code), and the discriminator has a projection head on the sum-pooled features.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from models.activation_norms import ActivationNorm
from models.kernels import Conv2d, Upsampling, conv_then_pool, upsample, upsample_then_conv
from models.networks.base import DISCRIMINATORS, GENERATORS, DiscriminatorConfig, GeneratorConfig, ImageShape
from models.networks.layers import ProjectionHead, SelfAttention, check_labels, split_resolution
from models.ranges import AT_LEAST_1, SIZE


@GENERATORS.register("resnet")
@dataclass(frozen=True, kw_only=True)
class ResNetGeneratorConfig(GeneratorConfig):
    """Linear projection to the smallest feature map, residual blocks with upsampling, 3x3 convolution, tanh."""

    width: Annotated[int, SIZE] | None = None
    """Channels at full resolution (null: the paper's, 256 up to 32 x 32 and 64 above)"""
    upsample: Upsampling = "nearest"
    """Upsampling in the blocks: nearest as in the authors' code, or bilinear as in torch-mimicry"""
    base_size: Annotated[int, AT_LEAST_1] | None = field(default=None, metadata={"alias": "bottom"})
    """Resolution of the smallest feature map (null: from 4 to 7; the paper's is 4 or 6)"""
    attention: Annotated[int, AT_LEAST_1] | None = None
    """Resolution of the feature map with self-attention, such as 32 in SAGAN at 128 x 128 (null: none)"""
    pytorch_init: tuple[Literal["biases", "shortcuts", "to_image"], ...] = ()
    """What PyTorch initializes, as in torch-mimicry, instead of biases of 0 and Xavier-uniform weights"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the generator for `image`."""
        return ResNetGenerator(self, image)


@DISCRIMINATORS.register("resnet")
@dataclass(frozen=True, kw_only=True)
class ResNetDiscriminatorConfig(DiscriminatorConfig):
    """Residual blocks with downsampling, ReLU, sum over the feature map, linear head."""

    width: Annotated[int, SIZE] | None = None
    """Channels of the first block (null: the paper's, 128 up to 32 x 32 and 64 above)"""
    head_bias: bool = True
    """Bias of the linear head (torch-mimicry has one; the authors' code has none at 32 x 32)"""
    pooling: Literal["sum", "mean"] = "sum"
    """Pooling of the last feature map: sum, or mean as in torch-mimicry's WGAN-GP"""
    rectified_shortcuts: bool = False
    """Apply ReLU to the input of the shortcuts, except in the first block, as torch-mimicry's in-place ReLU does"""
    attention: Annotated[int, AT_LEAST_1] | None = None
    """Resolution of the feature map with self-attention, such as 32 in SAGAN at 128 x 128 (null: none)"""
    pytorch_init: tuple[Literal["biases", "shortcuts"], ...] = ()
    """What PyTorch initializes, as in torch-mimicry, instead of biases of 0 and Xavier-uniform weights"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the discriminator for `image`."""
        return ResNetDiscriminator(self, image)


class ResNetGenerator(nn.Module):
    """The generator of a config, for images of a given shape.

    Maps z (B, z_dim) and, if class-conditional, labels y (B,) to images (B, C, H, W) in [-1, 1].
    """

    def __init__(self, config: ResNetGeneratorConfig, image: ImageShape):
        super().__init__()
        self.num_classes = image.num_classes
        self.base_size, doublings = split_resolution(image.resolution, config.base_size)
        width = config.width or (256 if image.resolution <= 32 else 64)
        widths = _widths(width, doublings + 1, image.resolution)[::-1]  # from the smallest map to the largest
        self.project = nn.Linear(config.z_dim, widths[0] * self.base_size**2)
        build_norm = partial(config.activation_norm.build, num_classes=image.num_classes)
        blocks = [
            UpBlock(in_channels, out_channels, build_norm, config.upsample)
            for in_channels, out_channels in pairwise(widths)
        ]
        resolutions = [self.base_size * 2 ** (i + 1) for i in range(doublings)]
        self.blocks = with_attention(blocks, resolutions, widths[1:], config.attention)
        self.norm = config.activation_norm.build(widths[-1])
        self.to_image = nn.Conv2d(widths[-1], image.channels, 3, padding=1)
        self.apply(partial(init_xavier, default=config.pytorch_init))
        if "to_image" in config.pytorch_init:
            init_weight_as_pytorch(self.to_image)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Generate images (B, C, H, W). Raises ValueError for missing or unexpected labels."""
        check_labels(y, self.num_classes)
        h = self.project(z).unflatten(1, (-1, self.base_size, self.base_size))
        for block in self.blocks:
            h = block(h, y)
        return self.to_image(self.norm(h).relu()).tanh()


class ResNetDiscriminator(nn.Module):
    """The discriminator of a config, for images of a given shape.

    Maps images (B, C, H, W) and, if class-conditional, labels y (B,) to logits (B,).
    """

    def __init__(self, config: ResNetDiscriminatorConfig, image: ImageShape):
        super().__init__()
        _, halvings = split_resolution(image.resolution)
        count, downs = (4, 2) if image.resolution <= 32 else (max(5, halvings + 1), min(5, halvings + 1))
        if image.resolution % 2**downs:
            raise ValueError(
                f"the resnet discriminator halves the resolution {downs} times, but {image.resolution} is not divisible"
                f" by 2^{downs}"
            )
        width = config.width or (128 if image.resolution <= 32 else 64)
        widths = _widths(width, count, image.resolution)
        blocks = [
            DownBlock(
                in_channels,
                out_channels,
                config.activation_norm,
                halve=i < downs,
                first=i == 0,
                rectified_shortcut=config.rectified_shortcuts and i > 0,
                activation=config.build_activation(nn.ReLU()),
            )
            for i, (in_channels, out_channels) in enumerate(pairwise([image.channels, *widths]))
        ]
        resolutions = [image.resolution // 2 ** min(i + 1, downs) for i in range(count)]
        self.blocks = with_attention(blocks, resolutions, widths, config.attention)
        self.activation = config.build_activation(nn.ReLU())
        self.pooling = config.pooling
        self.head = ProjectionHead(widths[-1], image.num_classes, bias=config.head_bias)
        self.apply(partial(init_xavier, default=config.pytorch_init))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return logits (B,) for images (B, C, H, W). Raises ValueError for missing or unexpected labels."""
        h = x
        for block in self.blocks:
            h = block(h)
        h = self.activation(h)
        return self.head(h.sum((2, 3)) if self.pooling == "sum" else h.mean((2, 3)), y)


class UpBlock(nn.Module):
    """Residual block of the generator: (B, I, H, W) -> (B, O, 2H, 2W).

    `build_norm` returns a norm for a number of channels, which is called with the map and the block's y: labels (B,),
    None, or any other condition of the norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        build_norm: Callable[[int], nn.Module],
        upsample: Upsampling = "nearest",
    ):
        super().__init__()
        self.upsample: Upsampling = upsample
        self.norm1 = build_norm(in_channels)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = build_norm(out_channels)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Apply norm, ReLU, upsampling, convolution, norm, ReLU and convolution, and add the shortcut."""
        h = upsample_then_conv(self.conv1, self.norm1(x, y).relu(), self.upsample)
        h = self.conv2(self.norm2(h, y).relu())
        # A 1x1 convolution commutes with upsampling, and costs a quarter on the smaller map.
        return h + upsample(self.shortcut(x), self.upsample)


class DownBlock(nn.Module):
    """Residual block of the discriminator: (B, I, H, W) -> (B, O, H / 2, W / 2), or (B, O, H, W) without `halve`.

    The residual is norm, ReLU, 3x3 convolution, norm, ReLU, 3x3 convolution and average pooling. The shortcut has a 1x1
    convolution unless the block keeps the shape. The `first` block starts with the convolution (the "optimized block"
    of the authors' code). With `rectified_shortcut`, the input of the shortcut is rectified. The hidden map has the
    channels of the input, or those of the output if the block is `wide` or the first one. `activation` replaces ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        activation_norm: ActivationNorm,
        halve: bool,
        first: bool = False,
        rectified_shortcut: bool = False,
        activation: nn.Module | None = None,
        wide: bool = False,
    ):
        super().__init__()
        hidden = out_channels if first or wide else in_channels
        keeps_shape = not halve and in_channels == out_channels
        self.halve = halve
        self.rectified_shortcut = rectified_shortcut
        self.activation = nn.ReLU() if activation is None else activation
        self.norm1 = None if first else activation_norm.build(in_channels)
        self.conv1 = Conv2d(in_channels, hidden, 3, padding=1)
        self.norm2 = activation_norm.build(hidden)
        self.conv2 = Conv2d(hidden, out_channels, 3, padding=1)
        self.shortcut = None if keeps_shape else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual plus the shortcut."""
        h = x if self.norm1 is None else self.activation(self.norm1(x))
        h = self.activation(self.norm2(self.conv1(h)))
        h = conv_then_pool(self.conv2, h) if self.halve else self.conv2(h)
        # A 1x1 convolution commutes with average pooling, and costs a quarter on the smaller map.
        shortcut = self.activation(x) if self.rectified_shortcut else x
        shortcut = F.avg_pool2d(shortcut, 2) if self.halve else shortcut
        return h + (shortcut if self.shortcut is None else self.shortcut(shortcut))


def init_xavier(module: nn.Module, default: Sequence[str] = ()) -> None:
    """Initialize weights Xavier uniform, with gain √2 for the 3x3 convolutions of blocks, and biases with 0.

    What `default` names, "biases" or "shortcuts", is initialized as PyTorch does.
    """
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        nn.init.xavier_uniform_(module.weight)
        if "biases" not in default and isinstance(bias := getattr(module, "bias", None), Tensor):
            nn.init.zeros_(bias)
    elif isinstance(module, UpBlock | DownBlock):  # `apply` visits a block after its layers
        for conv in (module.conv1, module.conv2):
            nn.init.xavier_uniform_(conv.weight, gain=math.sqrt(2))
        if "shortcuts" in default and module.shortcut is not None:
            init_weight_as_pytorch(module.shortcut)


def init_weight_as_pytorch(conv: nn.Conv2d) -> None:
    """Initialize the weight as `nn.Conv2d` does."""
    nn.init.kaiming_uniform_(conv.weight, a=math.sqrt(5))


def _widths(width: int, count: int, resolution: int) -> list[int]:
    """Return the channels of `count` feature maps, from full resolution to the smallest."""
    largest = 1 if resolution <= 32 else 16
    return [width * min(2**i, largest) for i in range(count)]


def with_attention(
    blocks: Sequence[nn.Module], resolutions: list[int], widths: list[int], attention: int | None
) -> nn.ModuleList:
    """Insert self-attention after the first block with output resolution `attention`.

    Raises ValueError if no block has that resolution.
    """
    if attention is None:
        return nn.ModuleList(blocks)
    if attention not in resolutions:
        choices = ", ".join(map(str, sorted(set(resolutions))))
        raise ValueError(f"attention: no block has output resolution {attention} (choices: {choices})")
    i = resolutions.index(attention)
    return nn.ModuleList([*blocks[: i + 1], SelfAttention(widths[i]), *blocks[i + 1 :]])
