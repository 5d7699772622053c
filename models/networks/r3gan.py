"""R3GAN's network (Huang et al., NeurIPS 2024, section 3 and appendix) as used for 32 x 32 images.

The same width at every side from 4 x 4 up, without any norm of activations. A stage is two residual blocks at one side;
stages are joined by bilinear resampling, without convolution since the width stays. The defaults are the authors'
CIFAR-10 network; their FID also takes their loss, schedules, augmentation and budget.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.activation_norms import ActivationNorm
from models.activation_norms.none import NoActivationNorm
from models.networks.base import DISCRIMINATORS, GENERATORS, DiscriminatorConfig, GeneratorConfig, ImageShape
from models.networks.layers import check_labels
from models.ranges import SIZE, Range

BOTTOM = 4
EXPANSION = 2
SLOPE = 0.2  # of LeakyReLU


@dataclass(frozen=True, kw_only=True)
class R3GANOptions:
    """The options that both networks have. ValueError for an activation norm: it would have no place."""

    width: Annotated[int, SIZE] = 768
    """Channels of every map; the residual blocks have twice as many inside"""
    blocks: Annotated[int, Range(min=1, max=1000)] = 2
    """Residual blocks at each side"""
    group_size: Annotated[int, SIZE] = 16
    """Channels in a group of the 3x3 convolutions"""
    activation_norm: ActivationNorm = field(default_factory=NoActivationNorm)
    """Norm of activations: none, the architecture has no place for one"""

    def __post_init__(self):
        if not isinstance(self.activation_norm, NoActivationNorm):
            raise ValueError("r3gan has no norm of activations (Huang et al., 2024); set activation_norm: none")


@GENERATORS.register("r3gan")
@dataclass(frozen=True, kw_only=True)
class R3GANGeneratorConfig(R3GANOptions, GeneratorConfig):
    """A learned 4x4 basis weighted by z, residual blocks and bilinear upsampling, 1x1 convolution, no tanh."""

    z_dim: Annotated[int, SIZE] = 64
    """Dimension of the latent z, drawn from N(0, I)"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the generator for `image`."""
        return R3GANGenerator(image, self.z_dim, self.width, self.blocks, self.group_size)


@DISCRIMINATORS.register("r3gan")
@dataclass(frozen=True, kw_only=True)
class R3GANDiscriminatorConfig(R3GANOptions, DiscriminatorConfig):
    """1x1 convolution, residual blocks and bilinear downsampling to 4x4, a depthwise 4x4 convolution, linear head."""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the discriminator for `image`."""
        return R3GANDiscriminator(image, self.width, self.blocks, self.group_size)


class R3GANGenerator(nn.Module):
    """z (B, z_dim), labels y (B,) of a conditional one -> images (B, C, H, W), unbounded as in the paper.

    Class-conditional: an embedding of the class, as long as z, is appended to z.
    """

    def __init__(self, image: ImageShape, z_dim: int, width: int, blocks: int, group_size: int):
        super().__init__()
        self.num_classes = image.num_classes
        halvings = _halvings(image.resolution)
        self.embedding = None if image.num_classes is None else nn.Embedding(image.num_classes, z_dim)
        self.basis = nn.Parameter(torch.randn(width, BOTTOM, BOTTOM))
        self.project = nn.Linear(z_dim if self.embedding is None else 2 * z_dim, width, bias=False)
        total = blocks * (halvings + 1)
        stages = [nn.Sequential(*(R3GANBlock(width, group_size, total) for _ in range(blocks)))]
        for _ in range(halvings):
            stages.append(nn.Sequential(BilinearUp(), *(R3GANBlock(width, group_size, total) for _ in range(blocks))))
        self.stages = nn.Sequential(*stages)
        self.to_image = nn.Conv2d(width, image.channels, 1, bias=False)
        for layer in (self.project, self.to_image):
            _init_msr(layer)
        if image.num_classes is not None and self.embedding is not None:  # the authors' linear layer on one-hot labels
            nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(image.num_classes))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Map z (B, z_dim), y (B,) to images (B, C, H, W); ValueError for labels that do not fit."""
        check_labels(y, self.num_classes)
        z = z if self.embedding is None else torch.cat([z, self.embedding(y)], dim=1)
        weights = self.project(z)[:, :, None, None]
        return self.to_image(self.stages(self.basis.to(weights.dtype) * weights))


