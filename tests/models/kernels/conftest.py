"""Fixtures shared by the tests of the kernels."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.kernels import switch


class ConvolutionRecorder(TorchDispatchMode):
    """Records the stride of each of PyTorch's convolutions."""

    def __init__(self):
        super().__init__()
        self.strides = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            self.strides.append(tuple(args[3]))
        return function(*args, **(kwargs or {}))


def _recorded_strides(function, *args):
    with ConvolutionRecorder() as recorder:
        function(*args)
    return recorder.strides


@pytest.fixture(scope="session")
def recorded_strides():
    """The function (function, *args) -> strides of PyTorch's convolutions in function(*args).

    They distinguish the algorithms: fused resampling convolves with stride 2, Winograd's algorithm does not convolve.
    """
    return _recorded_strides


@pytest.fixture
def winograd_everywhere(monkeypatch):
    """Use Winograd's algorithm for layers of any size, and in double precision."""
    monkeypatch.setattr(switch, "WINOGRAD_CHANNELS", 1)
    monkeypatch.setattr(switch, "WINOGRAD_SIZE", dict.fromkeys([*switch.WINOGRAD_SIZE, torch.float64], 1))
