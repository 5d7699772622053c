"""BigGAN: structure, outputs and numbers of parameters as in the authors' code, options, initialization."""

import pytest
import torch
from torch import nn

from models import ImageShape, build_discriminator
from models.activation_norms.base import ActivationNorm, ClassConditional
from models.networks.biggan import BigGANDiscriminatorConfig, BigGANGeneratorConfig, Conditional
from models.networks.layers import SelfAttention
from models.networks.resnet import UpBlock
from models.normalizations.spectral import SpectralNorm


def count_parameters(config, image: ImageShape) -> int:
    with torch.device("meta"):  # without initial weights
        return sum(parameter.numel() for parameter in config.build(image).parameters())


# BigGAN.py at commit 9845943 of ajbrock/BigGAN-PyTorch, with G_shared and hier: resolution, width, z_dim, classes,
# G_attn, D_attn, parameters of both. The first is the network of launch_BigGAN_bs256x8.sh, the others are narrow ones.
COUNTS = [
    (128, 96, 120, 1000, 64, 64, 70_433_988, 87_982_370),
    (32, 8, 120, 10, 16, None, 138_692, 67_169),
    (64, 8, 120, 10, 16, 32, 705_956, 307_690),
    (256, 8, 119, 10, 16, 32, 807_076, 682_074),
]


@pytest.mark.parametrize(("side", "width", "z_dim", "classes", "attention_G", "attention_D", *"GD"), COUNTS)
def test_parameter_counts_are_those_of_the_authors_code(side, width, z_dim, classes, attention_G, attention_D, G, D):
    image = ImageShape(3, side, classes)
    generator = BigGANGeneratorConfig(width=width, z_dim=z_dim, attention=attention_G)
    assert count_parameters(generator, image) == G
    assert count_parameters(BigGANDiscriminatorConfig(width=width, attention=attention_D), image) == D


def fill_with_sines(network: nn.Module) -> nn.Module:
    network.double()
    for i, parameter in enumerate(network.parameters()):
        parameter.data = 0.3 * sines(*parameter.shape, shift=i)
    return network


def sines(*shape, shift=0):
    return torch.sin(torch.arange(1.0, torch.Size(shape).numel() + 1, dtype=torch.float64).square() + shift).view(shape)


def test_outputs_are_those_of_the_authors_code():
    """BigGAN.py at commit 9845943, without spectral norm, with the same weights in double precision, in training mode.

    G has attention at 16. D has none, since that code would attend after each of the four blocks.
    """
    image, y = ImageShape(3, 32, 3), torch.tensor([0, 2, 1])
    G = fill_with_sines(BigGANGeneratorConfig(width=2, z_dim=8, embedding_dim=4, attention=16).build(image))
    x = G(sines(3, 8), y)
    expected = torch.tensor([0.08253723096828765, 0.07661213810291063, -0.017825653223770374], dtype=torch.float64)
    torch.testing.assert_close(x[0, 0, 10, 10:13], expected, rtol=1e-9, atol=0)
    assert x.norm().item() == pytest.approx(23.331403992753938, rel=1e-9)

    D = fill_with_sines(BigGANDiscriminatorConfig(width=2).build(image))
    expected = torch.tensor([153.83172460872686, -40.890574610162844, 373.5114614966359], dtype=torch.float64)
    torch.testing.assert_close(D(sines(3, 3, 32, 32), y), expected, rtol=1e-9, atol=0)


def conditions_of_blocks(G: nn.Module, z: torch.Tensor, y: torch.Tensor | None) -> list[torch.Tensor]:
    seen = []
    for block in G.blocks:
        block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    G(z, y)
    return seen


def test_each_block_gets_the_shared_embedding_and_its_own_chunk():
    z, y = torch.randn(2, 10), torch.tensor([2, 0])
    G = BigGANGeneratorConfig(width=2, z_dim=10, embedding_dim=5).build(ImageShape(3, 32, 3))
    # The remainder of 10 / 4 belongs to the first chunk.
    assert G.project.in_features == 4
    expected = [torch.cat([G.embedding.weight[y], z[:, i : i + 2]], dim=1) for i in (4, 6, 8)]
    for seen, condition in zip(conditions_of_blocks(G, z, y), expected, strict=True):
        assert torch.equal(seen, condition)
    unconditional = BigGANGeneratorConfig(width=2, z_dim=10).build(ImageShape(3, 32))
    assert [c.shape for c in conditions_of_blocks(unconditional, z, None)] == [(2, 2)] * 3


