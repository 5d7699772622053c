"""SN-CNN against table 3 of Miyato et al. (2018)."""

import pytest
import torch
from torch import nn

from models import ImageShape
from models.networks.sndcgan import SNCNNDiscriminatorConfig, SNCNNGeneratorConfig


@pytest.mark.parametrize(("resolution", "bottom"), [(32, 4), (48, 6)])
def test_generator_is_the_tables(resolution, bottom):
    network = SNCNNGeneratorConfig().build(ImageShape(3, resolution))
    assert (network.project.in_features, network.project.out_features) == (128, bottom * bottom * 512)
    layers = [(type(c), c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in network.convs]
    assert layers == [
        (nn.ConvTranspose2d, 512, 256, 4, 2),
        (nn.ConvTranspose2d, 256, 128, 4, 2),
        (nn.ConvTranspose2d, 128, 64, 4, 2),
        (nn.Conv2d, 64, 3, 3, 1),
    ]
    assert [norm.num_features for norm in network.norms] == [512, 256, 128, 64]


@pytest.mark.parametrize(("resolution", "bottom"), [(32, 4), (48, 6)])
def test_discriminator_is_the_tables(resolution, bottom):
    network = SNCNNDiscriminatorConfig().build(ImageShape(3, resolution))
    layers = [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in network.convs]
    assert layers == [
        (3, 64, 3, 1),
        (64, 64, 4, 2),
        (64, 128, 3, 1),
        (128, 128, 4, 2),
        (128, 256, 3, 1),
        (256, 256, 4, 2),
        (256, 512, 3, 1),
    ]
    assert network.head.linear.in_features == bottom * bottom * 512
    assert network.activation.negative_slope == 0.1


@pytest.mark.parametrize("resolution", [16, 24, 32, 48, 64, 96])
def test_resolutions(resolution):
    image = ImageShape(3, resolution, num_classes=4)
    y = torch.tensor([0, 3])
    x = SNCNNGeneratorConfig(width=2).build(image)(torch.randn(2, 128), y)
    assert x.shape == (2, 3, resolution, resolution)
    assert x.abs().max() <= 1
    assert SNCNNDiscriminatorConfig(width=2).build(image)(x, y).shape == (2,)


@pytest.mark.parametrize("resolution", [8, 20, 33])
@pytest.mark.parametrize("config", [SNCNNGeneratorConfig(), SNCNNDiscriminatorConfig()])
def test_an_impossible_side_is_refused(config, resolution):
    with pytest.raises(ValueError, match="multiple of 8"):
        config.build(ImageShape(3, resolution))
