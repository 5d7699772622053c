"""Exponential moving average of the weights of a network."""

import copy

import torch
from torch import Tensor, nn


class EMA:
    """A copy of `network` whose parameters are the moving average of those of `network`; buffers are copied.

    The copy is in evaluation mode and needs no gradients.
    """

    def __init__(self, network: nn.Module):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, weight: float | Tensor) -> None:
        """Add the parameters of the network to their average with a weight, a number or a tensor on their device."""
        averages, parameters = tuple(self.network.parameters()), tuple(network.parameters())
        weights = [weight] * len(averages) if isinstance(weight, Tensor) else weight
        torch._foreach_lerp_(averages, parameters, weights)  # pyright: ignore
        self.copy_buffers(network)

    @torch.no_grad()
    def copy_buffers(self, network: nn.Module) -> None:
        """Copy the buffers of the network, such as the running statistics of batch norm."""
        for average, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            average.resize_(buffer.shape).copy_(buffer)  # the first batch may change the shape of a buffer


def get_averaging_weight(images: int, halflife_kimg: float) -> float:
    """Return the weight of a network in its average after it has generated `images` images.

    The half-life is in thousands of images; with 0 the average is the network itself.
    """
    decay = 0.5 ** (images / (1000 * halflife_kimg)) if halflife_kimg > 0 else 0.0
    return 1 - decay
