"""DCGAN: layers for every resolution, initialization and conditional layers as in the papers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import ImageShape
from models.activation_norms.base import ClassConditional
from models.activation_norms.batch import BatchNormConfig
from models.networks.dcgan import DCGANDiscriminatorConfig, DCGANGeneratorConfig


@pytest.mark.parametrize("resolution", [16, 28, 32, 48, 64, 96, 128])
def test_resolutions(resolution):
    image = ImageShape(3, resolution)
    x = DCGANGeneratorConfig(width=2).build(image)(torch.randn(2, 128))
    assert x.shape == (2, 3, resolution, resolution)
    assert x.abs().max() <= 1
    assert DCGANDiscriminatorConfig(width=2).build(image)(x).shape == (2,)


@pytest.mark.parametrize("config", [DCGANGeneratorConfig(), DCGANDiscriminatorConfig()])
def test_unsupported_resolution_is_rejected(config):
    with pytest.raises(ValueError, match="33 x 33"):
        config.build(ImageShape(3, 33))


def test_layers_at_64_match_the_paper():
    # In the figure of the paper: from 1024 x 4 x 4 to 128 x 32 x 32, then 3 x 64 x 64.
    generator = DCGANGeneratorConfig(width=128, z_dim=100).build(ImageShape(3, 64))
    assert (generator.project.in_features, generator.project.out_features) == (100, 1024 * 4 * 4)
    assert [(up.in_channels, up.out_channels) for up in generator.ups] == [
        (1024, 512),
        (512, 256),
        (256, 128),
        (128, 3),
    ]
    assert all((up.kernel_size, up.stride) == ((4, 4), (2, 2)) for up in generator.ups)
    discriminator = DCGANDiscriminatorConfig().build(ImageShape(3, 64))
    assert [down.out_channels for down in discriminator.downs] == [64, 128, 256, 512]
    assert len(discriminator.norms) == 3  # no norm after the first convolution


def test_variant_with_kernels_of_5_without_biases_and_norm_after_the_activation():
    """Compare with the layers of pytorch-gan-collections written out."""
    torch.manual_seed(0)
    image, options = ImageShape(3, 32), {"base_size": 2, "bias": False, "init": "pytorch"}
    generator = DCGANGeneratorConfig(z_dim=5, width=4, **options).build(image)
    assert [(up.in_channels, up.out_channels) for up in generator.ups] == [(32, 16), (16, 8), (8, 4), (4, 3)]
    assert all(layer.bias is None for layer in (generator.project, *generator.ups))
    z = torch.randn(6, 5)
    first = nn.ConvTranspose2d(5, 32, 2, bias=False)
    assert generator.project.weight.abs().max().item() == pytest.approx(first.weight.abs().max().item(), rel=0.05)
    first.weight.data = generator.project.weight.data.t().reshape(5, 32, 2, 2)
    h = first(z[:, :, None, None])
    for up in generator.ups:
        h = up(nn.BatchNorm2d(h.shape[1])(h).relu())
    torch.testing.assert_close(generator(z), h.tanh())

    norm = BatchNormConfig()
    config = DCGANDiscriminatorConfig(width=4, kernel_size=5, norm_last=True, activation_norm=norm, **options)
    discriminator = config.build(image)
    assert all((down.kernel_size, down.padding, down.bias) == ((5, 5), (2, 2), None) for down in discriminator.downs)
    x = torch.randn(6, 3, 32, 32)
    h = F.leaky_relu(discriminator.downs[0](x), 0.2)
    for down in discriminator.downs[1:]:
        h = F.leaky_relu(down(h), 0.2)
        h = nn.BatchNorm2d(h.shape[1])(h)
    torch.testing.assert_close(discriminator(x), discriminator.head.linear(h.flatten(1))[:, 0])
    assert discriminator.head.linear.weight.shape == (1, 32 * 2 * 2)
    assert discriminator.head.linear.bias.any()
    for down in discriminator.downs:  # as nn.Conv2d initializes
        assert down.weight.abs().max().item() == pytest.approx(down.weight[0].numel() ** -0.5, rel=0.05)


def test_initialization():
    for network in (
        DCGANGeneratorConfig().build(ImageShape(3, 32, 10)),
        DCGANDiscriminatorConfig().build(ImageShape(3, 32, 10)),
    ):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
                assert not getattr(module, "bias", torch.zeros(1)).any()


def test_conditional_layers():
    image = ImageShape(3, 32, num_classes=10)
    generator = DCGANGeneratorConfig(width=4).build(image)
    assert all(isinstance(norm, ClassConditional) for norm in generator.norms)
    discriminator = DCGANDiscriminatorConfig(width=4).build(image)
    # The embedding has as many entries as the flattened feature map, which is also the input of the linear head.
    assert discriminator.head.embedding.weight.shape == (10, 16 * 4 * 4)
    assert discriminator.head.linear.in_features == 16 * 4 * 4
