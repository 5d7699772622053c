"""R3GAN: structure, initialization and resampling as in the authors' code."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import ImageShape, build_discriminator, build_generator
from models.activation_norms.batch import BatchNormConfig
from models.networks.r3gan import BilinearDown, BilinearUp, R3GANBlock, R3GANDiscriminatorConfig, R3GANGeneratorConfig
from models.normalizations.spectral import SpectralNorm

SMALL = {"width": 16, "blocks": 1, "group_size": 8}


def test_parameter_counts():
    # The authors' networks for CIFAR-10: widths 4 x 768, cardinalities 4 x 96, blocks 4 x 2, expansion 2, z_dim 64.
    for classes, expected in ((None, (20_732_160, 20_683_776)), (10, (20_781_952, 21_280_512))):
        with torch.device("meta"):
            image = ImageShape(3, 32, classes)
            networks = R3GANGeneratorConfig().build(image), R3GANDiscriminatorConfig().build(image)
        assert tuple(sum(p.numel() for p in network.parameters()) for network in networks) == expected


def test_stages():
    with torch.device("meta"):
        generator = R3GANGeneratorConfig().build(ImageShape(3, 32))
        discriminator = R3GANDiscriminatorConfig().build(ImageShape(3, 32))
    assert [[type(m) for m in stage] for stage in generator.stages] == [
        [R3GANBlock] * 2,
        *[[BilinearUp, R3GANBlock, R3GANBlock]] * 3,
    ]
    assert [[type(m) for m in stage] for stage in discriminator.stages] == [
        *[[R3GANBlock, R3GANBlock, BilinearDown]] * 3,
        [R3GANBlock] * 2,
    ]
    block = generator.stages[0][0]
    assert (block.expand.out_channels, block.spatial.groups, block.spatial.kernel_size) == (1536, 96, (3, 3))
    assert [layer.bias is not None for layer in (block.expand, block.spatial, block.contract)] == [True, True, False]
    assert generator.basis.shape == (768, 4, 4)
    assert (discriminator.basis.groups, discriminator.basis.kernel_size) == (768, (4, 4))


def test_initialization():
    num_blocks = 3 * 2
    for config in (R3GANGeneratorConfig, R3GANDiscriminatorConfig):
        network = config(width=64, blocks=2).build(ImageShape(3, 16))
        gain = math.sqrt(2 / (1 + 0.2**2)) * num_blocks**-0.25
        for block in (m for m in network.modules() if isinstance(m, R3GANBlock)):
            assert block.expand.weight.std().item() == pytest.approx(gain / math.sqrt(64), rel=0.05)
            assert block.spatial.weight.std().item() == pytest.approx(gain / math.sqrt(16 * 9), rel=0.05)
            assert not block.expand.bias.any()
            x = torch.randn(1, 64, 4, 4)
            residual = block(x) - x
            assert 0 < residual.norm() < 1e-3 * x.norm()


def test_spectral_norm_is_finite_at_initialization():
    for build, config, inputs in (
        (build_generator, R3GANGeneratorConfig, torch.randn(2, 64)),
        (build_discriminator, R3GANDiscriminatorConfig, torch.randn(2, 3, 16, 16)),
    ):
        network = build(config(**SMALL, normalization=SpectralNorm()), ImageShape(3, 16))
        assert network(inputs).isfinite().all()


def test_block_matches_its_formula():
    block, x = R3GANBlock(8, group_size=4, num_blocks=1), torch.randn(2, 8, 5, 5)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    h = torch.einsum("oi,bihw->bohw", block.expand.weight[:, :, 0, 0], x) + block.expand.bias[:, None, None]
    h = torch.where(h > 0, h, 0.2 * h)
    groups = zip(h.split(4, dim=1), block.spatial.weight.split(4), strict=True)
    h = torch.cat([F.conv2d(part, weight, padding=1) for part, weight in groups], dim=1)
    h = h + block.spatial.bias[:, None, None]
    h = torch.where(h > 0, h, 0.2 * h)
    expected = x + torch.einsum("oi,bihw->bohw", block.contract.weight[:, :, 0, 0], h)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_upsampling_is_bilinear_with_zero_padding():
    x = torch.randn(2, 3, 5, 5)
    padded = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(BilinearUp()(x), padded[..., 2:-2, 2:-2])


def test_downsampling_is_a_quarter_of_the_adjoint_of_upsampling():
    up, down = BilinearUp().double(), BilinearDown().double()
    x, y = torch.randn(1, 3, 4, 4, dtype=torch.double), torch.randn(1, 3, 8, 8, dtype=torch.double)
    torch.testing.assert_close((up(x) * y).sum(), 4 * (x * down(y)).sum())
    assert down(torch.ones(1, 1, 8, 8, dtype=torch.double))[0, 0, 1, 1] == 1


def test_basis_is_modulated_by_the_latent():
    network, z = R3GANGeneratorConfig(**SMALL).build(ImageShape(3, 16)), torch.randn(2, 64)
    inputs_of_stages = []
    network.stages.register_forward_pre_hook(lambda module, inputs: inputs_of_stages.append(inputs[0]))
    network(z)
    expected = torch.einsum("chw,ci,bi->bchw", network.basis, network.project.weight, z)
    torch.testing.assert_close(inputs_of_stages[0], expected)


def test_conditional_logit_is_an_inner_product_with_the_embedding():
    network = R3GANDiscriminatorConfig(**SMALL).build(ImageShape(3, 16, 4))
    x, y = torch.randn(3, 3, 16, 16), torch.tensor([0, 3, 1])
    features = []
    network.head.register_forward_hook(lambda module, inputs, output: features.append(output))
    torch.testing.assert_close(network(x, y), torch.einsum("bc,bc->b", features[0], network.embedding.weight[y]))


def test_activation_norms_are_rejected():
    for config in (R3GANGeneratorConfig, R3GANDiscriminatorConfig):
        with pytest.raises(ValueError, match="activation_norm: none"):
            config(activation_norm=BatchNormConfig())


@pytest.mark.parametrize("resolution", [4, 12, 24, 33, 48])
@pytest.mark.parametrize("config", [R3GANGeneratorConfig(**SMALL), R3GANDiscriminatorConfig(**SMALL)])
def test_unsupported_resolution_is_rejected(config, resolution):
    with pytest.raises(ValueError, match="4 times a power of 2"):
        config.build(ImageShape(3, resolution))


def test_invalid_group_size_is_rejected():
    with pytest.raises(ValueError, match="group_size=5 must divide the 32 hidden channels"):
        R3GANGeneratorConfig(width=16, group_size=5).build(ImageShape(3, 16))


def test_larger_resolutions():
    for resolution in (32, 64):
        image = ImageShape(3, resolution)
        x = R3GANGeneratorConfig(**SMALL).build(image)(torch.randn(2, 64))
        assert x.shape == (2, 3, resolution, resolution)
        assert R3GANDiscriminatorConfig(**SMALL).build(image)(x).shape == (2,)
