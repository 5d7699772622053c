"""The normalizations of reshaped weights: weight, spectral, bidirectional_spectral, stable_rank, oni."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from models.normalizations import NORMALIZATIONS, build_normalization

CONVOLUTIONS = pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (4, 1), (4, 2)])


def normalized(name, layer, **options):
    return build_normalization(name, **options).normalize(layer)


def trained(name, layer, optimizer=torch.optim.Adam, lr=2e-3, **options):
    """Return the layer in evaluation mode after 30 training steps that change its weight."""
    layer = normalized(name, layer, **options)
    before = layer.weight.detach().clone()
    optimizer = optimizer(layer.parameters(), lr=lr)
    x = torch.randn(8, 6, 8, 8)
    target = torch.randn_like(layer(x))
    for _ in range(30):
        optimizer.zero_grad()
        F.mse_loss(layer(x), target).backward()
        optimizer.step()
    assert (layer.weight - before).norm() > 0.02 * before.norm()
    return layer.eval()


def rows(layer, transposed=False):
    weight = layer.weight.detach().double()
    return (weight.transpose(0, 1) if transposed else weight).flatten(1)


def stable_rank(matrix):
    return (matrix.norm() / torch.linalg.matrix_norm(matrix, 2)).square().item()


@CONVOLUTIONS
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_spectral_has_norm_1_after_training(kernel, stride, optimizer):
    torch.manual_seed(0)
    lr = 2e-3 if optimizer is torch.optim.Adam else 0.1
    layer = trained("spectral", nn.Conv2d(6, 8, kernel, stride, 1), optimizer, lr)
    assert torch.linalg.matrix_norm(rows(layer), 2).item() == pytest.approx(1, rel=0.01)


@CONVOLUTIONS
def test_bidirectional_has_mean_norm_of_scale_after_training(kernel, stride):
    torch.manual_seed(0)
    layer = trained("bidirectional_spectral", nn.Conv2d(6, 8, kernel, stride, 1), scale=1.7)
    norms = [torch.linalg.matrix_norm(rows(layer, transposed), 2).item() for transposed in (False, True)]
    assert norms[0] != pytest.approx(norms[1], rel=0.01)
    assert sum(norms) / 2 == pytest.approx(1.7, rel=0.01)


@CONVOLUTIONS
@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
def test_stable_rank_is_at_most_the_target_after_training(kernel, stride, fraction):
    torch.manual_seed(0)
    matrix = rows(trained("stable_rank", nn.Conv2d(6, 8, kernel, stride, 1), stable_rank=fraction))
    assert stable_rank(matrix) <= fraction * 8 * (1 + 1e-5)
    assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, rel=0.01)
    if fraction == 0.2:
        assert stable_rank(matrix) == pytest.approx(1.6, rel=0.02)


@CONVOLUTIONS
def test_oni_rows_are_orthonormal_after_training(kernel, stride):
    torch.manual_seed(0)
    matrix = rows(trained("oni", nn.Conv2d(6, 8, kernel, stride, 1), scale=1.4))
    assert torch.linalg.matrix_norm(matrix, 2) <= 1.4 * (1 + 1e-5)
    torch.testing.assert_close(matrix @ matrix.T, 1.4**2 * torch.eye(8).double(), rtol=0, atol=0.02 * 1.4**2)


@CONVOLUTIONS
def test_weight_norm_has_rows_of_length_g_after_training(kernel, stride):
    torch.manual_seed(0)
    layer = trained("weight", nn.Conv2d(6, 8, kernel, stride, 1), lr=1e-2)
    g = layer.parametrizations.weight.original0.detach().flatten().double()
    torch.testing.assert_close(rows(layer).norm(dim=1), g.abs())


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3), nn.Linear(5, 3), nn.Embedding(5, 3)],
    ids=lambda layer: type(layer).__name__,
)
def test_weight_equals_torch(layer):
    transposed = isinstance(layer, nn.ConvTranspose2d)
    expected = parametrizations.weight_norm(copy.deepcopy(layer), dim=1 if transposed else 0)
    actual = normalized("weight", copy.deepcopy(layer))
    torch.testing.assert_close(actual.weight, layer.weight)
    assert {key: value.shape for key, value in actual.state_dict().items()} == {
        key: value.shape for key, value in expected.state_dict().items()
    }
    for parametrized in (actual, expected):
        optimizer = torch.optim.SGD(parametrized.parameters(), lr=0.1)
        parametrized.weight.pow(3).sum().backward()
        optimizer.step()
    torch.testing.assert_close(actual.weight, expected.weight)


def test_weight_norm_of_a_grouped_transposed_convolution():
    layer = normalized("weight", nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False))
    with torch.no_grad():
        layer.parametrizations.weight.original0[0, 4] *= 10  # the fifth of six output channels
    y = layer(torch.ones(1, 4, 5, 5))
    bare = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    bare.weight.data = layer.parametrizations.weight.original1.detach()
    scales = (y / bare(torch.ones(1, 4, 5, 5))).mean((0, 2, 3))
    torch.testing.assert_close(scales, torch.tensor([1.0, 1, 1, 1, 10, 1]))


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 3), nn.Linear(5, 3)], ids=type)
def test_spectral_equals_torch_for_one_step(layer):
    torch.manual_seed(0)
    expected = parametrizations.spectral_norm(copy.deepcopy(layer))
    actual = normalized("spectral", copy.deepcopy(layer))
    actual.load_state_dict(expected.state_dict())
    for parametrized in (actual, expected):
        optimizer = torch.optim.SGD(parametrized.parameters(), lr=0.1)
        parametrized.weight.pow(3).sum().backward()
        optimizer.step()
    assert torch.equal(actual.weight, expected.weight)


def test_bidirectional_linear_layer_is_spectral_with_a_scale():
    torch.manual_seed(0)
    linear = nn.Linear(5, 3)
    matrix = linear.weight.detach().clone()
    layer = normalized("bidirectional_spectral", linear, scale=2.0)
    torch.testing.assert_close(layer.weight, 2 * matrix / torch.linalg.matrix_norm(matrix, 2))


@pytest.mark.parametrize("groups", [1, 2])
def test_bidirectional_transposed_convolution_equals_its_adjoint(groups):
    torch.manual_seed(0)
    conv, transposed = nn.Conv2d(4, 6, 3, groups=groups), nn.ConvTranspose2d(6, 4, 3, groups=groups)
    transposed.weight.data = conv.weight.data.clone()
    actual = [normalized("bidirectional_spectral", layer).weight for layer in (conv, transposed)]
    torch.testing.assert_close(*actual)


def test_bidirectional_uses_the_largest_norm_of_the_groups():
    torch.manual_seed(0)
    layer = normalized("bidirectional_spectral", nn.Conv2d(4, 6, 3, groups=2))
    blocks = layer.weight.unflatten(0, (2, 3))
    norms = [torch.linalg.matrix_norm(b.flatten(2), 2).max() for b in (blocks, blocks.transpose(1, 2))]
    assert (sum(norms) / 2).item() == pytest.approx(1, rel=1e-5)


def test_stable_rank_equals_the_svd_form_of_the_paper():
    torch.manual_seed(0)
    linear = nn.Linear(8, 6)
    u, s, vh = torch.linalg.svd(linear.weight.detach())
    layer = normalized("stable_rank", linear, stable_rank=0.3).eval()
    rest = s[1:] / s[0]
    s = torch.cat([torch.ones(1), rest * min(1, (0.3 * 6 - 1) ** 0.5 / rest.norm().item())])
    torch.testing.assert_close(layer.weight, (u * s) @ vh[:6], rtol=1e-4, atol=1e-5)


def test_stable_rank_of_a_single_row():
    linear = nn.Linear(8, 1)
    expected = F.normalize(linear.weight.detach(), dim=1)
    torch.testing.assert_close(normalized("stable_rank", linear, stable_rank=0.1).weight, expected)


def test_stable_rank_of_a_transposed_convolution():
    torch.manual_seed(0)
    layer = normalized("stable_rank", nn.ConvTranspose2d(12, 4, 2), stable_rank=0.4)
    assert stable_rank(rows(layer, transposed=True)) == pytest.approx(1.6, rel=1e-4)


# The first entries of ONINorm(T=5)(W), and its largest and smallest singular values that are not 0, for
# W = 0.3 sin(1²), 0.3 sin(2²), ...: ONI_PyTorch/extension/normalization/NormedConv.py, commit 387c4ee of
# huangleiBuaa/ONI, in double precision.
AUTHORS_ONI = {
    (4, 3, 3, 3): (
        [0.21546871504170734, -0.24092269183793438, 0.19423721816753398],
        0.9999967845189508,
        0.9999927571897312,
    ),
    (6, 6, 1, 1): (
        [0.5721021783450826, -0.030011911835314858, 0.3103963078645418],
        0.9999927521374101,
        0.766143194023084,
    ),
    (12, 1, 2, 2): (
        [0.3015015614211468, -0.26454492409745906, 0.08561316987318926],
        0.9999939742932494,
        0.9999883762426718,
    ),
    (8, 4, 1, 1): (
        [0.4193459424932839, -0.31412021810562607, 0.04734386656838977],
        0.9999917385357099,
        0.9999328402059457,
    ),
}


def oni_of_sines(shape, **options):
    weight = 0.3 * torch.sin(torch.arange(1.0, math.prod(shape) + 1, dtype=torch.float64).square()).view(shape)
    conv = nn.Conv2d(shape[1], shape[0], shape[2])
    conv.weight = nn.Parameter(weight)
    return normalized("oni", conv, **options)


@pytest.mark.parametrize(("shape", "expected"), AUTHORS_ONI.items(), ids=str)
def test_oni_equals_the_authors_code(shape, expected):
    """Also for square matrices and those with more rows than columns."""
    entries, largest, smallest = expected
    matrix = oni_of_sines(shape).weight.detach().flatten(1)
    torch.testing.assert_close(matrix[0, :3], torch.tensor(entries, dtype=torch.float64), rtol=1e-6, atol=0)
    singular = torch.linalg.svdvals(matrix)
    rank = min(matrix.shape[0], matrix.shape[1] - 1)  # the mean of each row is 0
    assert singular[0].item() == pytest.approx(largest, rel=1e-6)
    assert singular[rank - 1].item() == pytest.approx(smallest, rel=1e-6)
    assert (singular[rank:] < 1e-10).all()


def test_oni_of_a_grouped_transposed_convolution_has_orthogonal_columns():
    torch.manual_seed(0)
    layer = normalized("oni", nn.ConvTranspose2d(6, 16, 1, groups=2), iterations=30)
    for block in layer.weight.detach().flatten(1).unflatten(0, (2, 3)):  # (inputs, outputs) of each group
        assert torch.linalg.svdvals(block).tolist() == pytest.approx([1, 1, 0], abs=1e-3)


def test_oni_learns_a_scale_for_each_output_channel():
    fixed, learned = oni_of_sines((4, 3, 3, 3), scale=1.414), oni_of_sines((4, 3, 3, 3), scale=1.414, learn_scale=True)
    assert torch.equal(fixed.weight, learned.weight)
    assert [name for name, _ in fixed.named_parameters()] == ["bias", "parametrizations.weight.original"]
    scale = dict(learned.named_parameters())["parametrizations.weight.0.scale"]
    assert scale.flatten().tolist() == [1.414] * 4
    learned.weight[2].sum().backward()
    assert scale.grad.flatten().bool().tolist() == [False, False, True, False]
    with torch.no_grad():
        scale[0, 2] *= 3
    ratios = (learned.weight / fixed.weight).mean((1, 2, 3))
    torch.testing.assert_close(ratios, torch.tensor([1.0, 1, 3, 1], dtype=torch.float64))


@pytest.mark.parametrize("name", ["weight", "bidirectional_spectral", "stable_rank", "oni"])
@pytest.mark.parametrize("make", [lambda: nn.Conv2d(2, 4, 3), lambda: nn.Linear(4, 3)])
def test_weight_of_zeros_is_finite_and_recovers(name, make):
    torch.manual_seed(0)
    layer = normalized(name, make())
    original = layer.parametrizations.weight
    original = original.original1 if name == "weight" else original.original
    expected, kept = layer.weight.detach(), original.detach().clone()
    nn.init.zeros_(original)
    layer.weight.sum().backward()
    assert torch.isfinite(layer.weight).all()
    assert torch.isfinite(original.grad).all()
    original.data.copy_(kept)
    torch.testing.assert_close(layer.weight, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", sorted(set(NORMALIZATIONS) - {"none", "gradient"}))
def test_weights_are_computed_without_autocast(name):
    layer = normalized(name, nn.Linear(64, 32)).eval()
    expected, enabled = layer.weight, []
    for parametrization in layer.parametrizations.weight:
        parametrization.register_forward_pre_hook(lambda *_: enabled.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, expected)
    assert enabled == [False]
