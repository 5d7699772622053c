"""ConvNorm: co-isometry, edge cases, state and gradients. Its values are tested in test_conv_norm_oracle.py."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.normalizations import build_normalization, normalize


def conv_norm(layer, **options):
    return build_normalization("conv_norm", **options).normalize(layer)


def rows_by_channel(matrix, channels):
    """Return the matrix of a layer as (O, h w, inputs)."""
    return matrix.unflatten(0, (channels, -1))


@pytest.mark.parametrize("mode", ["paper", "strided"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 4])
def test_output_channels_are_co_isometries_with_circular_padding(dense_matrix, mode, groups, stride, kernel):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, kernel, stride, kernel // 2, groups=groups, padding_mode="circular", dtype=torch.float64)
    height, width = conv(torch.zeros(1, 4, 6, 8).double()).shape[2:]
    matrix = dense_matrix(conv_norm(conv, affine=False, stride=mode), (4, 6, 8))
    for rows in rows_by_channel(matrix, 6):
        # With an even kernel, p = k / 2 gives n + 1 outputs, of which the last repeats the first.
        rows = rows.view(height, width, -1)[: 6 // stride, : 8 // stride].flatten(0, 1)
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64))


@pytest.mark.parametrize("mode", ["paper", "strided"])
@pytest.mark.parametrize("kernel", [3, 4])
def test_norms_with_zero_padding(dense_matrix, mode, kernel):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, kernel, 2, 1, dtype=torch.float64)
    matrix = dense_matrix(conv_norm(conv, affine=False, stride=mode), (3, 8, 8))
    assert torch.linalg.matrix_norm(matrix, 2) <= math.sqrt(5)
    for rows in rows_by_channel(matrix, 5):
        assert torch.linalg.matrix_norm(rows, 2) <= 1 + 1e-12
        assert rows.norm(dim=1).max() > 0.9


def test_transposed_rows_are_unit_if_the_kernel_equals_the_stride(dense_matrix):
    torch.manual_seed(0)
    matrix = dense_matrix(conv_norm(nn.ConvTranspose2d(3, 4, 2, 2, dtype=torch.float64), affine=False), (3, 4, 4))
    torch.testing.assert_close(matrix.norm(dim=1), torch.ones(4 * 64, dtype=torch.float64))


def test_linear_and_embedding_rows():
    for layer in (nn.Linear(5, 4), nn.Embedding(4, 5)):
        with torch.no_grad():
            layer.weight[1] = 0
        weight = conv_norm(layer).weight
        torch.testing.assert_close(weight.norm(dim=1), torch.tensor([1.0, 0, 1, 1]))
        weight.sum().backward()
        assert torch.isfinite(layer.parametrizations.weight.original.grad).all()


@pytest.mark.parametrize("through_gradient", [False, True])
@pytest.mark.parametrize("layer_type", [nn.Conv2d, nn.ConvTranspose2d])
def test_filter_of_zeros_is_finite(layer_type, through_gradient):
    conv = layer_type(2, 3, 3, padding=1)
    nn.init.zeros_(conv.weight)
    layer = conv_norm(conv, through_gradient=through_gradient)
    y = layer(torch.randn(2, 2, 6, 6))
    y.square().sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(layer.conv.weight.grad).all()


@pytest.mark.parametrize("through_gradient", [False, True])
def test_zero_of_the_spectrum_is_finite(through_gradient):
    conv = nn.Conv2d(1, 1, (1, 2), padding_mode="circular", padding=(0, 1), bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[1.0, 1.0]]]]))  # no response at the Nyquist frequency
    layer = conv_norm(conv, affine=False, through_gradient=through_gradient)
    y = layer(torch.randn(1, 1, 4, 8))
    y.square().sum().backward()
    assert torch.isfinite(y).all()
    assert y.abs().max() < 1e3
    assert torch.isfinite(layer.conv.weight.grad).all()


@pytest.mark.parametrize("running_average", [False, True])
def test_other_input_sizes_in_evaluation_and_after_loading(running_average):
    torch.manual_seed(0)
    layer, fresh = (conv_norm(nn.Conv2d(2, 3, 3, padding=1), running_average=running_average) for _ in range(2))
    layer(torch.randn(1, 2, 8, 8))
    fresh(torch.randn(1, 2, 5, 5))
    fresh.load_state_dict(layer.state_dict())
    for size in (8, 5, 11):
        x = torch.randn(1, 2, size, size)
        assert torch.equal(layer.eval()(x), fresh.eval()(x))


def test_running_average():
    torch.manual_seed(0)
    layer = conv_norm(nn.Conv2d(2, 3, 3, padding=1), running_average=True, affine=False, stride="paper")
    x = torch.randn(1, 2, 6, 6)
    expected = None
    for step in range(3):
        nn.init.normal_(layer.conv.weight)
        layer(x)
        v = torch.fft.rfft2(layer.conv.weight.detach().double(), s=(8, 8)).abs().square().sum(1).rsqrt().float()
        w = max(0.5 * (math.cos(math.pi * step / 40000) + 1), 0.01)
        expected = v if step == 0 else w * v + (1 - w) * expected
    torch.testing.assert_close(layer.average.average, expected)
    with torch.no_grad():
        y = F.conv2d(x, layer.conv.weight, padding=2)
        y = torch.fft.irfft2(torch.fft.rfft2(y) * expected, s=(8, 8))[..., 1:-1, 1:-1]
        torch.testing.assert_close(layer.eval()(x), y + layer.conv.bias[:, None, None])

    layer.train().average.steps.fill_(50000)  # after the ramp
    nn.init.normal_(layer.conv.weight)
    layer(x)
    assert layer.average.steps == 50001
    assert not torch.allclose(layer.average.average, expected)
    torch.testing.assert_close(layer.average.average, expected, rtol=0.5, atol=0.5)
    assert {"average.average", "average.steps"} <= set(layer.state_dict())


# Every seventh entry of the outputs of `Preconditioned_Conv2d(2, 3, k, 2, padding)` of the authors' code, with
# `torch.rfft` replaced by `torch.fft.rfft2`, for the weights and inputs of the test: two steps of training, evaluation.
AUTHORS = {
    3: [
        [1.461222, -0.920428, -0.805634, -1.706758, 0.269496, -0.35538, 0.929378, 0.326638],
        [1.021414, 0.205693, -1.047893, -0.049305, 2.029411, 0.512529, -0.339052, 0.39452],
        [0.080001, -1.369911, 1.452136, 0.840195, -1.749447, -1.443777, 0.068119, 0.975006],
    ],
    1: [
        [-1.79056, 1.09668, -0.754919, 0.095759, 1.049722, 0.279446, 1.198376, 1.110344],
        [-0.29744, -0.342365, -1.514972, -0.064174, -1.5176, 1.58501, 1.031035, -1.600856],
        [-1.105743, -0.724357, 0.691577, 0.760425, -0.680118, -1.433867, -0.300299, 0.979454],
    ],
}


@pytest.mark.parametrize("kernel", AUTHORS)
def test_authors_variant_equals_their_code(kernel):
    def wave(*shape, phase):
        steps = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
        return torch.cos(steps**1.5 + phase).view(shape)

    layer = conv_norm(nn.Conv2d(2, 3, kernel, 2, kernel // 2, bias=False), variant="authors").double()
    with torch.no_grad():
        layer.affine.weight.copy_(wave(3, 1, kernel, kernel, phase=2))
        layer.affine.bias.copy_(wave(3, phase=3))
        outputs = []
        for step in range(2):
            layer.weight.copy_(wave(3, 2, kernel, kernel, phase=step))
            outputs.append(layer(wave(2, 2, 5, 5, phase=step)))
        outputs.append(layer.eval()(wave(2, 2, 5, 5, phase=5)))
    assert outputs[0].shape == (2, 3, 3, 3)
    actual = torch.stack([output.flatten()[::7] for output in outputs])
    torch.testing.assert_close(actual, torch.tensor(AUTHORS[kernel]).double(), rtol=0, atol=2e-6)


def test_authors_variant_initializes_and_leaves_linear_layers():
    torch.manual_seed(0)
    depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    conv = nn.Conv2d(2, 6, 3, bias=False)
    torch.manual_seed(0)
    affine = conv_norm(conv, variant="authors").affine
    torch.testing.assert_close(affine.weight, depthwise.weight)
    torch.testing.assert_close(affine.bias, depthwise.bias)
    options = build_normalization("conv_norm", variant="authors")
    assert type(normalize(nn.Sequential(nn.Conv2d(2, 6, 3), nn.Linear(4, 2)), options)[1]) is nn.Linear
    assert (options.stride, options.batch_norm, options.running_average) == ("paper", True, True)


def test_no_state_without_running_average():
    layer = conv_norm(nn.Conv2d(2, 3, 3, padding=1))
    x = torch.randn(1, 2, 6, 6)
    assert list(layer.buffers()) == []
    assert torch.equal(layer.train()(x), layer.eval()(x))


@pytest.mark.parametrize("layer_type", [nn.Conv2d, nn.ConvTranspose2d])
def test_bfloat16_and_autocast(layer_type):
    torch.manual_seed(0)
    layer = conv_norm(layer_type(4, 4, 3, padding=1), affine=False)
    x = torch.randn(2, 4, 8, 8)
    half = copy.deepcopy(layer).bfloat16()
    y = half(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)


def test_order_of_bias_and_batch_norm():
    torch.manual_seed(0)
    layer = conv_norm(nn.Conv2d(2, 3, 3, padding=1), batch_norm=True, affine=False)
    with torch.no_grad():
        layer.conv.bias.copy_(torch.tensor([5.0, -3.0, 0.0]))
    x = torch.randn(4, 2, 6, 6)
    y = layer(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    bare = copy.deepcopy(layer)
    bare.batch_norm = None
    zero = bare(torch.zeros(1, 2, 6, 6))
    torch.testing.assert_close(zero, layer.conv.bias.detach()[:, None, None].expand(1, 3, 6, 6))


def test_unbatched_inputs_and_output_size():
    conv, transposed = nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(2, 3, 3, 2)
    x = torch.randn(2, 6, 6)
    layer = conv_norm(conv)
    torch.testing.assert_close(layer(x), layer(x[None])[0])
    layer = conv_norm(transposed)
    assert layer(x, output_size=[14, 13]).shape == (3, 14, 13)


def test_kernel_larger_than_the_padded_input():
    with pytest.raises(ValueError, match=r"kernel of size \(3, 5\) does not fit into an input of size \(4, 4\)"):
        conv_norm(nn.Conv2d(1, 1, (3, 5)))(torch.zeros(1, 1, 4, 4))


def test_weight_is_read_once():
    for bare in (nn.Conv2d(2, 3, 3, padding=1), nn.ConvTranspose2d(2, 3, 3)):
        layer = conv_norm(normalize(bare, "spectral_conv"))
        parametrization = layer.conv.parametrizations.weight[0]
        before = int(parametrization.accesses)
        layer(torch.randn(1, 2, 6, 6))
        assert parametrization.accesses == before + 1


class Smooth(nn.Module):
    """The layer followed by tanh, so that second derivatives are not zero."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return torch.tanh(self.layer(x)).sum((2, 3))


