"""Convolutions of one and three dimensions against dense matrices, and dilated ones against kernels with zeros."""

import itertools
import math
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from models.kernels.fourier import preconditioner
from models.kernels.polyphase import fold_taps
from models.kernels.symbol import dilate, fold_phases
from models.normalizations import build_normalization, normalize

CONVOLUTIONS = {
    "1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), (7,)),
    "1d_strided": (lambda: nn.Conv1d(4, 6, 4, 2, 1, groups=2), (9,)),
    "1d_circular": (lambda: nn.Conv1d(2, 3, 3, 2, 1, padding_mode="circular"), (8,)),
    "1d_dilated": (lambda: nn.Conv1d(2, 3, 3, 2, 2, dilation=3), (9,)),
    "1d_point": (lambda: nn.Conv1d(2, 3, 1), (4,)),
    "2d_dilated": (lambda: nn.Conv2d(2, 2, 2, (1, 2), 1, dilation=(3, 2)), (4, 5)),
    "3d": (lambda: nn.Conv3d(2, 3, (2, 3, 3), padding=1), (3, 2, 3)),
    "3d_strided": (lambda: nn.Conv3d(2, 4, (2, 3, 1), (1, 2, 1), (1, 0, 0), groups=2), (3, 4, 2)),
    "3d_circular": (lambda: nn.Conv3d(1, 3, 3, padding=1, padding_mode="circular"), (3, 4, 3)),
}
TRANSPOSED = {
    "1d": (lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2), (5,)),
    "3d": (lambda: nn.ConvTranspose3d(2, 3, (3, 2, 2), (2, 1, 1), (1, 0, 0)), (2, 3, 2)),
}


def build(make):
    torch.manual_seed(0)
    layer = make().double()
    layer.bias.data.zero_()
    return layer


def whiten(rows):
    """Return (A Aᵀ)^(-1/2) A for a matrix A."""
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    return vectors @ torch.diag(values.rsqrt()) @ vectors.T @ rows


def identity(channels, size):
    """Return all maps with a single one, (channels prod(size), channels, *size)."""
    return torch.eye(channels * math.prod(size), dtype=torch.float64).view(-1, channels, *size)


def extend(x, extent, stride):
    """Extend circular maps so that there is one position of the kernel per stride."""
    missing = [max(0, k - s) for k, s in zip(extent, stride, strict=True)]
    return F.pad(x, [side for m in reversed(missing) for side in (0, m)], "circular")


