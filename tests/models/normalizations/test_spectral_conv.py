"""spectral_conv: the norm of the normalized convolution against a dense SVD."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.normalizations import build_normalization
from tests.pairwise import pairwise_cover

GRID = 8


def spectral_conv(layer, **options):
    return build_normalization("spectral_conv", **{"grid": GRID, **options}).normalize(layer)


def norm(matrix):
    return torch.linalg.matrix_norm(matrix, 2).item()


def train(layer, shape, steps=30, lr=2e-3, optimizer=torch.optim.Adam):
    optimizer = optimizer(layer.parameters(), lr=lr)
    x, target = torch.randn(8, *shape), torch.randn_like(layer(torch.zeros(8, *shape)))
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(layer(x), target).backward()
        optimizer.step()


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2]))
    kernel = draw(st.sampled_from([1, 2, 3, 4, (1, 3), (3, 1), (2, 3)]))
    stride = draw(st.sampled_from([1, 2, (1, 2)]))
    dilation = draw(st.sampled_from([1, 1, 2]))
    channels = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    torch.manual_seed(draw(st.integers(0, 1000)))
    return nn.Conv2d(
        *channels, kernel, stride, 1, dilation, groups, padding_mode="circular", bias=False, dtype=torch.float64
    )


@given(convolutions())
@settings(max_examples=20, deadline=None, derandomize=True)
def test_new_layer_has_norm_gain_on_its_grid(conv):
    sh, sw = conv.stride
    layer = spectral_conv(conv, gain=1.5).eval()
    side = (GRID * sh, GRID * sw)
    # Padded so that there is one output per stride, which is the circular operator for any padding of `conv`.
    kernel_size = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    basis = torch.eye(conv.in_channels * side[0] * side[1], dtype=torch.float64).view(-1, conv.in_channels, *side)
    padded = F.pad(basis, (0, max(0, kernel_size[1] - sw), 0, max(0, kernel_size[0] - sh)), mode="circular")
    with torch.no_grad():
        out = F.conv2d(padded, layer.weight, None, conv.stride, 0, conv.dilation, conv.groups)[..., :GRID, :GRID]
    assert norm(out.flatten(1)) == pytest.approx(1.5, rel=1e-3)


@pytest.mark.parametrize(
    ("kernel", "stride", "optimizer"),
    pairwise_cover([*itertools.product([3, 4], [1, 2], [torch.optim.Adam, torch.optim.SGD])]),
)
def test_norm_is_the_gain_after_training(dense_matrix, kernel, stride, optimizer):
    torch.manual_seed(0)
    circular = nn.Conv2d(6, 8, kernel, stride, (kernel - 1) // 2, padding_mode="circular")
    layer = spectral_conv(circular, gain=2.0)
    shape = (6, GRID * stride, GRID * stride)
    before = layer.weight.detach().clone()
    train(layer, shape, optimizer=optimizer, lr=2e-3 if optimizer is torch.optim.Adam else 0.1)
    assert (layer.weight - before).norm() > 0.05 * before.norm()
    layer.double().eval()
    # The circular operator. For an even kernel and stride 1 it has one row and column more than `layer`.
    layer.padding, layer.padding_mode, extra = (0, 0), "zeros", kernel - stride
    padded = nn.Sequential(nn.CircularPad2d((0, extra, 0, extra)), layer)
    assert norm(dense_matrix(padded, shape)) == pytest.approx(2.0, rel=0.01)

    zeros = nn.Conv2d(6, 8, kernel, stride, 1, dtype=torch.float64)
    zeros.weight.data = layer.weight.detach()
    d = (math.ceil(kernel / stride) - 1) / 2
    assert norm(dense_matrix(zeros, shape)) <= 2.0 * 1.01 / math.cos(d * math.pi / GRID) ** 2


def test_linear_and_embedding_have_norm_gain():
    for layer in (nn.Linear(7, 5), nn.Linear(7, 1), nn.Embedding(4, 6)):
        assert norm(spectral_conv(layer, gain=0.7).weight) == pytest.approx(0.7, rel=1e-5)


def test_transposed_convolution_equals_its_adjoint():
    torch.manual_seed(0)
    conv, transposed = nn.Conv2d(3, 5, 4, 2, 1), nn.ConvTranspose2d(5, 3, 4, 2, 1)
    transposed.weight.data = conv.weight.data.clone()
    torch.testing.assert_close(spectral_conv(transposed).weight, spectral_conv(conv).weight)


def test_scan_finds_a_distant_new_peak():
    conv = nn.Conv2d(1, 1, 3, 1, 1, padding_mode="circular", bias=False)
    nn.init.ones_(conv.weight)  # a low-pass filter
    layer = spectral_conv(conv, tracked=1, rescan_every=5)
    signs = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
    layer.parametrizations.weight.original.data[0, 0] = signs  # a high-pass filter
    wrong = [layer.weight.abs().max().item() > 0.5 for _ in range(6)]
    assert wrong[0]
    assert not wrong[-1]
    torch.testing.assert_close(layer.weight[0, 0], signs / 9)


def test_gradient_equals_that_of_the_dense_norm():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, 1, 1, padding_mode="circular", bias=False, dtype=torch.float64)
    weight, direction = conv.weight.detach().clone().requires_grad_(), torch.randn(3, 2, 3, 3, dtype=torch.float64)
    transfer = torch.fft.fft2(weight, s=(GRID, GRID)).permute(2, 3, 0, 1)
    (direction * weight / torch.linalg.matrix_norm(transfer, 2).max()).sum().backward()
    layer = spectral_conv(conv).eval()
    (direction * layer.weight).sum().backward()
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, weight.grad, rtol=1e-4, atol=1e-6)


def test_construction_is_deterministic_and_does_not_use_the_rng():
    torch.manual_seed(0)
    first, second = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
    second.load_state_dict(first.state_dict())
    random = torch.get_rng_state()
    states = [spectral_conv(layer).state_dict() for layer in (first, second)]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_resume_is_bit_equal():
    torch.manual_seed(0)
    layer, resumed = (spectral_conv(nn.Conv2d(4, 4, 3), rescan_every=4) for _ in range(2))
    for _ in range(3):
        _ = layer.weight
    resumed.load_state_dict(layer.state_dict())
    for _ in range(3):
        assert torch.equal(layer.weight, resumed.weight)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in layer.state_dict().items())


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_compiled_layers_are_one_graph_with_scans():
    torch.manual_seed(0)
    layers = nn.Sequential(*(spectral_conv(nn.Conv2d(4, 4, 3), rescan_every=2) for _ in range(2)))
    other, x = copy.deepcopy(layers), torch.randn(2, 4, 8, 8)
    torch.compiler.reset()
    compiled = torch.compile(layers, backend="aot_eager", fullgraph=True)
    for _ in range(5):
        assert torch.equal(compiled(x), other(x))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in layers.state_dict().items())


def test_weight_of_zeros_is_finite_and_recovers():
    layer = spectral_conv(nn.Conv2d(2, 2, 3, padding_mode="circular"))
    original = layer.parametrizations.weight.original
    kept = original.detach().clone()
    expected = layer.weight.detach()
    nn.init.zeros_(original)
    assert torch.equal(layer.weight, torch.zeros_like(layer.weight))
    original.data.copy_(kept)
    torch.testing.assert_close(layer.weight, expected)
