"""`Conv2d` as a layer of a network: hooks, copies, export, and the same state as `nn.Conv2d`."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import ImageShape
from models.kernels import Conv2d, conv_then_pool, plain_kernels, switch, upsample, upsample_then_conv
from models.networks.resnet import ResNetDiscriminatorConfig, ResNetGeneratorConfig
from models.normalizations import build_normalization
from tests.pairwise import pairwise_cover

HOOKS = [f"register_{name}_hook" for name in ("forward", "forward_pre", "full_backward", "full_backward_pre")]


def build_pair(normalization: str = "none") -> nn.Sequential:
    torch.manual_seed(0)
    image = ImageShape(3, 32)
    D = build_normalization(normalization).apply(ResNetDiscriminatorConfig(width=8).build(image))
    return nn.Sequential(ResNetGeneratorConfig(width=8, z_dim=6).build(image), D).to(memory_format=torch.channels_last)


def fast_layers(network: nn.Module) -> list[Conv2d]:
    return [module for module in network.modules() if isinstance(module, Conv2d)]


@pytest.mark.parametrize(
    ("register", "amp", "normalization"),
    pairwise_cover([*itertools.product(HOOKS, [False, True], ["none", "spectral"])]),
)
def test_hooks_are_called_and_change_no_bit(register, amp, normalization, winograd_everywhere):
    pair, z = build_pair(normalization), torch.randn(4, 6)

    def results(network):
        network = copy.deepcopy(network)
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            images = network[0](z)
            logits = network[1](images)
        return [images, logits, *torch.autograd.grad(logits.float().square().sum(), list(network.parameters()))]

    expected = results(pair)
    with plain_kernels():
        assert not torch.equal(results(pair)[0], expected[0])  # the fast algorithms are in use
    calls = []
    layers = fast_layers(pair)
    for layer in layers:
        getattr(layer, register)(lambda *args: calls.append(args[0]))
    hooked = results(pair)
    assert len(calls) == len(layers) == 14  # 3 blocks of G and 4 of D, with two layers each
    for a, b in zip(hooked, expected, strict=True):
        assert torch.equal(a, b)


def test_hooks_get_the_input_and_output_of_the_call():
    layer, x, calls = Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 8, 8), []
    layer.register_forward_hook(lambda module, inputs, output: calls.append((*inputs, output)))
    outputs = [conv_then_pool(layer, x), upsample_then_conv(layer, x)]
    for (given, returned), output in zip(calls, outputs, strict=True):
        assert given is x
        assert returned is output
    calls.clear()
    with plain_kernels():  # the convolution's own input and output
        conv_then_pool(layer, x)
        upsample_then_conv(layer, x)
    assert [(a.shape[-1], b.shape[-1]) for a, b in calls] == [(8, 8), (16, 16)]


def test_same_state_and_initialization_as_nn_conv2d():
    layers = []
    for conv_type in (Conv2d, nn.Conv2d):
        torch.manual_seed(0)
        layers.append(conv_type(4, 6, 3, padding=1))
    assert isinstance(layers[0], nn.Conv2d)
    states = [layer.state_dict() for layer in layers]
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(layers[0](x), layers[1](x))


@pytest.mark.parametrize("normalization", ["none", "spectral", "spectral_conv", "weight", "conv_norm"])
def test_deepcopy_of_a_normalized_network(normalization):
    pair, z = build_pair(normalization).eval(), torch.randn(2, 6)
    assert torch.equal(copy.deepcopy(pair)(z), pair(z))


@pytest.mark.slow
def test_torch_export():
    generator, z = build_pair()[0].eval(), torch.randn(3, 6)
    batch = torch.export.Dim("batch")
    program = torch.export.export(generator, (z,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(z[:2]), generator(z[:2]))


def test_plain_kernels_is_restored(recorded_strides):
    layer, x = Conv2d(4, 4, 3, padding=1), torch.randn(2, 4, 8, 8)
    with plain_kernels():
        with pytest.raises(ValueError, match="inside"), plain_kernels():
            raise ValueError("inside")
        assert recorded_strides(conv_then_pool, layer, x) == [(1, 1)]
    assert recorded_strides(conv_then_pool, layer, x) == [(2, 2)]


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_upsampling_in_channels_last(mode, memory_format, monkeypatch):
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    expected = F.interpolate(x, scale_factor=2, mode=mode)
    cotangent = torch.randn_like(expected)
    monkeypatch.setattr(switch, "channels_last_is_faster", lambda x: True)
    y = upsample(x, mode)
    assert torch.equal(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    gradients = (torch.autograd.grad(output, x, cotangent) for output in (y, expected))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
