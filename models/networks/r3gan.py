"""R3GAN's networks for small images (Huang et al., NeurIPS 2024).

All feature maps have the same width, and there are no activation norms. The networks consist of stages of residual
blocks, one stage per resolution from 4 x 4 up, with bilinear resampling between the stages. The defaults are the
authors' networks for CIFAR-10. Their FID also depends on their loss, schedules, augmentation and training length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.activation_norms import ActivationNorm
from models.activation_norms.none import NoActivationNorm
from models.networks.base import DISCRIMINATORS, GENERATORS, DiscriminatorConfig, GeneratorConfig, ImageShape
from models.networks.layers import check_labels, split_resolution
from models.ranges import SIZE, Range

BASE_SIZE = 4
EXPANSION = 2
NEGATIVE_SLOPE = 0.2


@dataclass(frozen=True, kw_only=True)
class R3GANOptions:
    """Options of both networks. Raises ValueError for any activation norm other than `none`."""

    width: Annotated[int, SIZE] = 768
    """Channels of every feature map; the residual blocks expand them by a factor of 2"""
    blocks: Annotated[int, Range(min=1, max=1000)] = 2
    """Residual blocks per stage"""
    group_size: Annotated[int, SIZE] = 16
    """Channels per group of the grouped 3x3 convolutions"""
    activation_norm: ActivationNorm = field(default_factory=NoActivationNorm)
    """Normalization of the activations; must be none"""

    def __post_init__(self):
        if not isinstance(self.activation_norm, NoActivationNorm):
            raise ValueError("r3gan does not support activation norms (Huang et al., 2024); set activation_norm: none")


@GENERATORS.register("r3gan")
@dataclass(frozen=True, kw_only=True)
class R3GANGeneratorConfig(R3GANOptions, GeneratorConfig):
    """Learned 4x4 basis modulated by z, residual blocks with bilinear upsampling, 1x1 convolution, no tanh."""

    z_dim: Annotated[int, SIZE] = 64
    """Dimension of the latent z, which is sampled from N(0, I)"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the generator for `image`."""
        return R3GANGenerator(image, self.z_dim, self.width, self.blocks, self.group_size)


@DISCRIMINATORS.register("r3gan")
@dataclass(frozen=True, kw_only=True)
class R3GANDiscriminatorConfig(R3GANOptions, DiscriminatorConfig):
    """1x1 convolution, residual blocks with bilinear downsampling, depthwise 4x4 convolution, linear head."""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the discriminator for `image`."""
        return R3GANDiscriminator(self, image)


class R3GANGenerator(nn.Module):
    """The R3GAN generator.

    Maps z (B, z_dim) and, if class-conditional, labels y (B,) to images (B, C, H, W). As in the paper, the pixel values
    are not bounded. A class-conditional generator concatenates z with a class embedding of the same dimension.
    """

    def __init__(self, image: ImageShape, z_dim: int, width: int, blocks: int, group_size: int):
        super().__init__()
        self.num_classes = image.num_classes
        _, doublings = split_resolution(image.resolution, BASE_SIZE)
        self.embedding = None if image.num_classes is None else nn.Embedding(image.num_classes, z_dim)
        self.basis = nn.Parameter(torch.randn(width, BASE_SIZE, BASE_SIZE))
        self.project = nn.Linear(z_dim if self.embedding is None else 2 * z_dim, width, bias=False)
        num_blocks = blocks * (doublings + 1)
        stages = [nn.Sequential(*(R3GANBlock(width, group_size, num_blocks) for _ in range(blocks)))]
        for _ in range(doublings):
            stage = (R3GANBlock(width, group_size, num_blocks) for _ in range(blocks))
            stages.append(nn.Sequential(BilinearUp(), *stage))
        self.stages = nn.Sequential(*stages)
        self.to_image = nn.Conv2d(width, image.channels, 1, bias=False)
        for layer in (self.project, self.to_image):
            _init_msr(layer)
        if image.num_classes is not None and self.embedding is not None:
            # The authors use a linear layer on one-hot labels, which has the fan-in num_classes.
            nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(image.num_classes))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Generate images (B, C, H, W). Raises ValueError for missing or unexpected labels."""
        check_labels(y, self.num_classes)
        z = z if self.embedding is None else torch.cat([z, self.embedding(y)], dim=1)
        weights = self.project(z)[:, :, None, None]
        return self.to_image(self.stages(self.basis.to(weights.dtype) * weights))