class R3GANDiscriminator(nn.Module):
    """Images (B, C, H, W), labels y (B,) of a conditional one -> logits (B,).

    Class-conditional: the head has `width` outputs φ instead of one, and the logit is <e_y, φ>, a projection without
    the class-free term of Miyato & Koyama.
    """

    def __init__(self, image: ImageShape, width: int, blocks: int, group_size: int):
        super().__init__()
        self.num_classes = image.num_classes
        halvings = _halvings(image.resolution)
        total = blocks * (halvings + 1)
        self.from_image = nn.Conv2d(image.channels, width, 1, bias=False)
        stages = []
        for _ in range(halvings):
            stages.append(nn.Sequential(*(R3GANBlock(width, group_size, total) for _ in range(blocks)), BilinearDown()))
        stages.append(nn.Sequential(*(R3GANBlock(width, group_size, total) for _ in range(blocks))))
        self.stages = nn.Sequential(*stages)
        self.basis = nn.Conv2d(width, width, BOTTOM, groups=width, bias=False)
        self.head = nn.Linear(width, 1 if image.num_classes is None else width, bias=False)
        self.embedding = None if image.num_classes is None else nn.Embedding(image.num_classes, width)
        for layer in (self.from_image, self.basis, self.head):
            _init_msr(layer)
        if image.num_classes is not None and self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(width * image.num_classes))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W), y (B,) to logits (B,); ValueError for labels that do not fit."""
        check_labels(y, self.num_classes)
        h = self.head(self.basis(self.stages(self.from_image(x))).flatten(1))
        return h.squeeze(1) if self.embedding is None else (self.embedding(y) * h).sum(1)


class R3GANBlock(nn.Module):
    """x + contract(act(spatial(act(expand(x))))), (B, C, H, W) -> (B, C, H, W): 1x1, grouped 3x3 and 1x1 convolution.

    Initialized as Fixup (Zhang et al., ICLR 2019) for a network of `total` blocks: the first two convolutions scaled by
    total^(-1/4), the last one 0. Here that one is 10⁻⁴ of an ordinary one: a weight of 0 has no direction, and the
    normalizations that divide by its norm would make it NaN.
    """

    def __init__(self, width: int, group_size: int, total: int):
        super().__init__()
        inside = EXPANSION * width
        if inside % group_size:
            raise ValueError(
                f"group_size={group_size} must divide the {inside} channels inside a block (twice the width)"
            )
        self.expand = nn.Conv2d(width, inside, 1)
        self.spatial = nn.Conv2d(inside, inside, 3, padding=1, groups=inside // group_size)
        self.contract = nn.Conv2d(inside, width, 1, bias=False)
        self.activation = nn.LeakyReLU(SLOPE)
        gain = nn.init.calculate_gain("leaky_relu", SLOPE) * total**-0.25
        _init_msr(self.expand, gain)
        _init_msr(self.spatial, gain)
        _init_msr(self.contract, 1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus the residual."""
        h = self.activation(self.expand(x))
        h = self.activation(self.spatial(h))
        return x + self.contract(h)


class _Resampler(nn.Module):
    """Holds the kernel ([1, 3, 3, 1] / 8)², that is [1, 2, 1] * [1, 1]."""

    kernel: Tensor

    def __init__(self):
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(row, row), persistent=False)

    def _kernel(self, x: Tensor) -> Tensor:
        return self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)


class BilinearUp(_Resampler):
    """Doubles the side by bilinear interpolation: (B, C, H, W) -> (B, C, 2H, 2W). Zeros lie beyond the edge."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the enlarged map."""
        return F.conv_transpose2d(x, 4 * self._kernel(x), stride=2, padding=1, groups=x.shape[1])

    def lipschitz_bound(self, input_shape, get_bound) -> float:
        """Return 2, the norm on the infinite plane: 4 times that of the adjoint."""
        return 2.0


class BilinearDown(_Resampler):
    """Halves the side, the adjoint of `BilinearUp` over 4: (B, C, H, W) -> (B, C, H / 2, W / 2)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the reduced map."""
        return F.conv2d(x, self._kernel(x), stride=2, padding=1, groups=x.shape[1])

    def lipschitz_bound(self, input_shape, get_bound) -> float:
        """Return 1 / 2, the norm on the infinite plane.

        Along an axis the phases [1, 3] / 8 and [3, 1] / 8 have |.|² + |.|² = (20 + 12 cos w) / 64 <= 1 / 2.
        """
        return 0.5


def _init_msr(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> None:
    """Draw weights from N(0, gain² / fan_in) and set biases to 0."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _halvings(resolution: int) -> int:
    """Return log2(resolution / 4); ValueError when it is not a whole number of at least 1."""
    halvings = (resolution // BOTTOM).bit_length() - 1
    if halvings < 1 or BOTTOM * 2**halvings != resolution:
        raise ValueError(
            f"r3gan cannot make {resolution} x {resolution} images: the side must be 4 times a power of 2"
            " (16, 32, 64, ...)"
        )
    return halvings
