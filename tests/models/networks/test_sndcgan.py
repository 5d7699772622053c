"""SNDCGAN: layers as in the table of Miyato et al. (2018), and the former name `sncnn`."""

import pytest
import torch
from torch import nn

from gan.config import Config
from gan.options.loader import dump_config, load_config, parse_config
from models import DISCRIMINATORS, GENERATORS, ImageShape
from models.networks.sndcgan import SNDCGANDiscriminatorConfig, SNDCGANGeneratorConfig


@pytest.mark.parametrize(("resolution", "base_size"), [(32, 4), (48, 6)])
def test_generator_matches_the_paper(resolution, base_size):
    network = SNDCGANGeneratorConfig().build(ImageShape(3, resolution))
    assert (network.project.in_features, network.project.out_features) == (128, base_size * base_size * 512)
    layers = [(type(c), c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in network.convs]
    assert layers == [
        (nn.ConvTranspose2d, 512, 256, 4, 2),
        (nn.ConvTranspose2d, 256, 128, 4, 2),
        (nn.ConvTranspose2d, 128, 64, 4, 2),
        (nn.Conv2d, 64, 3, 3, 1),
    ]
    assert [norm.num_features for norm in network.norms] == [512, 256, 128, 64]


PAPER = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
# In common/net.py of pfnet-research/chainer-gan-lib, and in pytorch-gan-collections
CODE = [(3, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]


@pytest.mark.parametrize(
    ("doubling", "channels", "resolution", "base_size"),
    [("3x3", PAPER, 32, 4), ("3x3", PAPER, 48, 6), ("4x4", CODE, 32, 4)],
)
def test_discriminator_matches_the_paper_or_the_code(doubling, channels, resolution, base_size):
    network = SNDCGANDiscriminatorConfig(doubling=doubling).build(ImageShape(3, resolution))
    kernels = [(3, 1), (4, 2), (3, 1), (4, 2), (3, 1), (4, 2), (3, 1)]  # side and stride
    assert [(c.in_channels, c.out_channels) for c in network.convs] == channels
    assert [(c.kernel_size[0], c.stride[0]) for c in network.convs] == kernels
    assert network.head.linear.in_features == base_size * base_size * 512
    assert network.activation.negative_slope == 0.1


@pytest.mark.parametrize("resolution", [16, 24, 32, 48, 64, 96])
def test_resolutions(resolution):
    image = ImageShape(3, resolution, num_classes=4)
    y = torch.tensor([0, 3])
    x = SNDCGANGeneratorConfig(width=2).build(image)(torch.randn(2, 128), y)
    assert x.shape == (2, 3, resolution, resolution)
    assert x.abs().max() <= 1
    assert SNDCGANDiscriminatorConfig(width=2).build(image)(x, y).shape == (2,)


@pytest.mark.parametrize("resolution", [8, 20, 33])
@pytest.mark.parametrize("config", [SNDCGANGeneratorConfig(), SNDCGANDiscriminatorConfig()])
def test_unsupported_resolution_is_rejected(config, resolution):
    with pytest.raises(ValueError, match="multiple of 8"):
        config.build(ImageShape(3, resolution))


def test_former_name_in_a_config():
    text = "generator: {name: sncnn, width: 8}\ndiscriminator: {name: sncnn, width: 4, normalization: spectral}\n"
    config = parse_config(Config, text, "old config")
    assert config == parse_config(Config, text.replace("sncnn", "sndcgan"), "new config")
    assert config.generator == SNDCGANGeneratorConfig(width=8)
    assert "sncnn" not in dump_config(config)
    assert parse_config(Config, dump_config(config), "dumped config") == config


def test_override_with_the_current_name_keeps_options_of_the_former_name(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("generator: {name: sncnn, width: 8}\n")
    assert load_config(Config, path, ["generator.name=sndcgan"]).generator == SNDCGANGeneratorConfig(width=8)


@pytest.mark.parametrize("registry", [GENERATORS, DISCRIMINATORS])
def test_former_name_is_not_listed(registry):
    assert "sndcgan" in list(registry)
    assert "sncnn" not in list(registry)