def conv_norm_matrix(conv, size):
    """Return the matrix of ConvNorm without affine part: whitened channels of a circular convolution on its grid."""
    n, stride = len(size), conv.stride
    extent = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    circular = conv.padding_mode == "circular"
    geometry = list(zip(size, conv.padding, stride, extent, strict=True))
    skips = [0 if circular else math.ceil(max(0, k - 1 - p) / s) for _, p, s, k in geometry]
    borders = [p + skip * s for (_, p, s, _), skip in zip(geometry, skips, strict=True)]
    grid = [m // s if circular else (m + 2 * b - k) // s + 1 for (m, _, s, k), b in zip(geometry, borders, strict=True)]
    period = [m * s for m, s in zip(grid, stride, strict=True)]

    bare = getattr(F, f"conv{n}d")
    x = extend(identity(conv.in_channels, period), extent, stride)
    y = bare(x, conv.weight.detach(), None, stride, 0, conv.dilation, conv.groups)
    y = y[(..., *(slice(m) for m in grid))]
    rows = torch.stack([whiten(y[:, o].flatten(1).T) for o in range(conv.out_channels)])  # (O, grid, I period)
    rows = rows.view(conv.out_channels, *grid, conv.in_channels, *period)

    counts = [(m + 2 * p - k) // s + 1 for m, p, s, k in geometry]
    for axis, (skip, count) in enumerate(zip(skips, counts, strict=True), start=1):
        rows = rows.narrow(axis, skip, count)
    for axis, (border, m, whole) in enumerate(zip(borders, size, period, strict=True), start=2 + n):
        rows = rows.index_select(axis, torch.arange(border, border + m) % whole)
    return rows.flatten(0, n).flatten(1)


def paper_conv_norm_matrix(conv, size):
    """Return the matrix of the paper's form: the rows of the convolution at stride 1 at every s-th position."""
    stride = conv.stride
    conv.stride = (1,) * len(size)
    counts = conv(torch.zeros(1, conv.in_channels, *size, dtype=torch.float64)).shape[1:]
    rows = conv_norm_matrix(conv, size).view(*counts, -1)
    return rows[(slice(None), *(slice(None, None, s) for s in stride))].flatten(0, len(size))


def transposed_conv_norm_matrix(conv, size):
    """Return the same for a transposed convolution, of which each channel and stride phase is whitened."""
    n, stride = len(size), conv.stride
    grid = [m + math.ceil(k / s) - 1 for m, k, s in zip(size, conv.kernel_size, stride, strict=True)]
    period = [m * s for m, s in zip(grid, stride, strict=True)]
    bare = getattr(F, f"conv_transpose{n}d")
    y = bare(identity(conv.in_channels, grid), conv.weight.detach(), None, stride, 0, 0, conv.groups)
    wrapped = torch.zeros(*y.shape[:2], *period, dtype=torch.float64)
    for place in itertools.product(*map(range, y.shape[2:])):
        wrapped[(..., *(p % m for p, m in zip(place, period, strict=True)))] += y[(..., *place)]
    for o, phase in itertools.product(range(conv.out_channels), itertools.product(*map(range, stride))):
        part = (slice(None), o, *(slice(f, None, s) for f, s in zip(phase, stride, strict=True)))
        wrapped[part] = whiten(wrapped[part].flatten(1).T).T.view(-1, *grid)
    output = conv(torch.zeros(1, conv.in_channels, *size, dtype=torch.float64)).shape[2:]
    columns = wrapped.view(conv.in_channels, *grid, conv.out_channels, *period)
    columns = columns[(slice(None), *map(slice, size))]
    crop = (slice(p, p + m) for p, m in zip(conv.padding, output, strict=True))
    return columns[(..., *crop)].flatten(0, n).flatten(1).T


@pytest.mark.parametrize(
    ("kind", "mode", "matrix"),
    [
        *(pytest.param(case, "strided", conv_norm_matrix, id=name) for name, case in CONVOLUTIONS.items()),
        *(
            pytest.param(case, "paper", paper_conv_norm_matrix, id=f"{name}_paper")
            for name, case in CONVOLUTIONS.items()
            if max(case[0]().stride) > 1
        ),
        *(
            pytest.param(case, "paper", transposed_conv_norm_matrix, id=f"{name}_transposed")
            for name, case in TRANSPOSED.items()
        ),
    ],
)
def test_conv_norm(kind, mode, matrix, dense_matrix):
    make, size = kind
    layer = build_normalization("conv_norm", stride=mode, affine=False, eps=0).normalize(build(make))
    expected = matrix(build(make), size)
    torch.testing.assert_close(dense_matrix(layer, (layer.in_channels, *size)), expected)
    bound = layer.lipschitz_bound((layer.in_channels, *size))
    assert bound >= torch.linalg.matrix_norm(expected, 2) * (1 - 1e-9)


@pytest.mark.parametrize("mode", ["paper", "strided"])
@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect", "replicate"])
def test_a_line_is_a_map_of_height_1(mode, padding_mode):
    torch.manual_seed(0)
    line = nn.Conv1d(2, 3, 4, 2, 2, padding_mode=padding_mode)
    flat = nn.Conv2d(2, 3, (1, 4), (1, 2), (0, 2), padding_mode=padding_mode)
    flat.load_state_dict({"weight": line.weight[:, :, None], "bias": line.bias})
    options = build_normalization("conv_norm", stride=mode, batch_norm=True)
    line, flat, x = options.normalize(line), options.normalize(flat), torch.randn(3, 2, 8)
    nn.init.normal_(line.affine.weight)
    flat.affine.weight.data.copy_(line.affine.weight[:, :, None])
    torch.testing.assert_close(line(x), flat(x[:, :, None])[:, :, 0])


def test_slices_of_a_volume_are_maps():
    torch.manual_seed(0)
    volume, flat = nn.Conv3d(2, 3, (1, 3, 4), padding=(0, 1, 2)), nn.Conv2d(2, 3, (3, 4), padding=(1, 2))
    flat.load_state_dict({"weight": volume.weight[:, :, 0], "bias": volume.bias})
    volume, flat = normalize(volume, "conv_norm"), normalize(flat, "conv_norm")
    nn.init.normal_(volume.affine.weight)
    flat.affine.weight.data.copy_(volume.affine.weight[:, :, 0])
    x = torch.randn(2, 2, 3, 6, 5)
    torch.testing.assert_close(volume(x)[:, :, 1], flat(x[:, :, 1]))


WEIGHTS = [
    nn.Conv1d(4, 6, 3, groups=2),
    nn.Conv3d(3, 4, (2, 3, 2)),
    nn.ConvTranspose1d(4, 6, 3, groups=2),
    nn.ConvTranspose3d(2, 4, 2),
]


def matrices(layer, weight):
    """Return the weight of a layer as one matrix per group, with a row per output channel, by loops."""
    groups, transposed = layer.groups, isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose3d)
    blocks = weight.detach().double().chunk(groups)
    return [(block.transpose(0, 1) if transposed else block).flatten(1) for block in blocks]


@pytest.mark.parametrize("layer", WEIGHTS, ids=str)
def test_normalizations_of_matrices(layer):
    torch.manual_seed(0)
    layer.reset_parameters()  # with the seed
    before = matrices(layer, layer.weight)
    weights = {}
    for name in ("weight", "spectral", "bidirectional_spectral", "stable_rank", "oni"):
        copied = type(layer)(layer.in_channels, layer.out_channels, layer.kernel_size, groups=layer.groups)
        copied.load_state_dict(layer.state_dict())
        normalized = normalize(copied, name)
        for _ in range(100):
            weight = normalized.weight
        weights[name] = matrices(layer, weight)
    sigma = [torch.linalg.matrix_norm(matrix, 2).item() for matrix in before]
    for matrix, same in zip(before, weights["weight"], strict=True):
        torch.testing.assert_close(same, matrix, rtol=1e-5, atol=1e-6)
    for limited in weights["stable_rank"]:
        assert torch.linalg.matrix_norm(limited, 2).item() == pytest.approx(1, rel=1e-4)
        assert limited.square().sum() <= 0.7 * min(limited.shape) * (1 + 1e-5)
    for orthogonal in weights["oni"]:
        assert torch.linalg.matrix_norm(orthogonal, 2) <= 1 + 1e-4
        centered = orthogonal.mean(dim=1)
        torch.testing.assert_close(centered, torch.zeros_like(centered), rtol=0, atol=1e-5)
    if layer.groups == 1:
        taps = math.prod(layer.kernel_size)
        torch.testing.assert_close(weights["spectral"][0], before[0] / sigma[0], rtol=1e-4, atol=1e-6)
        other = before[0].unflatten(1, (-1, taps)).transpose(0, 1).flatten(1)
        mean = (sigma[0] + torch.linalg.matrix_norm(other, 2)) / 2
        torch.testing.assert_close(weights["bidirectional_spectral"][0], before[0] / mean, rtol=1e-4, atol=1e-6)


GRID = 5


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3, groups=2),
        nn.Conv1d(3, 2, 4, 2),
        nn.Conv1d(2, 3, 3, 1, dilation=2),
        nn.Conv3d(2, 2, (2, 3, 2), (1, 2, 1)),
        nn.ConvTranspose1d(3, 4, 4, 2),
        nn.ConvTranspose3d(2, 2, 2),
    ],
    ids=str,
)
def test_spectral_conv(layer):
    torch.manual_seed(0)
    normalized = build_normalization("spectral_conv", gain=1.5, grid=GRID).normalize(layer.double()).eval()
    size = [GRID * s for s in layer.stride]
    extent = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    channels = layer.out_channels if layer.transposed else layer.in_channels  # of the adjoint
    x = extend(identity(channels, size), extent, layer.stride)
    bare = getattr(F, f"conv{len(size)}d")
    y = bare(x, normalized.weight, None, layer.stride, 0, layer.dilation, layer.groups)
    y = y[(..., *[slice(GRID)] * len(size))].flatten(1)
    assert torch.linalg.matrix_norm(y, 2).item() == pytest.approx(1.5, rel=1e-3)


