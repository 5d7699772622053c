"""The symbol of a convolution against dense matrices."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from models.kernels.symbol import (
    autocorrelation_bound,
    dilate,
    effective_kernel_size,
    fold_phases,
    largest_norm,
    padding_multiplicity,
    padding_sides,
    plane_norm,
    riesz_factor,
    symbol_norm,
)
from models.normalizations import normalize

ROUNDING = 1 - 1e-9


@st.composite
def kernels(draw):
    """Draw a kernel (O, I / groups, k) of one dimension in any precision, a stride, a grid and a number of groups."""
    groups, taps = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    channels = [draw(st.integers(1, 24)) for _ in range(2)]
    torch.manual_seed(draw(st.integers(0, 1000)))
    kernel = torch.randn(groups * channels[0], channels[1], taps, dtype=torch.float64)
    kernel = kernel * 10.0 ** draw(st.integers(-30, 30)) * draw(st.sampled_from([0.0, 1.0, 1.0, 1.0]))
    return kernel, [draw(st.integers(1, 3))], draw(st.integers(1, 40)), groups


def test_riesz_factor():
    assert riesz_factor((3, 3), (32, 32)) == pytest.approx(1 / math.cos(math.pi / 32) ** 2)
    assert riesz_factor((5, 1), (4, 8)) == math.inf
    assert riesz_factor((8, 1), (7, 8)) == math.inf


def random_matrices(kind):
    random = torch.Generator().manual_seed(0)
    some = torch.randn(40, 6, 9, generator=random, dtype=torch.complex128)
    return {
        "complex": some,
        "tall": some.mT,
        "real": some.real,
        "one": some.real[:1],
        "orthogonal": torch.linalg.qr(some.mT)[0],  # all singular values are equal
        "with zeros": torch.cat([torch.zeros_like(some), some]),
        "nearly equal": torch.linalg.qr(some.mT)[0] * torch.linspace(1, 1 + 1e-7, 40)[:, None, None],
        "large": some * 1e200,
        "small": some * 1e-200,
    }[kind]


@pytest.mark.parametrize(
    "kind", ["complex", "tall", "real", "one", "orthogonal", "with zeros", "nearly equal", "large", "small"]
)
def test_largest_norm_is_a_tight_upper_bound(kind):
    matrices = random_matrices(kind)
    truth = torch.linalg.matrix_norm(matrices, 2).max().item()
    assert truth <= largest_norm(matrices) <= truth * (1 + 2e-6)


def test_largest_norm_of_zeros_and_of_diverged_matrices():
    assert largest_norm(torch.zeros(3, 2, 2)) == 0
    for value in (math.nan, math.inf):
        assert largest_norm(torch.tensor([[[1.0, value]], [[1.0, 2.0]]])) == math.inf
        assert plane_norm(torch.full((1, 1, 3, 3), value), (1, 1)) == math.inf


@given(kernels())
@settings(max_examples=60, deadline=None)
def test_symbol_norm_holds_for_all_frequencies(case):
    kernel, stride, grid, groups = case
    blocks = fold_phases(kernel, stride).flatten(1, 2).unflatten(0, (groups, -1))  # one spatial axis
    angles = torch.outer(torch.arange(grid), torch.arange(blocks.shape[3])) * (2 * math.pi / grid)
    waves = torch.polar(torch.ones_like(angles, dtype=torch.float64), -angles.double())
    symbol = torch.einsum("fa,gnma->fgnm", waves, blocks.to(waves.dtype))
    truth = torch.linalg.matrix_norm(symbol, 2).max().item()
    assert truth <= symbol_norm(kernel, stride, [grid], groups) <= truth * (1 + 2e-6)
    assert truth * ROUNDING <= autocorrelation_bound(kernel, stride, groups, math.inf)


@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (2, 3)])
def test_dilate(dilation):
    kernel, x = torch.randn(3, 2, 3, 2, dtype=torch.float64), torch.randn(1, 2, 9, 9, dtype=torch.float64)
    dilated = dilate(kernel, dilation)
    assert dilated.shape[2:] == effective_kernel_size((3, 2), dilation)
    torch.testing.assert_close(F.conv2d(x, dilated), F.conv2d(x, kernel, dilation=dilation))


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 3)])
def test_phases_give_the_strided_convolution(stride):
    kernel, x = torch.randn(3, 2, 4, 3, dtype=torch.float64), torch.randn(1, 2, 12, 12, dtype=torch.float64)
    phases = fold_phases(kernel, stride).flatten(1, 3)
    sh, sw = stride
    inputs = x.unflatten(3, (-1, sw)).unflatten(2, (-1, sh)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    expected = F.conv2d(x, kernel, stride=stride)
    torch.testing.assert_close(F.conv2d(inputs, phases)[..., : expected.shape[2], : expected.shape[3]], expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_symbol_norm_is_the_norm_on_a_circle(stride, dense_matrix):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, stride, 1, padding_mode="circular", dtype=torch.float64)
    truth = torch.linalg.matrix_norm(dense_matrix(conv, (2, 8, 8)), 2).item()
    grid = (8 // stride, 8 // stride)
    assert truth * ROUNDING <= symbol_norm(conv.weight.detach(), (stride, stride), grid) <= truth * (1 + 2e-6)
    assert truth * ROUNDING <= plane_norm(conv.weight.detach(), (stride, stride))


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_padding(mode):
    conv = nn.Conv2d(1, 1, 3, padding=(1, 2), padding_mode=mode)
    assert padding_sides(conv) == ((1, 1), (2, 2))
    known = {"zeros": 1, "circular": 2 * 2, "reflect": 2 * 2, "replicate": 2 * 3}[mode]
    assert padding_multiplicity(conv, (8, 8)) == known
    assert padding_sides(nn.Conv2d(1, 1, (1, 4), padding="same")) == ((0, 0), (1, 2))
    # The only pixel of a map of size 1 is repeated on both sides.
    assert padding_multiplicity(nn.Conv2d(1, 1, 3, padding=5, padding_mode="replicate"), (1, 1)) == 11 * 11


@pytest.mark.parametrize("dimensions", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_one_and_three_dimensions(dimensions, stride, dense_matrix):
    torch.manual_seed(0)
    layer_type, side = {1: (nn.Conv1d, 12), 3: (nn.Conv3d, 4)}[dimensions]
    shape, strides = (2, *[side] * dimensions), [stride] * dimensions
    circular = layer_type(2, 3, 3, stride, 1, padding_mode="circular", dtype=torch.float64)
    kernel = circular.weight.detach()
    truth = torch.linalg.matrix_norm(dense_matrix(circular, shape), 2).item()
    assert truth * ROUNDING <= symbol_norm(kernel, strides, [side // stride] * dimensions) <= truth * (1 + 2e-6)
    assert truth * ROUNDING <= plane_norm(kernel, strides)
    zeros = layer_type(2, 3, 2, stride, 2, dilation=2, dtype=torch.float64)
    truth = torch.linalg.matrix_norm(dense_matrix(zeros, shape), 2).item()
    assert truth * ROUNDING <= plane_norm(dilate(zeros.weight.detach(), zeros.dilation), strides)
    replicated = layer_type(1, 1, 3, padding=(1, 2, 3)[:dimensions], padding_mode="replicate")
    assert padding_sides(replicated) == tuple((p, p) for p in (1, 2, 3)[:dimensions])
    assert padding_multiplicity(replicated, shape[1:]) == math.prod(1 + p for p in (1, 2, 3)[:dimensions])


def test_plane_norm_is_tight_for_orthogonal_and_for_nonnegative_kernels():
    torch.manual_seed(0)
    for conv in (nn.Conv2d(4, 8, 4, 2), nn.Conv2d(8, 4, 3, groups=2), nn.ConvTranspose1d(4, 6, 3)):
        kernel = normalize(conv.double(), "orthogonal_conv").weight.detach()
        assert 1 - 1e-9 <= plane_norm(3 * kernel, conv.stride, conv.groups) / 3 <= 1 + 1e-5
    blur = torch.rand(1, 1, 3, 3)
    assert blur.sum() * ROUNDING <= plane_norm(blur, (1, 1)) <= blur.sum() * (1 + 1e-5)


@pytest.mark.parametrize("size", [(2, 3, 3), (3, 2, 2), (4, 4, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_plane_norm_of_nearly_diagonal_kernels(size, stride):
    """The bound by the autocorrelation, which such kernels have, holds for all frequencies."""
    torch.manual_seed(0)
    outputs, inputs, taps = size
    kernel = nn.init.dirac_(torch.empty(outputs, inputs, taps, dtype=torch.float64))
    kernel += 0.02 * torch.randn_like(kernel)
    bound = autocorrelation_bound(kernel, (stride,), 1, math.inf)
    grid = [720]
    truth = symbol_norm(kernel, (stride,), grid)
    assert truth * (1 - 2e-6) <= bound < 1.2 * truth  # both are rounded upwards
    assert plane_norm(kernel, (stride,)) <= bound * (1 + 2e-6)
    assert autocorrelation_bound(kernel, (stride,), 1, 0.5 * truth) == math.inf
