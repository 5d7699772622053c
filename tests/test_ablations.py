"""Tests of the plugins in docs/studies/stacked_digits/ablations.py."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.normalizations import NORMALIZATIONS
from models.normalizations.conv_norm import ConvNorm

PATH = Path(__file__).parents[1] / "docs" / "studies" / "stacked_digits" / "ablations.py"


@pytest.fixture
def ablations(monkeypatch):
    monkeypatch.setattr(NORMALIZATIONS, "_classes", dict(NORMALIZATIONS._classes))
    spec = importlib.util.spec_from_file_location("ablations", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("stride", ["paper", "strided"])
def test_frozen_filter_is_that_of_the_initial_weight(ablations, stride):
    conv = nn.Conv2d(3, 5, 4, 2, 1).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    frozen = ablations.FrozenConvNorm(stride=stride).normalize(copy.deepcopy(conv))
    exact = ConvNorm(stride=stride).normalize(conv)
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), exact(x))
        before = frozen(x)
        for layer in (frozen, exact):
            layer.conv.weight.mul_(2)
        torch.testing.assert_close(exact(x), before)  # V follows the weight
        bias = frozen.get_bias().view(-1, 1, 1)
        torch.testing.assert_close(frozen(x) - bias, 2 * (before - bias))


def test_rows_have_unit_norm_without_a_filter(ablations):
    conv = nn.Conv2d(3, 5, 4, 2, 1).double()
    layer = ablations.RowConvNorm(stride="strided").normalize(copy.deepcopy(conv))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    weight = conv.weight / conv.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(layer(x), F.conv2d(x, weight, conv.bias, 2, 1))


@pytest.mark.parametrize("name", ["FrozenConvNorm", "RowConvNorm"])
def test_bounds_hold(ablations, name):
    layer = getattr(ablations, name)(stride="strided").normalize(nn.Conv2d(3, 5, 4, 2, 1).double())
    with torch.no_grad():
        layer.conv.weight.add_(0.3 * torch.randn_like(layer.conv.weight))
    x = torch.randn(3, 8, 8, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(lambda x: layer(x[None])[0], x).flatten(3).flatten(0, 2)
    norm = torch.linalg.matrix_norm(matrix, 2).item()
    bound = layer.lipschitz_bound((3, 8, 8))
    assert norm <= bound * (1 + 1e-9)
    assert bound < 2 * norm
