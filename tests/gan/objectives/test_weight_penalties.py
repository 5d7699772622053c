import math

import pytest
import torch
from torch import nn

from gan.objectives.regularizers import REGULARIZERS, Batch

NO_BATCH = Batch(torch.zeros(1, 1), None, torch.zeros(1, 1), None)


def penalty(name, network, **options):
    return REGULARIZERS.get(name)(**options).penalty(network, NO_BATCH, torch.Generator().manual_seed(0))


def linear(matrix):
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    layer.weight = nn.Parameter(matrix)
    return layer


def test_orthogonal_penalizes_products_of_different_rows_only():
    assert penalty("orthogonal", linear(torch.diag(torch.tensor([1.0, 5.0, 2.0])))).item() == 0
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert penalty("orthogonal", linear(rows)).item() == pytest.approx(2 * 11**2)


def test_spectral_reg_is_half_of_the_squared_norm():
    network = nn.Sequential(linear(torch.diag(torch.tensor([3.0, 1.0]))), linear(torch.diag(torch.tensor([2.0, 0.5]))))
    assert penalty("spectral_reg", network, iterations=30).item() == pytest.approx((9 + 4) / 2, rel=1e-5)


def test_srip_is_the_squared_norm_of_the_deviation_from_isometry():
    wide = torch.diag(torch.tensor([2.0, 1.0]))
    assert penalty("srip", linear(wide), iterations=30).item() == pytest.approx((4 - 1) ** 2, rel=1e-5)
    assert penalty("srip", linear(torch.eye(5)[:, :3].contiguous())).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (4, 2), (3, 3), (2, 1)])
def test_ocnn_equals_deviation_of_convolution_matrix_from_orthogonality(kernel, stride):
    """The penalty is ||A Aᵀ - I||²_F per output position of the matrix A of a large circular convolution."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, kernel, stride=stride, bias=False, dtype=torch.float64)
    side = 12
    positions = torch.arange(side + kernel - 1) % side
    basis = torch.eye(2 * side**2, dtype=torch.float64).view(-1, 2, side, side)[:, :, positions][..., positions]
    matrix = layer(basis)[..., : side // stride, : side // stride].flatten(1).T  # (3 m m, 2 side side)
    deviation = matrix @ matrix.T - torch.eye(len(matrix), dtype=torch.float64)
    expected = deviation.square().sum() / (side // stride) ** 2
    assert penalty("ocnn", layer).item() == pytest.approx(expected.item(), rel=1e-10)


def test_ocnn_of_orthogonal_grouped_convolution_is_zero():
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, :, 1, 1] = torch.eye(2).repeat(2, 1)
    assert penalty("ocnn", layer).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("name", "expected"), [("orthogonal", 0), ("srip", 0), ("spectral_reg", 0.5 * 2)])
def test_each_group_is_a_separate_matrix(name, expected):
    layer = nn.Conv2d(4, 4, 1, groups=2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2).repeat(2, 1)[:, :, None, None])
    assert penalty(name, layer).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["orthogonal", "ocnn", "srip", "spectral_reg"])
def test_gradient_descent_lowers_the_penalty(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 2, 4, 2), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    before = penalty(name, network).item()
    for _ in range(20):
        optimizer.zero_grad()
        penalty(name, network).backward()
        optimizer.step()
    assert penalty(name, network).item() < 0.9 * before
    assert math.isfinite(before)
