"""Kernel launches of a ConvNorm layer on a GPU. Each number may fall; a higher one costs time in each step."""

import pytest
import torch
from torch import nn

from models.normalizations import build_normalization
from tests.fake_gpu import FakeGPU

pytestmark = pytest.mark.fake_gpu


def conv_norm(layer, **options):
    return build_normalization("conv_norm", **options).normalize(layer)


@pytest.mark.parametrize(
    ("kernel", "side", "forward", "both"),
    [(3, 32, 14, 21), (3, 8, 12, 17), (4, 8, 12, 19), (1, 8, 7, 10)],
)
def test_launches(kernel, side, forward, both):
    with FakeGPU() as gpu:
        layer = conv_norm(nn.Conv2d(8, 16, kernel, padding=kernel // 2)).to(gpu.device)
        layer = layer.to(memory_format=torch.channels_last)
        x = torch.zeros(4, 8, side, side, device=gpu.device).contiguous(memory_format=torch.channels_last)
        layer(x).sum().backward()  # computes the constants
        gpu.forget()
        y = layer(x)
        assert sum(gpu.launches.values()) == forward, gpu.launches
        y.backward(y.detach())
        gradients = 3  # added to those of the first call
        assert sum(gpu.launches.values()) - gradients == both, gpu.launches
        assert not gpu.events


def test_constants_are_not_shared_by_fake_gpus():
    for _ in range(2):
        with FakeGPU() as gpu:
            conv_norm(nn.Conv2d(2, 2, 3)).to(gpu.device)(torch.zeros(1, 2, 8, 8, device=gpu.device))
