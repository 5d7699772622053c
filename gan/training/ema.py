"""Exponential moving average of a network's weights."""

import copy

import torch
from torch import nn


class EMA:
    """A copy of `network` whose parameters follow it with a half-life in thousands of images; buffers are copied.

    A half-life of 0 makes the copy equal to the network.
    """

    def __init__(self, network: nn.Module, halflife_kimg: float):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.halflife_kimg = halflife_kimg

    @torch.no_grad()
    def update(self, network: nn.Module, images: int) -> None:
        """Move towards `network` after a step in which it made `images` images."""
        decay = 0.5 ** (images / (1000 * self.halflife_kimg)) if self.halflife_kimg > 0 else 0.0
        averages, weights = tuple(self.network.parameters()), tuple(network.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for average, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            average.resize_(buffer.shape).copy_(buffer)  # a buffer may take its shape from the first batch
