"""Exponential moving average of the weights of a network."""

import copy

import torch
from torch import nn


class EMA:
    """A copy of `network` whose parameters are the moving average of those of `network`; buffers are copied.

    Args:
        network: network to average; the copy is in evaluation mode and needs no gradients.
        halflife_kimg: half-life in thousands of images; with 0 the copy equals the network.
    """

    def __init__(self, network: nn.Module, halflife_kimg: float):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.halflife_kimg = halflife_kimg

    @torch.no_grad()
    def update(self, network: nn.Module, images: int) -> None:
        """Update the average after a training step in which the network generated `images` images."""
        decay = 0.5 ** (images / (1000 * self.halflife_kimg)) if self.halflife_kimg > 0 else 0.0
        averages, weights = tuple(self.network.parameters()), tuple(network.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        self.copy_buffers(network)

    @torch.no_grad()
    def copy_buffers(self, network: nn.Module) -> None:
        """Copy the buffers of the network, such as the running statistics of batch norm."""
        for average, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            average.resize_(buffer.shape).copy_(buffer)  # the first batch may change the shape of a buffer
