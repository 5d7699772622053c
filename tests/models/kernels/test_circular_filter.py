"""The circular filters of a GPU, which also run on a CPU, against the FFT."""

import pytest
import torch

from models.kernels import circular_filter, fourier
from models.kernels.circular_filter import Window

GRIDS = [(8, 8), (7, 5), (6, 9), (1, 4), (3, 2), (18, 20)]
FILTERS = {"one matrix": circular_filter._matrix_filter, "axes": circular_filter._separable_filter}


def choose_windows(height: int, width: int):
    """Return windows that are whole, cut, strided, and wrapped around the end of the grid."""
    yield Window(0, height, 1), Window(0, width, 1)
    yield Window(height // 3, height - height // 3, 1), Window(1, width - 1, 1)
    yield Window(0, (height + 1) // 2, 2), Window(width - 1, 2, 1)


def build(grid, dtype=torch.float64):
    torch.manual_seed(0)
    kernel = torch.randn(5, 3, min(2, grid[0]), 2, dtype=torch.float64)
    y = torch.randn(2, 5, *grid, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return y.requires_grad_(), fourier.preconditioner(kernel, grid, 1e-6)


def apply(function, y, v, window):
    """Filter from the whole grid to a window."""
    grid = tuple(y.shape[2:])
    return function(y, v, grid, (Window(0, grid[0], 1), Window(0, grid[1], 1)), window)


def filter_by_fft(y, v, window):
    return apply(circular_filter._fourier_filter, y, v, window)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", FILTERS)
def test_filter_and_gradients_equal_those_of_the_fft(name, grid):
    y, v = build(grid)
    v.requires_grad_()
    for window in choose_windows(*grid):
        results = []
        for function in (lambda y, v, w: apply(FILTERS[name], y, v, w), filter_by_fft):
            out = function(y, v, window)
            cotangent = torch.linspace(-1, 2, out.numel(), dtype=y.dtype).view(out.shape)
            results.append([out, *torch.autograd.grad(out, (y, v), cotangent)])
        interior = slice(1, (grid[1] + 1) // 2)  # the FFT uses some entries of the other columns twice, and some never
        for outputs in results:
            outputs[2] = outputs[2][..., interior]
        for result, expected in zip(*results, strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", FILTERS)
def test_filter_keeps_channels_last(name):
    y, v = build((8, 10))
    out = apply(FILTERS[name], y, v, (Window(1, 6, 1), Window(2, 8, 1)))
    assert out.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(out.sum(), y)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", FILTERS)
def test_error_of_16_bits(name):
    y, v = build((18, 18), torch.bfloat16)
    window = (Window(1, 16, 1), Window(1, 16, 1))
    exact = filter_by_fft(y.double(), v, window)
    out = apply(FILTERS[name], y, v, window)
    assert out.dtype == torch.bfloat16
    assert (out.double() - exact).norm() < 0.01 * exact.norm()
