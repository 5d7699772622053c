"""How far generated and real features cover each other's neighborhoods."""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 1024  # features whose distances to all others are held at a time


def precision_recall(fake: Tensor, real: Tensor, neighbors: int = 3) -> tuple[float, float]:
    """Return improved precision and recall (Kynkäänniemi et al., NeurIPS 2019, eq. 1 and 2) of (N, d) and (M, d).

    Precision is the share of fakes within reach of a real one, recall the share of real ones within reach of a fake;
    a feature's reach is the distance to its `neighbors`-th nearest of its own kind. Torch-fidelity's numbers.
    ValueError when there are too few features or the dimensions differ.
    """
    reach_of_fake, reach_of_real = _reach(fake, neighbors), _reach(real, neighbors)
    precise, recalled = reach_of_real.new_zeros(()), torch.zeros_like(reach_of_real, dtype=torch.bool)
    for start, distances in _distances(fake, real):
        precise += (distances <= reach_of_real).any(dim=1).sum()
        recalled |= (distances <= reach_of_fake[start : start + BLOCK, None]).any(dim=0)
    return precise.item() / len(fake), recalled.double().mean().item()


def density_coverage(fake: Tensor, real: Tensor, neighbors: int = 5) -> tuple[float, float]:
    """Return density and coverage (Naeem et al., ICML 2020, eq. 4 and 5) of features (N, d) and (M, d).

    Density is the mean number of real neighborhoods that a fake lies in, over `neighbors`, so it may exceed 1; coverage
    the share of real neighborhoods with a fake in them. Both are near 1 for the real distribution. ValueError when
    there are too few features or the dimensions differ.
    """
    reach = _reach(real, neighbors)
    inside, covered = reach.new_zeros(()), torch.zeros_like(reach, dtype=torch.bool)
    for _, distances in _distances(fake, real):
        within = distances < reach
        inside += within.sum()
        covered |= within.any(dim=0)
    return inside.item() / (neighbors * len(fake)), covered.double().mean().item()


def _reach(features: Tensor, neighbors: int) -> Tensor:
    """Return the distance of each feature (N, d) to its `neighbors`-th nearest other one, (N,)."""
    if len(features) <= neighbors:
        raise ValueError(f"{neighbors} nearest neighbors need more than {neighbors} features, not {len(features)}")
    # The nearest of all is the feature itself.
    parts = [distances.kthvalue(neighbors + 1, dim=1).values for _, distances in _distances(features, features)]
    return torch.cat(parts)


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of the first row and the distances to all of b (M, d) of one block of a (N, d) after another."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and of {b.shape[1]} dimensions cannot be compared")
    b = b.double()
    for start in range(0, len(a), BLOCK):
        yield start, torch.cdist(a[start : start + BLOCK].double(), b)