@pytest.mark.parametrize("mode", ["paper", "strided"])
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(2, 3, 3, 2, 1),
        nn.Conv2d(2, 2, 4, 2, 1, groups=2, padding_mode="circular"),
        nn.ConvTranspose2d(2, 3, 3, 2, 1),
    ],
    ids=["conv", "circular", "transposed"],
)
def test_first_and_second_derivatives(conv, mode):
    torch.manual_seed(0)
    layer = conv_norm(copy.deepcopy(conv), stride=mode).double()
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Smooth(layer), (x,))
    assert torch.autograd.gradgradcheck(Smooth(layer), (x,), fast_mode=True)


@pytest.mark.parametrize("layer_type", [nn.Conv2d, nn.ConvTranspose2d])
def test_through_gradient(layer_type):
    torch.manual_seed(0)
    layer = conv_norm(layer_type(2, 2, 3, 2, 1, bias=False), affine=False, through_gradient=True).double()
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64)
    weight = layer.conv.weight.detach().clone().requires_grad_()

    def output(weight):
        return torch.func.functional_call(layer, {"conv.weight": weight}, (x,))

    assert torch.autograd.gradcheck(output, (weight,))
    assert torch.autograd.gradgradcheck(output, (weight,), fast_mode=True)


def test_v_is_constant_for_the_gradient_by_default():
    torch.manual_seed(0)
    layer = conv_norm(nn.Conv2d(2, 3, 3, padding=1), affine=False, stride="paper").double()
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    direction = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    (layer(x) * direction).sum().backward()
    weight = layer.conv.weight.detach().clone().requires_grad_()
    v = torch.fft.rfft2(weight.detach(), s=(7, 7)).abs().square().sum(1).rsqrt()
    y = torch.fft.irfft2(torch.fft.rfft2(F.conv2d(x, weight, padding=2)) * v, s=(7, 7))[..., 1:-1, 1:-1]
    (y * direction).sum().backward()
    torch.testing.assert_close(layer.conv.weight.grad, weight.grad)


@pytest.mark.parametrize("mode", ["paper", "strided"])
@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_unit_rows_at_each_frequency_after_training(dense_matrix, kernel, stride, mode):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, kernel, stride, 1, padding_mode="circular")
    layer = conv_norm(conv, affine=False, stride=mode)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    target = torch.randn(8, 6, *layer(torch.zeros(1, 4, 8, 8)).shape[2:])
    for _ in range(30):
        optimizer.zero_grad()
        F.mse_loss(layer(torch.randn(8, 4, 8, 8)), target).backward()
        optimizer.step()
    matrix = dense_matrix(layer.double().eval(), (4, 8, 8))
    # With an even kernel, p = 1 gives n - 1 outputs at stride 1: a subset of the orthonormal rows of the circular map.
    for rows in rows_by_channel(matrix, 6):
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64))
