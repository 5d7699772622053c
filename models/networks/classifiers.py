"""Residual networks (He et al., CVPR 2016) from torchvision, as classifiers for images of any size and channels."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

from torch import nn

from models.networks.base import CLASSIFIERS, ClassifierConfig, ImageShape
from models.ranges import AT_LEAST_1

TORCHVISION_WIDTH = 64  # channels of the first stage of torchvision's networks


@dataclass(frozen=True, kw_only=True)
class ResNetClassifierConfig(ClassifierConfig):
    """Base class of the residual networks: torchvision's `ResNet` with a configurable stem and width.

    The convolutions have no bias, even with `activation_norm: none`.
    """

    block: ClassVar[Literal["BasicBlock", "Bottleneck"]]
    blocks: ClassVar[tuple[int, int, int, int]]

    stem: Literal["cifar", "imagenet"] = "cifar"
    """cifar: a 3x3 convolution with stride 1; imagenet: torchvision's 7x7 convolution with stride 2 and max pooling"""
    width: Annotated[int, AT_LEAST_1] = TORCHVISION_WIDTH
    """Channels of the first stage; each later stage has twice as many"""
    init: Literal["torchvision", "pytorch"] = "torchvision"
    """Initialization of the convolutions: He normal as in torchvision, or that of PyTorch's layers"""

    def build(self, image: ImageShape) -> nn.Module:
        """Return the initialized classifier for `image`.

        Raises ValueError if `image` has no number of classes.
        """
        if image.num_classes is None:
            raise ValueError("a classifier needs the number of classes")
        from torchvision.models import resnet  # late, because this import takes seconds

        def scale(channels: int) -> int:
            return channels * self.width // TORCHVISION_WIDTH

        network = resnet.ResNet(
            getattr(resnet, self.block),
            list(self.blocks),
            image.num_classes,
            norm_layer=lambda channels: self.activation_norm.build(scale(channels)),
        )
        # torchvision's ResNet has a fixed width and 3 input channels, so replace its convolutions and its linear layer.
        for name, conv in list(network.named_modules()):
            if isinstance(conv, nn.Conv2d):
                in_channels = image.channels if conv is network.conv1 else scale(conv.in_channels)
                network.set_submodule(name, _replace_channels(conv, in_channels, scale(conv.out_channels)))
        if self.stem == "cifar":
            conv = nn.Conv2d(3, TORCHVISION_WIDTH, 3, padding=1, bias=False)
            network.conv1 = _replace_channels(conv, image.channels, self.width)
            network.set_submodule("maxpool", nn.Identity())
        network.fc = nn.Linear(scale(network.fc.in_features), image.num_classes)
        if self.init == "pytorch":
            for conv in network.modules():
                if isinstance(conv, nn.Conv2d):
                    conv.reset_parameters()
        return network


@CLASSIFIERS.register("resnet10")
@dataclass(frozen=True, kw_only=True)
class ResNet10Config(ResNetClassifierConfig):
    """ResNet-10: one basic block per stage, for small images and short training."""

    block: ClassVar = "BasicBlock"
    blocks: ClassVar = (1, 1, 1, 1)


@CLASSIFIERS.register("resnet18")
@dataclass(frozen=True, kw_only=True)
class ResNet18Config(ResNetClassifierConfig):
    """ResNet-18: two basic blocks per stage."""

    block: ClassVar = "BasicBlock"
    blocks: ClassVar = (2, 2, 2, 2)


@CLASSIFIERS.register("resnet50")
@dataclass(frozen=True, kw_only=True)
class ResNet50Config(ResNetClassifierConfig):
    """ResNet-50: 3, 4, 6 and 3 bottleneck blocks per stage."""

    block: ClassVar = "Bottleneck"
    blocks: ClassVar = (3, 4, 6, 3)


def _replace_channels(conv: nn.Conv2d, in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a convolution like `conv` with different channels, initialized as in torchvision."""
    kernel_size, stride, padding = (cast(tuple[int, int], v) for v in (conv.kernel_size, conv.stride, conv.padding))
    new = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new
