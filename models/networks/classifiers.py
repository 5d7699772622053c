"""torchvision's residual networks (He et al., CVPR 2016) as classifiers of images of any size and channels."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from models.networks.base import CLASSIFIERS, ClassifierConfig, ImageShape
from models.ranges import AT_LEAST_1

FULL_WIDTH = 64  # channels of the first stage of torchvision's networks


@dataclass(frozen=True, kw_only=True)
class ResNetClassifierConfig(ClassifierConfig):
    """Base of all sizes: torchvision's `ResNet`, its stem and its width changed where the options say so.

    With `activation_norm: none` its convolutions have neither norm nor bias after them.
    """

    block: ClassVar[type[BasicBlock | Bottleneck]]
    blocks: ClassVar[tuple[int, int, int, int]]

    stem: Literal["cifar", "imagenet"] = "cifar"
    """cifar: a 3x3 convolution of stride 1; imagenet: torchvision's own, 7x7 of stride 2, then max pooling"""
    width: Annotated[int, AT_LEAST_1] = FULL_WIDTH
    """Channels of the first stage; each later one has twice as many"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the classifier for `image`, initialized as torchvision does; ValueError without classes."""
        if image.num_classes is None:
            raise ValueError("a classifier needs the number of classes")

        def scaled(channels: int) -> int:
            return channels * self.width // FULL_WIDTH

        network = ResNet(
            self.block,
            list(self.blocks),
            image.num_classes,
            norm_layer=lambda channels: self.activation_norm.build(scaled(channels)),
        )
        for path, conv in list(network.named_modules()):
            if isinstance(conv, nn.Conv2d):
                inputs = image.channels if path == "conv1" else scaled(conv.in_channels)
                network.set_submodule(path, _with_channels(conv, inputs, scaled(conv.out_channels)))
        if self.stem == "cifar":
            network.conv1 = _with_channels(nn.Conv2d(3, 64, 3, padding=1, bias=False), image.channels, self.width)
            network.set_submodule("maxpool", nn.Identity())
        network.fc = nn.Linear(scaled(network.fc.in_features), image.num_classes)
        return network


@CLASSIFIERS.register("resnet10")
@dataclass(frozen=True, kw_only=True)
class ResNet10Config(ResNetClassifierConfig):
    """One basic block a stage: for small images and little time."""

    block: ClassVar = BasicBlock
    blocks: ClassVar = (1, 1, 1, 1)


@CLASSIFIERS.register("resnet18")
@dataclass(frozen=True, kw_only=True)
class ResNet18Config(ResNetClassifierConfig):
    """ResNet-18: two basic blocks a stage."""

    block: ClassVar = BasicBlock
    blocks: ClassVar = (2, 2, 2, 2)


@CLASSIFIERS.register("resnet50")
@dataclass(frozen=True, kw_only=True)
class ResNet50Config(ResNetClassifierConfig):
    """ResNet-50: 3, 4, 6 and 3 bottleneck blocks."""

    block: ClassVar = Bottleneck
    blocks: ClassVar = (3, 4, 6, 3)


def _with_channels(conv: nn.Conv2d, inputs: int, outputs: int) -> nn.Conv2d:
    """Return such a convolution between other numbers of channels, initialized as torchvision does."""
    kernel_size, stride, padding = (cast(tuple[int, int], v) for v in (conv.kernel_size, conv.stride, conv.padding))
    new = nn.Conv2d(inputs, outputs, kernel_size, stride, padding, bias=False)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new
