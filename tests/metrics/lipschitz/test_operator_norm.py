import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from metrics.lipschitz import operator_norm
from models.normalizations import NORMALIZATIONS, build_normalization


def dense_norm(layer, input_shape):
    """The largest singular value of the matrix whose columns are layer(e_i) - layer(0)."""
    layer.eval()
    basis = torch.eye(torch.Size(input_shape).numel(), dtype=torch.float64).view(-1, *input_shape)
    with torch.no_grad():
        matrix = (layer(basis) - layer(torch.zeros_like(basis[:1]))).flatten(1)
    return torch.linalg.matrix_norm(matrix, 2).item()


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2]))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    side = draw(st.tuples(st.integers(4, 9), st.integers(4, 9)))
    padding = draw(st.integers(0, 2))
    options = {
        "in_channels": groups * draw(st.integers(1, 4)),
        "out_channels": groups * draw(st.integers(1, 4)),
        "kernel_size": kernel,
        "stride": draw(st.integers(1, 3)),
        "padding": padding,
        "groups": groups,
    }
    transposed = draw(st.booleans())
    assume(transposed or all(n + 2 * padding >= k for n, k in zip(side, kernel, strict=True)))
    if transposed:
        assume(all((n - 1) * options["stride"] + k > 2 * padding for n, k in zip(side, kernel, strict=True)))
    else:
        options["padding_mode"] = draw(st.sampled_from(["zeros", "circular"]))
    torch.manual_seed(draw(st.integers(0, 1000)))
    layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(**options, dtype=torch.float64)
    return layer, (options["in_channels"], *side)


@given(convolutions())
@settings(max_examples=40, deadline=None)
def test_equals_dense_svd(case):
    layer, shape = case
    assert operator_norm(layer, shape, iterations=40) == pytest.approx(dense_norm(layer, shape), rel=5e-3)


@pytest.mark.parametrize("name", sorted(set(NORMALIZATIONS)))
def test_equals_dense_svd_under_every_normalization(name):
    torch.manual_seed(0)
    layer = build_normalization(name).normalize(nn.Conv2d(3, 5, 4, stride=2, padding=1).double())
    assert operator_norm(layer, (3, 8, 8)) == pytest.approx(dense_norm(layer, (3, 8, 8)), rel=5e-3)


def test_is_never_above_the_truth_and_grows_with_iterations():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, padding=1).double()
    norms = [operator_norm(layer, (4, 10, 10), iterations) for iterations in (1, 3, 9, 27)]
    assert norms == sorted(norms)
    assert norms[-1] <= dense_norm(layer, (4, 10, 10)) * (1 + 1e-12)


def test_bias_does_not_count():
    layer = nn.Linear(6, 6)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([3.0, 1, 1, 1, 1, 0.5])))
        layer.bias.fill_(100.0)
    assert operator_norm(layer, (6,)) == pytest.approx(3, rel=1e-6)


def test_a_zero_layer_has_norm_zero():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    assert operator_norm(layer, (3,)) == 0


def test_measuring_leaves_the_layer_as_it_was():
    layer = build_normalization("spectral").normalize(nn.Conv2d(2, 3, 3)).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    random = torch.get_rng_state()
    operator_norm(layer, (2, 6, 6))
    assert layer.training
    assert all(module.training for module in layer.modules())
    assert all(torch.equal(value, layer.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in layer.parameters())
    assert torch.equal(torch.get_rng_state(), random)
