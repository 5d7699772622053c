import pytest
import torch
from geometry import dense_norm
from torch import nn

from metrics.lipschitz import singular_values, stable_rank
from metrics.lipschitz.spectrum import feasible_shape


def test_linear_layer():
    layer = nn.Linear(5, 3)
    torch.testing.assert_close(singular_values(layer, (5,)), torch.linalg.svdvals(layer.weight.detach().double()))


def test_convolution():
    layer = nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)
    values = singular_values(layer, (2, 6, 6))
    assert values[0].item() == pytest.approx(dense_norm(layer, (2, 6, 6)), rel=1e-9)
    assert len(values) == 2 * 36


def test_large_layer_is_measured_on_a_smaller_map():
    layer = nn.Conv2d(2, 2, 3, padding=1)
    assert feasible_shape(layer, (2, 32, 16), largest=2**14) == (2, 8, 4)
    assert feasible_shape(layer, (2, 32, 16), largest=2**30) == (2, 32, 16)
    assert len(singular_values(layer, (2, 32, 32), largest=2**14)) == 2 * 8 * 8


def test_layer_that_is_too_large_at_any_size():
    layer = nn.Conv2d(2, 2, 3, padding=1)
    assert feasible_shape(layer, (2, 7, 7), largest=18**2) == (2, 3, 3)
    assert singular_values(layer, (2, 7, 7), largest=10) is None
    assert singular_values(nn.Linear(8, 8), (8,), largest=10) is None


def test_stable_rank():
    assert stable_rank(torch.ones(7)) == 7
    assert stable_rank(torch.tensor([3.0, 0, 0])) == 1
    assert stable_rank(torch.zeros(3)) == 0
