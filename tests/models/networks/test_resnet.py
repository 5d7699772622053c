"""SNGAN-ResNet against the published tables and torch-mimicry's parameter counts."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import ImageShape
from models.activation_norms.base import ClassConditional
from models.activation_norms.none import NoActivationNorm
from models.networks.layers import SelfAttention
from models.networks.resnet import DownBlock, ResNetDiscriminatorConfig, ResNetGeneratorConfig, UpBlock

PARAMETERS = {  # of torch-mimicry's SNGANGenerator and SNGANDiscriminator, by resolution
    32: (4_276_739, 1_053_825),
    48: (4_878_083, 10_141_441),
    64: (12_220_675, 10_141_441),
    128: (32_150_787, 29_017_857),
}
WIDTHS = {  # of G from the smallest map, of D from the image; number of blocks of D that halve the resolution
    32: ([256, 256, 256, 256], [128, 128, 128, 128], 2),
    48: ([512, 256, 128, 64], [64, 128, 256, 512, 1024], 4),
    64: ([1024, 512, 256, 128, 64], [64, 128, 256, 512, 1024], 5),
    128: ([1024, 1024, 512, 256, 128, 64], [64, 128, 256, 512, 1024, 1024], 5),
}


def build_on_meta(config, image: ImageShape) -> nn.Module:
    with torch.device("meta"):
        return config.build(image)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("resolution", list(PARAMETERS))
def test_parameter_counts(resolution):
    image = ImageShape(3, resolution)
    networks = (build_on_meta(config, image) for config in (ResNetGeneratorConfig(), ResNetDiscriminatorConfig()))
    assert tuple(count(network) for network in networks) == PARAMETERS[resolution]


@pytest.mark.parametrize("resolution", list(WIDTHS))
def test_block_order(resolution):
    up, down, halvings = WIDTHS[resolution]
    image = ImageShape(3, resolution)
    generator = build_on_meta(ResNetGeneratorConfig(), image)
    assert generator.project.out_features == up[0] * generator.base_size**2
    assert generator.base_size == (6 if resolution == 48 else 4)
    assert [(b.shortcut.in_channels, b.conv1.out_channels, b.conv2.out_channels) for b in generator.blocks] == [
        (inputs, outputs, outputs) for inputs, outputs in pairwise(up)
    ]
    discriminator = build_on_meta(ResNetDiscriminatorConfig(), image)
    blocks = list(discriminator.blocks)
    assert [b.conv2.out_channels for b in blocks] == down
    # hidden = in_channels, except in the first block
    assert [b.conv1.out_channels for b in blocks] == [down[0], *down[:-1]]
    assert [b.halve for b in blocks] == [i < halvings for i in range(len(down))]
    assert [b.norm1 is None for b in blocks] == [True] + [False] * (len(down) - 1)
    assert [b.shortcut is None for b in blocks] == [
        not b.halve and b.conv1.in_channels == b.conv2.out_channels for b in blocks
    ]


@pytest.mark.parametrize("resolution", [8, 16, 24, 32, 48, 64, 96, 128])
def test_resolutions(resolution):
    image = ImageShape(3, resolution)
    x = ResNetGeneratorConfig(width=1).build(image)(torch.randn(2, 128))
    assert x.shape == (2, 3, resolution, resolution)
    assert x.abs().max() <= 1
    assert ResNetDiscriminatorConfig(width=1).build(image)(x).shape == (2,)


def test_unsupported_resolutions():
    for config in (ResNetGeneratorConfig(), ResNetDiscriminatorConfig()):
        with pytest.raises(ValueError, match="33 x 33"):
            config.build(ImageShape(3, 33))
    with pytest.raises(ValueError, match=r"56 is not divisible by 2\^4"):
        ResNetDiscriminatorConfig().build(ImageShape(3, 56))


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_up_block(mode):
    """Compare with the authors' order of operations: upsampling before the convolution of the shortcut."""
    block, x = UpBlock(4, 6, NoActivationNorm().build, upsample=mode), torch.randn(2, 4, 3, 3)

    def up(x):
        return nn.Upsample(scale_factor=2, mode=mode)(x)

    expected = block.conv2(block.conv1(up(x.relu())).relu()) + block.shortcut(up(x))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("halve", "first"), [(True, False), (False, False), (True, True)])
def test_down_block(halve, first):
    block, x = DownBlock(4, 6, NoActivationNorm(), halve, first), torch.randn(2, 4, 6, 6)
    before = x.clone()
    h = block.conv2(block.conv1(x if first else x.relu()).relu())
    shortcut = block.shortcut(x)
    expected = F.avg_pool2d(h, 2) + F.avg_pool2d(shortcut, 2) if halve else h + shortcut
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, before)  # an in-place ReLU would change the input of the shortcut


@pytest.mark.parametrize(("channels", "halve"), [(6, True), (6, False), (4, False)])
def test_rectified_shortcut(channels, halve):
    """Compare with the in-place ReLU of torch-mimicry, which changes the input of the shortcut."""
    block = DownBlock(4, channels, NoActivationNorm(), halve, rectified_shortcut=True)
    x = torch.randn(2, 4, 6, 6)
    changed = x.clone()
    h = block.conv2(block.conv1(F.relu(changed, inplace=True)).relu())
    shortcut = changed if block.shortcut is None else block.shortcut(changed)
    expected = F.avg_pool2d(h, 2) + F.avg_pool2d(shortcut, 2) if halve else h + shortcut
    torch.testing.assert_close(block(x), expected)


def test_first_shortcut_is_not_rectified():
    network = ResNetDiscriminatorConfig(width=4, rectified_shortcuts=True).build(ImageShape(3, 32))
    assert [block.rectified_shortcut for block in network.blocks] == [False, True, True, True]


