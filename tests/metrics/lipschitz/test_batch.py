"""Networks whose outputs for a batch depend on each other have no certified bound."""

import math

import pytest
import torch
from torch import nn

from metrics.lipschitz import certify

SHAPE = (3, 4, 4)


class Of(nn.Module):
    """The network x -> function(convolution(x))."""

    def __init__(self, function):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.function(self.convolution(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h - h.mean(0),
        lambda h: h.sum(0),
        lambda h: (h, h.mean(0, keepdim=True).mean()),
        lambda h: {"logits": h.flatten(1).sum(1) + 0.01 * h.amax()},
        lambda h: h.flip(0),
    ],
    ids=["mean", "sum", "second output", "maximum", "order"],
)
def test_mixed_batch_has_no_bound(function):
    torch.manual_seed(0)
    assert certify(Of(function), SHAPE) == (math.inf, "the outputs of a batch depend on each other")


@pytest.mark.parametrize(
    "function",
    [
        lambda h: (h, torch.ones(3)),
        lambda h: h + torch.randn_like(h),
        lambda h: h.flatten(1).sum(1, keepdim=True),
    ],
    ids=["constant", "noise", "logits"],
)
def test_other_networks_have_one(function):
    torch.manual_seed(0)
    assert certify(Of(function), SHAPE).bound < 10
