"""Shared layers: resolutions, labels, projection head, self-attention, convolutions combined with resampling."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.kernels.fused import conv_then_pool, upsample, upsample_then_conv
from models.networks.layers import ProjectionHead, SelfAttention, check_labels, split_resolution


@pytest.mark.parametrize(
    ("resolution", "expected"), [(16, (4, 2)), (28, (7, 2)), (32, (4, 3)), (48, (6, 3)), (96, (6, 4)), (128, (4, 5))]
)
def test_split_resolution(resolution, expected):
    assert split_resolution(resolution) == expected
    base_size, doublings = expected
    assert base_size * 2**doublings == resolution


@pytest.mark.parametrize("resolution", [1, 4, 7, 9, 18, 31, 33, 50, 72])
def test_split_resolution_rejects_unsupported_resolutions(resolution):
    with pytest.raises(ValueError, match=f"no network for {resolution} x {resolution} images"):
        split_resolution(resolution)


def test_split_resolution_with_base_size():
    assert split_resolution(32, 8) == (8, 2)
    assert split_resolution(32, 1) == (1, 5)
    for base_size in (5, 32, 64):
        with pytest.raises(ValueError, match=f"base_size={base_size} times a power of 2"):
            split_resolution(32, base_size)


def test_check_labels():
    y = torch.tensor([0])
    check_labels(y, 2)
    check_labels(None, None)
    with pytest.raises(ValueError, match="needs labels"):
        check_labels(None, 2)
    with pytest.raises(ValueError, match="unconditional"):
        check_labels(y, None)


def test_projection_head():
    head, features, y = ProjectionHead(7, num_classes=3), torch.randn(4, 7), torch.tensor([0, 2, 2, 1])
    logits = head(features, y)
    assert logits.shape == (4,)
    for i, c in enumerate(y):
        expected = (head.linear.weight[0] + head.embedding.weight[c]) @ features[i] + head.linear.bias[0]
        torch.testing.assert_close(logits[i], expected)


def test_projection_head_without_classes():
    head, features = ProjectionHead(7, bias=False), torch.randn(4, 7)
    assert [name for name, _ in head.named_parameters()] == ["linear.weight"]
    torch.testing.assert_close(head(features), features @ head.linear.weight[0])


def test_attention_is_initially_the_identity():
    x = torch.randn(2, 16, 6, 6)
    assert torch.equal(SelfAttention(16)(x), x)


def test_attention_matches_its_formula():
    attention, x = SelfAttention(16).double(), torch.randn(2, 16, 4, 6, dtype=torch.double)
    nn.init.constant_(attention.gamma.weight, 0.7)
    weights = {name: getattr(attention, name).weight[:, :, 0, 0] for name in ("query", "key", "value", "output")}
    assert {name: tuple(w.shape) for name, w in weights.items()} == {
        "query": (2, 16),
        "key": (2, 16),
        "value": (8, 16),
        "output": (16, 8),
    }
    for image, result in zip(x, attention(x), strict=True):
        q = torch.einsum("oi,ihw->ohw", weights["query"], image).flatten(1)
        k, v = (F.max_pool2d(torch.einsum("oi,ihw->ohw", weights[n], image), 2).flatten(1) for n in ("key", "value"))
        columns = []
        for position in range(q.shape[1]):
            beta = torch.exp(k.T @ q[:, position])
            columns.append(v @ (beta / beta.sum()))
        attended = weights["output"] @ torch.stack(columns, dim=1)
        torch.testing.assert_close(result, image + 0.7 * attended.view_as(image))


def test_attention_second_derivatives():
    attention, x = SelfAttention(4).double(), torch.randn(1, 4, 2, 2, dtype=torch.double, requires_grad=True)
    nn.init.constant_(attention.gamma.weight, 0.7)
    assert torch.autograd.gradgradcheck(attention, x)


def test_attention_parameters_get_gradients_for_nonzero_gamma():
    attention, x = SelfAttention(16), torch.randn(2, 16, 4, 4)
    attention(x).square().sum().backward()
    assert attention.gamma.weight.grad != 0
    assert not attention.query.weight.grad.any()  # because gamma is 0
    nn.init.constant_(attention.gamma.weight, 0.1)
    attention(x).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad.any(), name


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsample_then_conv(mode):
    conv, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 4, 4)
    output = upsample_then_conv(conv, x, mode)
    assert output.shape == (2, 5, 8, 8)
    torch.testing.assert_close(output, conv(nn.Upsample(scale_factor=2, mode=mode)(x)))


def test_conv_then_pool():
    conv, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 8, 8)
    full = conv(x)
    mean = (full[..., ::2, ::2] + full[..., 1::2, ::2] + full[..., ::2, 1::2] + full[..., 1::2, 1::2]) / 4
    torch.testing.assert_close(conv_then_pool(conv, x), mean)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_1x1_convolution_commutes_with_upsampling(mode):
    conv, x = nn.Conv2d(3, 5, 1).double(), torch.randn(2, 3, 5, 5, dtype=torch.double)
    torch.testing.assert_close(upsample(conv(x), mode), upsample_then_conv(conv, x, mode), rtol=0, atol=1e-14)


@pytest.mark.parametrize("side", [6, 7])
def test_1x1_convolution_commutes_with_average_pooling(side):
    conv, x = nn.Conv2d(3, 5, 1).double(), torch.randn(2, 3, side, side, dtype=torch.double)
    torch.testing.assert_close(conv(F.avg_pool2d(x, 2)), conv_then_pool(conv, x), rtol=0, atol=1e-14)
