"""ConvNorm against a dense matrix that is computed without autocorrelation, stride phases and FFTs."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from models.normalizations import build_normalization

EPS = 1e-6


def fourier_matrix(n):
    t = torch.arange(n, dtype=torch.float64)
    return torch.exp(-2j * math.pi * t[:, None] * t[None, :] / n)


def whitening_matrix(spectrum):
    """Return the dense matrix F^-1 diag(V) F on an (m_h, m_w) grid, for Σ|W^|² (m_h, m_w)."""
    forward = torch.kron(*(fourier_matrix(m) for m in spectrum.shape))
    v = torch.maximum(spectrum, EPS * spectrum.mean()).rsqrt().flatten() if spectrum.any() else spectrum.flatten() + 1
    return (forward.mH @ torch.diag(v.to(forward.dtype)) @ forward).real / len(forward)


def aliased_spectrum(kernel, grid, stride, dilation):
    """Return Σ_i |W^_oi|² (O, *grid): the mean over the s_h s_w aliases of the spectrum on the stride-1 grid."""
    for axis in (0, 1):
        fine = grid[axis] * stride[axis]
        w = torch.arange(fine, dtype=torch.float64)[:, None]
        taps = dilation[axis] * torch.arange(kernel.shape[2], dtype=torch.float64)
        transform = torch.exp(-2j * math.pi * w * taps / fine)
        kernel = torch.tensordot(kernel.to(transform.dtype), transform, dims=([2], [1]))  # h, then w
    power = kernel.abs().square().sum(1)
    return power.reshape(-1, stride[0], grid[0], stride[1], grid[1]).mean((1, 3))


def dense_groups(conv, transposed=False):
    """Return the kernel without groups, (O, I, kh, kw) with zeros between groups, and as (O, I / g, kh, kw)."""
    weight, g = conv.weight.detach(), conv.groups
    if transposed:
        weight = weight.unflatten(0, (g, -1)).transpose(1, 2).flatten(0, 1)
    full = weight.new_zeros(conv.out_channels, conv.in_channels, *weight.shape[2:])
    o, i = conv.out_channels // g, conv.in_channels // g
    for k in range(g):
        full[k * o : (k + 1) * o, k * i : (k + 1) * i] = weight[k * o : (k + 1) * o]
    return full, weight


def padding_sides(conv):
    """Return the padding (left, right, top, bottom) of a convolution."""
    if conv.padding == "valid":
        return 0, 0, 0, 0
    if conv.padding == "same":  # the extra pixel of an odd total is at the end
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
        return left, right, top, bottom
    height, width = conv.padding
    return width, width, height, height


def oracle(conv, size, mode):
    """Return the matrix of ConvNorm without affine part, (O, h', w', I, h, w), by loops over positions and taps."""
    full, weight = dense_groups(conv)
    kernel, dilation = conv.kernel_size, conv.dilation
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    stride = conv.stride if mode == "strided" else (1, 1)
    left, right, top, bottom = padding_sides(conv)
    starts, ends, n = [top, left], [bottom, right], list(size)
    wraps = conv.padding_mode == "circular" and all(
        a % s == 0 and a >= r for a, s, r in zip(n, stride, extents, strict=True)
    )
    embedding = torch.eye(math.prod(size), dtype=torch.float64).view(-1, 1, *size)
    if conv.padding_mode != "zeros" and not wraps:
        embedding = F.pad(embedding, (left, right, top, bottom), mode=conv.padding_mode)
        starts, ends, n = [0, 0], [0, 0], list(embedding.shape[2:])
    embedding = embedding.flatten(1).T.reshape(*n, *size)

    # Positions of the kernel's first tap on each axis, and the indices of those that the layer outputs.
    grids, kept = [], []
    for a in (0, 1):
        s, r = stride[a], extents[a]
        if wraps:
            grid = [-starts[a] + j * s for j in range(n[a] // s)]
        else:
            start = starts[a]
            while start < r - 1:
                start += s
            grid = list(range(-start, n[a] + start - r + 1, s))
        last = n[a] + ends[a] - r
        step = conv.stride[a]
        positions = range(-starts[a], last + 1, step)
        grids.append(grid)
        kept.append([(grid.index(p) if not wraps else ((p + starts[a]) // s) % len(grid)) for p in positions])
    m = [len(g) for g in grids]

    bare = torch.zeros(*m, *full.shape[:2], *n, dtype=torch.float64)
    for (jh, th), (jw, tw) in itertools.product(enumerate(grids[0]), enumerate(grids[1])):
        for a, b in itertools.product(range(kernel[0]), range(kernel[1])):
            h, w = th + a * dilation[0], tw + b * dilation[1]
            if wraps:
                h, w = h % n[0], w % n[1]
            if 0 <= h < n[0] and 0 <= w < n[1]:
                bare[jh, jw, :, :, h, w] += full[:, :, a, b]
    spectra = aliased_spectrum(weight, m, stride, dilation)
    rows = torch.stack(
        [
            (whitening_matrix(spectrum) @ bare[:, :, o].flatten(2).flatten(0, 1)).view(*m, -1, *n)
            for o, spectrum in enumerate(spectra)
        ]
    )
    rows = rows[:, kept[0]][:, :, kept[1]]
    return torch.tensordot(rows, embedding, dims=([4, 5], [0, 1]))


pairs = st.sampled_from([(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (1, 3), (3, 1), (2, 3), (4, 1)])


@st.composite
def convolutions(
    draw, padding_modes=("zeros", "circular", "reflect", "replicate"), strides=((1, 1), (2, 2), (3, 3), (1, 2))
):
    groups = draw(st.sampled_from([1, 1, 2]))
    kernel, stride = draw(pairs), draw(st.sampled_from(strides))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2)]))
    side = draw(st.tuples(st.integers(3, 8), st.integers(3, 8)))
    padding = draw(st.one_of(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.sampled_from(["same", "valid"])))
    mode = draw(st.sampled_from(padding_modes))
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    assume(padding != "same" or stride == (1, 1))
    torch.manual_seed(draw(st.integers(0, 1000)))
    conv = nn.Conv2d(
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        kernel,
        stride,
        padding,
        dilation,
        groups,
        padding_mode=mode,
        dtype=torch.float64,
    )
    left, right, top, bottom = padding_sides(conv)
    assume(side[0] + top + bottom >= extents[0] and side[1] + left + right >= extents[1])
    most = {"zeros": 99, "circular": 0, "reflect": 1, "replicate": 99}[mode]
    assume(max(top, bottom) <= side[0] - most and max(left, right) <= side[1] - most if most < 99 else True)
    return conv, side


@given(convolutions(), st.sampled_from(["paper", "strided"]))
@settings(max_examples=120, deadline=None, derandomize=True)
def test_convolution_equals_the_dense_matrix(case, mode):
    conv, side = case
    expected, bias, shape = (
        oracle(conv, side, mode),
        conv.bias.detach(),
        conv(torch.zeros(1, conv.in_channels, *side).double()).shape,
    )
    layer = build_normalization("conv_norm", affine=False, stride=mode, eps=EPS).normalize(conv)
    x = torch.randn(2, conv.in_channels, *side, dtype=torch.float64)
    y = layer(x)
    assert y.shape[1:] == shape[1:]
    torch.testing.assert_close(
        y, torch.einsum("ohwiab,niab->nohw", expected, x) + bias[:, None, None], rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("mode", ["paper", "strided"])
@pytest.mark.parametrize("side", [(3, 3), (3, 6), (6, 4)])
def test_circular_kernel_that_is_larger_than_its_input(side, mode):
    # Its taps would overlap on the grid of the input, so that the padded input has a larger grid, without wrapping.
    conv = nn.Conv2d(2, 2, 3, padding=2, dilation=2, padding_mode="circular", dtype=torch.float64)
    layer = build_normalization("conv_norm", affine=False, stride=mode, eps=EPS).normalize(conv)
    x = torch.randn(2, 2, *side, dtype=torch.float64)
    expected = torch.einsum("ohwiab,niab->nohw", oracle(conv, side, mode), x) + conv.bias[:, None, None]
    torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-8)


@given(convolutions(), st.sampled_from(["paper", "strided"]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_affine_part(case, mode):
    conv, side = case
    x = torch.randn(2, conv.in_channels, *side, dtype=torch.float64)
    expected = torch.einsum("ohwiab,niab->nohw", oracle(conv, side, mode), x)
    bias, (kh, kw) = conv.bias.detach(), conv.kernel_size
    layer = build_normalization("conv_norm", stride=mode, eps=EPS).normalize(conv)
    torch.testing.assert_close(
        layer(x), expected + bias[:, None, None], rtol=1e-6, atol=1e-8
    )  # the affine kernel is initially a delta
    nn.init.normal_(layer.affine.weight)
    expected = F.conv2d(
        F.pad(expected, ((kw - 1) // 2, kw // 2, (kh - 1) // 2, kh // 2)),
        layer.affine.weight,
        bias,
        groups=conv.out_channels,
    )
    torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-7)


@given(st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_default_equals_the_authors_algorithm(data):
    kernel = data.draw(pairs)
    padding = tuple(data.draw(st.integers(0, k - 1)) for k in kernel)
    stride, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    side = data.draw(st.tuples(st.integers(5, 8), st.integers(5, 8)))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    conv = nn.Conv2d(2, 4, kernel, stride, padding, groups=groups, dtype=torch.float64)
    x = torch.randn(2, 2, *side, dtype=torch.float64)
    with torch.no_grad():
        m = [n + k - 1 for n, k in zip(side, kernel, strict=True)]
        y = F.conv2d(x, conv.weight, padding=[k - 1 for k in kernel], groups=groups)
        v = torch.fft.rfft2(conv.weight, s=m).abs().square().sum(1).rsqrt()
        y = torch.fft.irfft2(torch.fft.rfft2(y) * v, s=m)
        (ch, cw) = (k - 1 - p for k, p in zip(kernel, padding, strict=True))
        expected = y[..., ch : m[0] - ch : stride, cw : m[1] - cw : stride] + conv.bias[:, None, None]
        layer = build_normalization("conv_norm", affine=False, eps=0.0).normalize(conv)
        torch.testing.assert_close(layer(x), expected)


def transposed_oracle(conv, size, output_size):
    """Return the matrix of a transposed ConvNorm without affine part, (O, h', w', I, h, w), phase by phase."""
    full, weight = dense_groups(conv, transposed=True)
    extents = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    (sh, sw), (dh, dw) = conv.stride, conv.dilation
    m = [n + -(-r // s) - 1 for n, r, s in zip(size, extents, conv.stride, strict=True)]
    out = torch.zeros(conv.out_channels, m[0] * sh + 20, m[1] * sw + 20, conv.in_channels, *size, dtype=torch.float64)
    for h, w, a, b in itertools.product(*map(range, (*size, *conv.kernel_size))):
        out[:, h * sh + a * dh, w * sw + b * dw, :, h, w] += full[:, :, a, b]
    dilated = weight.new_zeros(*weight.shape[:2], *extents)
    dilated[..., ::dh, ::dw] = weight
    for ph, pw in itertools.product(range(sh), range(sw)):
        spectra = aliased_spectrum(dilated[..., ph::sh, pw::sw], m, (1, 1), (1, 1))
        for o, spectrum in enumerate(spectra):
            phase = out[o, ph : m[0] * sh : sh, pw : m[1] * sw : sw]
            whitened = whitening_matrix(spectrum) @ phase.flatten(2).flatten(0, 1).flatten(1)
            out[o, ph : m[0] * sh : sh, pw : m[1] * sw : sw] = whitened.view_as(phase)
    top, side = conv.padding
    return out[:, top : top + output_size[0], side : side + output_size[1]]


@st.composite
def transposed_convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2]))
    kernel, stride = draw(pairs), draw(st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 2)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2)]))
    side = draw(st.tuples(st.integers(2, 5), st.integers(2, 5)))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    assume(
        all(
            (n - 1) * s + d * (k - 1) + 1 > 2 * p
            for n, s, d, k, p in zip(side, stride, dilation, kernel, padding, strict=True)
        )
    )
    torch.manual_seed(draw(st.integers(0, 1000)))
    channels = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    return nn.ConvTranspose2d(
        *channels, kernel, stride, padding, extra, groups, dilation=dilation, dtype=torch.float64
    ), side


@given(transposed_convolutions())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_transposed_convolution_equals_the_dense_matrix(case):
    conv, side = case
    x = torch.randn(2, conv.in_channels, *side, dtype=torch.float64)
    bias, shape = conv.bias.detach(), conv(x).shape
    expected = torch.einsum("ohwiab,niab->nohw", transposed_oracle(conv, side, shape[2:]), x) + bias[:, None, None]
    layer = build_normalization("conv_norm", affine=False, eps=EPS).normalize(conv)
    assert layer(x).shape == shape
    torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-8)
    with_affine = build_normalization("conv_norm", eps=EPS).normalize(conv)
    torch.testing.assert_close(with_affine(x), layer(x) if conv.bias is not None else expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_strided_mode_equals_paper_mode_at_stride_1(padding_mode):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1, padding_mode=padding_mode)
    x = torch.randn(2, 3, 7, 6)
    paper, strided = (
        build_normalization("conv_norm", affine=False, stride=s).normalize(conv) for s in ("paper", "strided")
    )
    assert torch.equal(paper(x), strided(x))