def test_scale_and_shift_of_the_condition():
    norm, x, c = Conditional(nn.Identity(), 3, 2), torch.randn(4, 3, 5, 5), torch.randn(4, 2)
    scale, shift = torch.einsum("ck,bk->bc", norm.scale.weight, c), torch.einsum("ck,bk->bc", norm.shift.weight, c)
    torch.testing.assert_close(norm(x, c), (1 + scale)[:, :, None, None] * x + shift[:, :, None, None])


def test_without_hierarchical_latents_each_norm_has_a_table():
    image, z = ImageShape(3, 32, 3), torch.randn(2, 8)
    G = BigGANGeneratorConfig(width=2, z_dim=8, hierarchical=False).build(image)
    blocks = [block for block in G.blocks if isinstance(block, UpBlock)]
    assert all(isinstance(norm, ClassConditional) for block in blocks for norm in (block.norm1, block.norm2))
    assert not any(isinstance(module, nn.Embedding | Conditional) for module in G.modules())
    assert G.project.in_features == 8
    assert all(y.tolist() == [1, 2] for y in conditions_of_blocks(G, z, torch.tensor([1, 2])))


@pytest.mark.parametrize("init", ["orthogonal", "normal"])
def test_initialization(init):
    torch.manual_seed(0)
    image = ImageShape(3, 32, 10)
    networks = [
        config(width=4, init=init, **options).build(image)
        for config, options in (
            (BigGANGeneratorConfig, {}),
            (BigGANGeneratorConfig, {"hierarchical": False}),
            (BigGANDiscriminatorConfig, {}),
        )
    ]
    for network in networks:
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
                weights = [module.weight]
            elif isinstance(module, ClassConditional):
                weights = [module.weight - 1, module.bias]
            else:
                continue
            for weight in weights:
                matrix = weight.flatten(1)
                if init == "normal":
                    assert weight.std(correction=0).item() == pytest.approx(0.02, rel=0.3), name
                else:
                    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
                    torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("side", "after"), [(16, (1, 0)), (8, (0, 1))])
def test_attention_follows_the_first_block_of_its_resolution(side, after):
    for config, index in zip((BigGANGeneratorConfig, BigGANDiscriminatorConfig), after, strict=True):
        network = config(width=2, attention=side).build(ImageShape(3, 32))
        assert [i for i, block in enumerate(network.blocks) if isinstance(block, SelfAttention)] == [index + 1]
        inputs = torch.randn(2, 128) if config is BigGANGeneratorConfig else torch.randn(2, 3, 32, 32)
        sides = []
        network.blocks[index + 1].register_forward_hook(
            lambda module, inputs, output, sides=sides: sides.append(output.shape[-1])
        )
        network(inputs)
        assert sides == [side]


def test_rectified_shortcuts():
    """In StudioGAN, the ReLU of all blocks but the first one changes the input of the shortcut in place."""
    for rectified in (False, True):
        D = BigGANDiscriminatorConfig(width=2, rectified_shortcuts=rectified).build(ImageShape(3, 32))
        assert [block.rectified_shortcut for block in D.blocks] == [False, *[rectified] * 3]


@pytest.mark.parametrize(
    ("config", "side", "message"),
    [
        (BigGANGeneratorConfig(z_dim=3), 32, "z_dim=3 must be at least 4"),
        (BigGANGeneratorConfig(), 33, "no network for 33 x 33 images"),
        (BigGANDiscriminatorConfig(), 512, "no biggan network for 512 x 512 images; the largest has 256 x 256"),
        (BigGANGeneratorConfig(attention=4), 32, r"resolution 4 \(choices: 8, 16, 32\)"),
    ],
)
def test_what_does_not_fit_is_an_error(config, side, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        config.build(ImageShape(3, side))


def test_activation_norm_that_always_scales_is_an_error():
    class Scaling(ActivationNorm):
        def build(self, channels, num_classes=None):
            return nn.BatchNorm2d(channels)

    with pytest.raises(ValueError, match="Scaling has no form without scale and shift"):
        BigGANGeneratorConfig(activation_norm=Scaling()).build(ImageShape(3, 16))


def test_spectral_norm_is_finite_at_initialization():
    options = BigGANDiscriminatorConfig(width=2, attention=8, normalization=SpectralNorm())
    assert build_discriminator(options, ImageShape(3, 16))(torch.randn(2, 3, 16, 16)).isfinite().all()
