"""Evaluation mode for the duration of a measurement."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode inside the context, so that no normalization updates its state.

    TF32 is disabled inside the context, since its 10-bit mantissa is too coarse for norms. Both settings are restored
    afterwards.
    """
    modes = [(module, module.training) for module in network.modules()]
    precision = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    network.eval()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = precision
        for module, mode in modes:
            module.training = mode
