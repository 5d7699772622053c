"""ConvNorm by the algorithms of a GPU, which also run on a CPU, against those of a CPU."""

import copy

import pytest
import torch
from torch import nn

from models.kernels import fourier, switch
from models.normalizations import build_normalization


def conv_norm(layer, **options):
    return build_normalization("conv_norm", **options).normalize(layer)


@pytest.fixture
def like_a_gpu(monkeypatch):
    """Return a function that makes the CPU use a GPU's algorithms from then on."""

    def use():
        monkeypatch.setattr(switch, "launches_matter", lambda x: True)
        monkeypatch.setattr(switch, "dense_filter_is_faster", lambda y, grid: False)
        monkeypatch.setattr(switch, "filter_by_matrix_is_faster", lambda y: y.shape[-2:].numel() <= 400)

    return use


CASES = {
    "3x3": (lambda: nn.Conv2d(4, 6, 3, padding=1), 8),
    "large": (lambda: nn.Conv2d(4, 6, 3, padding=1), 20),
    "strided": (lambda: nn.Conv2d(4, 6, 4, 2, 1), 30),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), 8),
    "wrapped": (lambda: nn.Conv2d(4, 6, 4, padding=2, padding_mode="circular"), 18),
    "dilated": (lambda: nn.Conv2d(4, 6, (3, 2), dilation=2), 9),
    "1x1": (lambda: nn.Conv2d(4, 6, 1, 2), 7),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1), 7),
    "large transposed": (lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1), 14),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": "paper", "affine": False}, {"through_gradient": True}, {"running_average": True}],
    ids=["default", "paper", "through_gradient", "running_average"],
)
def test_equals_the_cpu(like_a_gpu, case, options):
    torch.manual_seed(0)
    build, side = CASES[case]
    layer = conv_norm(build(), **options).double()
    with torch.no_grad():
        layer.conv.weight[:, 1] = 0  # for the transposed convolution, a filter of zeros
        layer.conv.weight[1] = 0
    x = torch.randn(2, 4, side, side, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]

    def results():
        y = layer(x)
        first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), inputs)
        return [y, *first, *second, *layer.buffers()]

    expected = copy.deepcopy([t.detach() for t in results()])
    for buffer in layer.buffers():
        buffer.zero_()
    like_a_gpu()
    for result, reference in zip(results(), expected, strict=True):
        largest = float(reference.abs().max())
        torch.testing.assert_close(result.detach(), reference, rtol=1e-12, atol=1e-12 * largest)


@pytest.mark.parametrize("eps", [1e-6, 1e-3, 0.0])
@pytest.mark.parametrize("grid", [(6, 8), (7, 5), (34, 34), (3, 4), (40, 33)])
@pytest.mark.parametrize("size", [(3, 3), (1, 4), (2, 1)])
def test_v_by_a_matrix(like_a_gpu, size, grid, eps):
    torch.manual_seed(0)
    kernel = torch.randn(5, 3, *size)
    kernel[1] = 0
    expected = fourier.preconditioner(kernel, grid, eps)
    like_a_gpu()
    v = fourier.preconditioner(kernel, grid, eps)
    torch.testing.assert_close(v, expected, rtol=1e-12, atol=0)
    assert torch.equal(v[1], torch.ones_like(v[1]))
    v = fourier.preconditioner(1e-15 * kernel, grid, eps)
    torch.testing.assert_close(v[[0, 2, 3, 4]], 1e15 * expected[[0, 2, 3, 4]], rtol=1e-6, atol=0)


@pytest.mark.parametrize("gpu", [False, True])
def test_v_near_a_zero_of_the_spectrum(like_a_gpu, gpu):
    if gpu:
        like_a_gpu()
    kernel = torch.tensor([1.0, 1.0]).view(1, 1, 1, 2)
    w = torch.arange(17, dtype=torch.float64)
    spectrum = (2 + 2 * torch.cos(2 * torch.pi * w / 32)).clamp(min=1e-3 * 2)  # zero at the last frequency
    v = fourier.preconditioner(kernel, (1, 32), 1e-3)
    torch.testing.assert_close(v, spectrum.rsqrt()[None, None], rtol=1e-12, atol=0)


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_v_is_computed_in_double_precision_under_autocast(like_a_gpu, gpu, size):
    if gpu:
        like_a_gpu()
    torch.manual_seed(0)
    kernel = torch.randn(4, 3, size, size)
    expected = fourier.preconditioner(kernel, (10, 10), 1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        v = fourier.preconditioner(kernel, (10, 10), 1e-6)
    assert v.dtype == torch.float64
    assert torch.equal(v, expected)


def test_constants_of_an_evaluation_serve_training(like_a_gpu):
    like_a_gpu()
    layer = conv_norm(nn.Conv2d(2, 3, (2, 3)), through_gradient=True)
    x = torch.randn(1, 2, 9, 6)  # no other test has this grid
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert layer.conv.weight.grad.isfinite().all()


def test_running_average_is_changed_in_place():
    layer = conv_norm(nn.Conv2d(2, 3, 3, padding=1), running_average=True)
    x = torch.randn(1, 2, 6, 6)
    layer(x)
    average, steps = layer.average.average, layer.average.steps
    nn.init.normal_(layer.conv.weight)
    before = average.clone()
    layer(x)
    assert layer.average.average is average
    assert layer.average.steps is steps
    assert steps == 2
    assert not torch.equal(average, before)


@pytest.mark.parametrize("mode", ["paper", "strided"])
def test_bias_without_an_affine_part_on_a_large_grid(mode):
    torch.manual_seed(0)
    layer = conv_norm(nn.Conv2d(2, 3, 3, 2, 1), affine=False, stride=mode).double()
    x = torch.randn(1, 2, 70, 132, dtype=torch.float64)  # filtered by FFTs on a CPU, too
    y = layer(x)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()
    torch.testing.assert_close(layer.conv.bias.grad, direction.sum((0, 2, 3)))
    small = torch.func.functional_call(layer, {"conv.bias": torch.zeros_like(layer.conv.bias)}, (x,))
    torch.testing.assert_close(y, small + layer.conv.bias[:, None, None])