def test_spectral_conv_of_a_kernel_that_is_larger_than_the_grid(dense_matrix):
    """The norm of a dilated convolution is that of the convolution without dilation, on a map of d times the side."""
    torch.manual_seed(0)
    dilated, plain = nn.Conv2d(2, 3, 3, dilation=12), nn.Conv2d(2, 3, 3)
    dilated.load_state_dict(plain.state_dict())
    torch.testing.assert_close(normalize(dilated, "spectral_conv").weight, normalize(plain, "spectral_conv").weight)
    dilated = nn.Conv1d(2, 3, 3, dilation=6, padding=6, padding_mode="circular").double()
    normalized = build_normalization("spectral_conv", grid=8).normalize(dilated)
    norm = torch.linalg.matrix_norm(dense_matrix(normalized.eval(), (2, 48)), 2).item()
    assert norm == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_folded_taps_are_those_of_the_dilated_kernel(dimensions):
    torch.manual_seed(0)
    strides = [(1, 2, 3), (2, 1, 2), (1, 1, 1), (3, 3, 2)]
    dilations = [(1, 1, 1), (2, 3, 5), (4, 1, 2)]
    for stride, dilation in itertools.product(strides, dilations):
        stride, dilation = stride[:dimensions], dilation[:dimensions]
        kernel = torch.randn(2, 3, *(3, 2, 4)[:dimensions])
        folded, positions = fold_taps(kernel, stride, dilation)
        whole = fold_phases(dilate(kernel, dilation), stride)
        rebuilt = torch.zeros_like(whole)
        rebuilt[(..., *torch.meshgrid([torch.tensor(axis) for axis in positions], indexing="ij"))] = folded
        assert torch.equal(rebuilt, whole)
        assert all(len(axis) <= k for axis, k in zip(positions, kernel.shape[2:], strict=True))


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_preconditioner_of_a_dilated_kernel(stride):
    torch.manual_seed(0)
    kernel, grid = torch.randn(3, 2, 3, 2), (20, 18)
    folded, positions = fold_taps(kernel, stride, (5, 4))
    whole = fold_phases(dilate(kernel, (5, 4)), stride).flatten(1, 3)
    actual = preconditioner(folded.flatten(1, 3), grid, 1e-6, positions)
    torch.testing.assert_close(actual, preconditioner(whole, grid, 1e-6))


@pytest.mark.parametrize("name", ["conv_norm", "spectral_conv"])
def test_wide_dilations_cost_what_their_taps_cost(name):
    """DeepLab's head has 3x3 kernels with dilations of up to 36, which span 73 x 73 pixels."""
    torch.manual_seed(0)
    start = time.process_time()
    network = normalize(DeepLabHead(16, 4), name)
    network(torch.randn(2, 16, 16, 16)).sum().backward()
    assert time.process_time() - start < 10
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
