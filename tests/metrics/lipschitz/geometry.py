"""A hypothesis strategy for convolutions of any geometry, and the exact norm by a dense SVD."""

import math

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import nn


def dense_norm(layer, input_shape):
    """Return the largest singular value of the matrix whose columns are layer(e_i) - layer(0)."""
    basis = torch.eye(math.prod(input_shape), dtype=torch.float64).view(-1, *input_shape)
    with torch.no_grad():
        matrix = (layer(basis) - layer(torch.zeros_like(basis[:1]))).flatten(1)
    return torch.linalg.matrix_norm(matrix, 2).item()


@st.composite
def convolutions(draw, padding_modes=("zeros", "circular", "reflect", "replicate"), max_groups=2):
    """Draw a convolution or transposed convolution in double precision, and a valid input shape (C, H, W)."""
    groups = draw(st.integers(1, max_groups))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    side = draw(st.tuples(st.integers(4, 9), st.integers(4, 9)))
    options = {
        "in_channels": groups * draw(st.integers(1, 4)),
        "out_channels": groups * draw(st.integers(1, 4)),
        "kernel_size": kernel,
        "stride": draw(st.integers(1, 3)),
        "padding": draw(st.integers(0, 2)),
        "dilation": draw(st.sampled_from([1, 1, 2])),
        "groups": groups,
    }
    extents = [options["dilation"] * (k - 1) + 1 for k in kernel]
    transposed = draw(st.booleans())
    if transposed:
        sizes = [(n - 1) * options["stride"] + k - 2 * options["padding"] for n, k in zip(side, extents, strict=True)]
        assume(min(sizes) > 0)
    else:
        assume(all(n + 2 * options["padding"] >= k for n, k in zip(side, extents, strict=True)))
        options["padding_mode"] = draw(st.sampled_from(padding_modes))
    torch.manual_seed(draw(st.integers(0, 1000)))
    layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(**options, dtype=torch.float64)
    return layer.requires_grad_(False), (options["in_channels"], *side)
