"""The state of a network while its forward pass runs for a measurement."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.utils import parametrize


@contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Restore the attributes of all modules and the values of all buffers afterwards.

    Old-style hooks set attributes in each forward pass, and some parametrizations change buffers, such as singular
    vectors, also in evaluation mode.
    """
    attributes = [(vars(module), dict(vars(module))) for module in network.modules()]
    buffers = [(buffer, buffer.data, buffer.detach().clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for current, before in attributes:
            current.clear()
            current.update(before)
        for buffer, data, values in buffers:
            data.copy_(values)
            buffer.data = data


@contextmanager
def computed_weights(network: nn.Module) -> Iterator[None]:
    """Compute each reparametrized weight once, before the code inside the context, which then gets this value."""
    with parametrize.cached():
        for module in network.modules():
            if parametrize.is_parametrized(module):
                for name in module.get_submodule("parametrizations")._modules:
                    getattr(module, name)
        yield