def test_shortcut_is_the_identity_if_the_shape_is_kept():
    block, x = DownBlock(4, 4, NoActivationNorm(), halve=False), torch.randn(2, 4, 6, 6)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    assert torch.equal(block(x), x)


def test_discriminator_sums_features_over_the_map():
    network = ResNetDiscriminatorConfig(width=4).build(ImageShape(3, 16))
    seen = []
    network.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = network(torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(logits, network.head(seen[0].relu().flatten(2).sum(2)))


def test_discriminator_averages_features_over_the_map():
    image, x = ImageShape(3, 16), torch.randn(2, 3, 16, 16)
    summed, averaged = (ResNetDiscriminatorConfig(width=4, pooling=name).build(image) for name in ("sum", "mean"))
    averaged.load_state_dict(summed.state_dict())
    summed.head.linear.weight.data /= 4 * 4  # the positions of the last map
    torch.testing.assert_close(averaged(x), summed(x))


def test_initialization_of_pytorch():
    image = ImageShape(3, 32, 10)
    parts = ("biases", "shortcuts", "to_image")
    networks = (
        ResNetGeneratorConfig(width=64, pytorch_init=parts),
        ResNetDiscriminatorConfig(width=64, pytorch_init=parts[:2]),
    )
    for network in (config.build(image) for config in networks):
        for name, module in network.named_modules():
            if not isinstance(module, nn.Conv2d | nn.Linear):
                continue
            bound = module.weight[0].numel() ** -0.5
            assert 0 < module.bias.abs().max() <= bound, name
            as_pytorch = module.weight.abs().max() <= bound and module.weight.abs().max() > 0.95 * bound
            assert as_pytorch == name.endswith(("shortcut", "to_image")), name


def test_initialization():
    torch.manual_seed(0)  # for 3 % of all seeds, the largest of the head's 32 weights is below 0.9 of the bound
    networks = (ResNetGeneratorConfig(width=32), ResNetDiscriminatorConfig(width=32))
    for network in (config.build(ImageShape(3, 32, 10)) for config in networks):
        for name, module in network.named_modules():
            if not isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
                continue
            gain = math.sqrt(2) if name.endswith(("conv1", "conv2")) else 1
            taps = module.weight[0, 0].numel()
            bound = gain * math.sqrt(6 / (taps * sum(module.weight.shape[:2])))
            assert 0.9 * bound < module.weight.abs().max() <= bound, name
            assert not getattr(module, "bias", torch.zeros(1)).any(), name


def test_head_bias():
    image = ImageShape(3, 32)
    assert ResNetDiscriminatorConfig(width=4).build(image).head.linear.bias is not None
    assert ResNetDiscriminatorConfig(width=4, head_bias=False).build(image).head.linear.bias is None


def test_conditional_layers():
    image = ImageShape(3, 32, num_classes=10)
    generator = ResNetGeneratorConfig(width=4).build(image)
    assert all(isinstance(norm, ClassConditional) for block in generator.blocks for norm in (block.norm1, block.norm2))
    assert not isinstance(generator.norm, ClassConditional)
    # The projection head works on the sum-pooled features, not on a flattened map.
    assert ResNetDiscriminatorConfig(width=4).build(image).head.embedding.weight.shape == (10, 4)


@pytest.mark.parametrize(("resolution", "side", "after"), [(32, 16, (1, 0)), (32, 8, (0, 1)), (128, 32, (2, 1))])
def test_attention_follows_the_first_block_of_its_resolution(resolution, side, after):
    # At 128 x 128 with attention at 32, SAGAN has it at these positions.
    for config, index in zip((ResNetGeneratorConfig, ResNetDiscriminatorConfig), after, strict=True):
        network = config(width=8, attention=side).build(ImageShape(3, resolution))
        assert [i for i, block in enumerate(network.blocks) if isinstance(block, SelfAttention)] == [index + 1]
        sides = []
        network.blocks[index + 1].register_forward_hook(
            lambda module, inputs, output, sides=sides: sides.append(output.shape[-1])
        )
        network(torch.randn(2, 128) if config is ResNetGeneratorConfig else torch.randn(2, 3, resolution, resolution))
        assert sides == [side]


@pytest.mark.parametrize("config", [ResNetGeneratorConfig(attention=10), ResNetDiscriminatorConfig(attention=10)])
def test_attention_at_an_unknown_resolution(config):
    with pytest.raises(ValueError, match=r"resolution 10 \(choices: (8, 16|8, 16, 32)\)"):
        config.build(ImageShape(3, 32))


@pytest.mark.parametrize("config", [ResNetGeneratorConfig, ResNetDiscriminatorConfig])
def test_attention_is_initially_the_identity_and_learns(config):
    image = ImageShape(3, 16)
    network, plain = config(width=8, attention=8).build(image), config(width=8).build(image)
    (at,) = (i for i, block in enumerate(network.blocks) if isinstance(block, SelfAttention))
    without = nn.ModuleList(block for block in network.blocks if not isinstance(block, SelfAttention))
    plain.load_state_dict(
        {**network.state_dict(), **{f"blocks.{k}": v for k, v in without.state_dict().items()}}, strict=False
    )
    inputs = torch.randn(2, 128) if config is ResNetGeneratorConfig else torch.randn(2, 3, 16, 16)
    assert torch.equal(network(inputs), plain(inputs))
    nn.init.constant_(network.blocks[at].gamma.weight, 0.5)
    network(inputs).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.any(), name


def test_base_size():
    options = ResNetGeneratorConfig(width=4, z_dim=3, base_size=8)
    network = options.build(ImageShape(3, 32))
    assert network.project.out_features == 4 * 8 * 8
    assert len(network.blocks) == 2
    assert network(torch.zeros(2, 3)).shape == (2, 3, 32, 32)