class R3GANDiscriminator(nn.Module):
    """The R3GAN discriminator.

    Maps images (B, C, H, W) and, if class-conditional, labels y (B,) to logits (B,). In a class-conditional
    discriminator, the head returns `width` features φ and the logit is <e_y, φ> for the class embedding e_y. Unlike the
    projection of Miyato & Koyama, it has no unconditional term.
    """

    def __init__(self, config: R3GANDiscriminatorConfig, image: ImageShape):
        super().__init__()
        width, blocks = config.width, config.blocks
        self.num_classes = image.num_classes
        _, halvings = split_resolution(image.resolution, BASE_SIZE)
        num_blocks = blocks * (halvings + 1)

        def build_block() -> R3GANBlock:
            activation = config.build_activation(nn.LeakyReLU(NEGATIVE_SLOPE))
            return R3GANBlock(width, config.group_size, num_blocks, activation)

        self.from_image = nn.Conv2d(image.channels, width, 1, bias=False)
        stages = []
        for _ in range(halvings):
            stages.append(nn.Sequential(*(build_block() for _ in range(blocks)), BilinearDown()))
        stages.append(nn.Sequential(*(build_block() for _ in range(blocks))))
        self.stages = nn.Sequential(*stages)
        self.basis = nn.Conv2d(width, width, BASE_SIZE, groups=width, bias=False)
        self.head = nn.Linear(width, 1 if image.num_classes is None else width, bias=False)
        self.embedding = None if image.num_classes is None else nn.Embedding(image.num_classes, width)
        for layer in (self.from_image, self.basis, self.head):
            _init_msr(layer)
        if image.num_classes is not None and self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(width * image.num_classes))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return logits (B,). Raises ValueError for missing or unexpected labels."""
        check_labels(y, self.num_classes)
        h = self.head(self.basis(self.stages(self.from_image(x))).flatten(1))
        return h.squeeze(1) if self.embedding is None else (self.embedding(y) * h).sum(1)


class R3GANBlock(nn.Module):
    """Residual block x + contract(act(spatial(act(expand(x))))) from (B, C, H, W) to (B, C, H, W).

    The three convolutions are 1x1, grouped 3x3 and 1x1. They are initialized as in Fixup (Zhang et al., ICLR 2019) for
    a network with `num_blocks` blocks: the first two are scaled by num_blocks^(-1/4). Fixup initializes the last one to
    0. Here it has a small random weight instead, because normalizations that divide by the norm would return NaN for 0.
    `activation` replaces LeakyReLU.
    """

    def __init__(self, width: int, group_size: int, num_blocks: int, activation: nn.Module | None = None):
        super().__init__()
        hidden = EXPANSION * width
        if hidden % group_size:
            raise ValueError(
                f"group_size={group_size} must divide the {hidden} hidden channels of a block ({EXPANSION} * width)"
            )
        self.expand = nn.Conv2d(width, hidden, 1)
        self.spatial = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden // group_size)
        self.contract = nn.Conv2d(hidden, width, 1, bias=False)
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE) if activation is None else activation
        gain = nn.init.calculate_gain("leaky_relu", NEGATIVE_SLOPE) * num_blocks**-0.25
        _init_msr(self.expand, gain)
        _init_msr(self.spatial, gain)
        _init_msr(self.contract, 1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of x and the residual branch."""
        h = self.activation(self.expand(x))
        h = self.activation(self.spatial(h))
        return x + self.contract(h)


class _Resampler(nn.Module):
    """Base class that holds the separable bilinear kernel, the outer product of [1, 3, 3, 1] / 8 with itself."""

    kernel: Tensor

    def __init__(self):
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(row, row), persistent=False)

    def expand_kernel(self, x: Tensor) -> Tensor:
        """Return the kernel for a depthwise convolution of x (B, C, H, W), with shape (C, 1, 4, 4)."""
        return self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)


class BilinearUp(_Resampler):
    """Bilinear upsampling from (B, C, H, W) to (B, C, 2H, 2W) with zero padding."""

    def forward(self, x: Tensor) -> Tensor:
        """Upsample x by a factor of 2."""
        return F.conv_transpose2d(x, 4 * self.expand_kernel(x), stride=2, padding=1, groups=x.shape[1])

    def lipschitz_bound(self, input_shape: Sequence[int]) -> float:
        """Return 2, the operator norm without boundaries. It is 4 times the norm of `BilinearDown`."""
        return 2.0


class BilinearDown(_Resampler):
    """Bilinear downsampling from (B, C, H, W) to (B, C, H / 2, W / 2). It is 1/4 of the adjoint of `BilinearUp`."""

    def forward(self, x: Tensor) -> Tensor:
        """Downsample x by a factor of 2."""
        return F.conv2d(x, self.expand_kernel(x), stride=2, padding=1, groups=x.shape[1])

    def lipschitz_bound(self, input_shape: Sequence[int]) -> float:
        """Return 1 / 2, the operator norm without boundaries.

        The kernel is separable. Along each axis its polyphase components [1, 3] / 8 and [3, 1] / 8 have frequency
        responses whose squared magnitudes sum to (20 + 12 cos w) / 64 <= 1 / 2.
        """
        return 0.5


def _init_msr(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> None:
    """Initialize the weights from N(0, gain² / fan_in) and the biases to 0."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
