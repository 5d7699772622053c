"""Where a fast algorithm replaces PyTorch's own operations.

All decisions by device, dtype, size, compilation and tracing are made here. Whether a fast algorithm computes the same
function for a layer (its stride, padding and so on) is decided by its caller.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, fx

from models.kernels import winograd

Fusion = Literal["map", "kernel"]
"""What a convolution that is fused with resampling blurs"""

WINOGRAD_CHANNELS = 128
"""Smallest number of input and output channels for which Winograd's transforms of the tiles are worthwhile"""
WINOGRAD_SIZE = {torch.float32: 2**16, torch.bfloat16: 2**17}
"""Smallest channels times tiles of a batch for which Winograd's transforms of the kernels are worthwhile, by dtype"""
BILINEAR_SIDE = 8
"""Smallest side of a map for which fused bilinear upsampling is faster: on smaller maps its edges cost too much"""
DENSE_SIDE = 64
"""Largest side of a grid for which a dense transform is faster than the FFT on a CPU"""
SPECTRUM_ENTRIES = 2**20
"""Largest number of entries of the constant matrix that computes spectra on a GPU; they are in double precision"""
FILTER_POSITIONS = {2: 1600, 4: 128, 8: 128}
"""By bytes of a number: largest number of positions of a grid on which a GPU filters by one matrix"""
FILTER_SIDE = 160
"""Largest side of a grid on which a GPU filters by a matrix for each axis, if not by one matrix"""

FUSED_RESAMPLING: dict[str, dict[str, Fusion]] = {
    "cpu": {"average": "map", "nearest": "map", "bilinear": "map"},
    "cuda": {"average": "kernel", "nearest": "kernel"},
}
"""By type of device and mode: the form of `models.kernels.fused` that was measured to be faster than the plain form
(docs/benchmarks.md)"""

_plain = False


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Run convolutions, also next to resampling, by PyTorch's own operations inside the context.

    The setting holds for the whole process. The results are the same function, rounded differently. `conv_then_pool`
    and `upsample_then_conv` then resample outside of the layer, so that a hook sees the convolution's own input and
    output. The filter of ConvNorm is no convolution and is not affected.
    """
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Return a context in which autocast is off for a device. The meta device has no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def is_enabled(x: Tensor) -> bool:
    """Return whether fast convolutions may be used for x.

    They need a batch (B, C, H, W), and are not used inside `plain_kernels` or while torch.fx traces.
    """
    return not _plain and not isinstance(x, fx.Proxy) and x.dim() == 4


def winograd_is_faster(x: Tensor, out_channels: int, padding: int) -> bool:
    """Return whether `winograd.conv3x3` accepts x (B, I, H, W) and is faster than PyTorch's convolution."""
    if not is_enabled(x) or x.device.type != "cpu" or type(x) is not Tensor or not 0 <= padding <= 2:
        return False  # subclasses of Tensor record, count or fake operations
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return False
    dtype = winograd.compute_dtype(x)
    if dtype not in WINOGRAD_SIZE:
        return False
    rows, columns = winograd.tile_counts(x.shape[2:], padding)
    channels = min(x.shape[1], out_channels)
    large = channels >= WINOGRAD_CHANNELS and channels * len(x) * rows * columns >= WINOGRAD_SIZE[dtype]
    return large and x.is_contiguous(memory_format=torch.channels_last)


def choose_resampling(x: Tensor, mode: str) -> Fusion | None:
    """Return how a convolution of x (B, I, H, W) should be fused with upsampling before or averaging after it.

    `mode` is nearest, bilinear or average. None means that it should not be fused.
    """
    if not is_enabled(x) or (mode == "bilinear" and min(x.shape[2:]) < BILINEAR_SIDE):
        return None
    return FUSED_RESAMPLING.get(x.device.type, {}).get(mode)


def channels_last_is_faster(x: Tensor) -> bool:
    """Return whether x (B, C, H, W) should be upsampled in channels last, whatever its layout.

    The other kernels of a GPU go through all images and channels in each thread.
    """
    return x.device.type != "cpu"


def explicit_padding_is_faster(x: Tensor, stride: Sequence[int]) -> bool:
    """Return whether padding of more than half a kernel should be done before the convolution.

    The gradients of oneDNN's stride-1 convolution are slow for such a padding.
    """
    return tuple(stride) == (1, 1) and x.device.type == "cpu"


def gram_is_faster(matrix: Tensor) -> bool:
    """Return whether singular values of a matrix in double precision should be computed from its Gram matrix.

    On a GPU an SVD is much slower than the symmetric eigenproblem of the smaller side. The Gram matrix squares the
    values, so that those below about 1e-7 of the largest drown in its rounding error.
    """
    return matrix.device.type != "cpu"


def reading_waits(x: Tensor) -> bool:
    """Return whether the host waits if it reads x, so that an iteration should seldom test whether it has converged."""
    return x.device.type != "cpu"


def dense_filter_is_faster(y: Tensor, grid: Sequence[int]) -> bool:
    """Return whether a circular filter of y (B, O, h, w) on `grid` is faster by dense transforms than by the FFT."""
    return y.device.type == "cpu" and max(grid) <= DENSE_SIDE and not torch.compiler.is_compiling()


def launches_matter(x: Tensor) -> bool:
    """Return whether small operations on x cost a kernel launch: on a GPU, without a compiler that merges them."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return False
    return x.device.type != "cpu"


def spectrum_by_matrix_is_faster(kernel: Tensor, grid: Sequence[int]) -> bool:
    """Return whether the spectra of a kernel (O, I, kh, kw) on `grid` should be computed by a matrix, not the FFT.

    The matrix needs fewer kernel launches, which is what a small computation costs on a GPU.
    """
    entries = math.prod(kernel.shape[2:]) ** 2 * grid[0] * (grid[1] // 2 + 1)
    return kernel.device.type != "cpu" and entries <= SPECTRUM_ENTRIES


def filter_by_matrix_is_faster(y: Tensor) -> bool:
    """Return whether a circular filter of y (B, O, m_h, m_w) should be a product with one matrix and its inverse."""
    return y.device.type != "cpu" and math.prod(y.shape[-2:]) <= FILTER_POSITIONS[y.dtype.itemsize]


def filter_by_axes_is_faster(y: Tensor) -> bool:
    """Return whether a circular filter of y (B, O, m_h, m_w) should be matrix products along each axis, not the FFT.

    They need no copies to other layouts, and have 16 bits if y has.
    """
    return y.device.type != "cpu" and max(y.shape[-2:]) <= FILTER_SIDE


def batched_spectral_norm_is_faster(weight: Tensor) -> bool:
    """Return whether the spectral norms of all layers of a network should be computed together.

    This launches a quarter of the kernels, and rounds differently.
    """
    return weight.device.type != "cpu"
