"""Random labels of generated images."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Frequencies = Literal["data", "uniform"]


class LabelDistribution:
    """Classes with relative frequencies that are integers, so that labels are drawn exactly.

    Args:
        counts: frequency of each class, such as its number of images. A class with frequency 0 is never drawn.
        device: where labels are usually drawn.
    """

    def __init__(self, counts: Sequence[int], device: torch.device | str = "cpu"):
        self.counts = tuple(counts)
        self._total = sum(counts)
        self._ends = torch.tensor(counts).cumsum(0).to(device)

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Return random labels (count,) int64 on the device of `random`. A GPU is not waited for."""
        # The label of a random image, if the images were sorted by class.
        picks = torch.randint(self._total, (count,), generator=random, device=random.device)
        return torch.searchsorted(self._ends.to(random.device), picks, right=True)


def restore_labels(
    counts: Sequence[int] | None, num_classes: int | None, device: torch.device | str
) -> LabelDistribution | None:
    """Return the distribution with the counts in a file of a run; None for an unconditional GAN.

    Files of earlier versions have no counts: their GANs were trained with uniform labels.
    """
    return None if num_classes is None else LabelDistribution(counts or [1] * num_classes, device)


def count_labels(labels: Tensor, num_classes: int, frequencies: Frequencies) -> list[int]:
    """Return the relative frequency of each class: that among `labels` (N,), or 1 for `uniform`.

    The frequencies have no common divisor, so that balanced data and `uniform` are the same distribution.
    """
    if frequencies == "uniform":
        return [1] * num_classes
    counts = torch.bincount(labels, minlength=num_classes).tolist()
    divisor = math.gcd(*counts)
    return [count // divisor for count in counts]
