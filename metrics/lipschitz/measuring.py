"""Looking at a network without changing it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def measuring(network: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, where no normalization updates its state, and its own mode back after."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
