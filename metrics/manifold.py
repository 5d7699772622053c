"""Precision, recall, density and coverage, computed from nearest neighbors in feature space."""

from collections.abc import Iterator

import torch
from torch import Tensor

from metrics.checks import check_feature_pair, check_integer

BLOCK = 1024  # number of rows of the distance matrix that are in memory at a time


def precision_recall(fake: Tensor, real: Tensor, neighbors: int = 3) -> tuple[float, float]:
    """Return improved precision and recall of features (N, d) and (M, d), as in torch-fidelity.

    The neighborhood of a feature is the ball whose radius is the distance to its k-th nearest neighbor in the same set,
    where k is `neighbors`. Precision is the fraction of fake features in the neighborhood of any real feature. Recall
    is the fraction of real features in the neighborhood of any fake feature (Kynkäänniemi et al., NeurIPS 2019).
    Raises ValueError for features that `metrics.checks` refuses, or fewer than `neighbors` + 1 of them.
    """
    check_feature_pair(fake, real)
    check_integer("neighbors", neighbors, 1)
    fake_radii, real_radii = _get_radii(fake, neighbors), _get_radii(real, neighbors)
    precise, recalled = real_radii.new_zeros(()), torch.zeros_like(real_radii, dtype=torch.bool)
    for start, distances in _iterate_distances(fake, real):
        precise += (distances <= real_radii).any(dim=1).sum()
        recalled |= (distances <= fake_radii[start : start + BLOCK, None]).any(dim=0)
    return precise.item() / len(fake), recalled.double().mean().item()


def density_coverage(fake: Tensor, real: Tensor, neighbors: int = 5) -> tuple[float, float]:
    """Return density and coverage of features (N, d) and (M, d) (Naeem et al., ICML 2020).

    Density is the mean number of real neighborhoods that contain a fake feature, divided by `neighbors`. It can exceed
    1. Coverage is the fraction of real neighborhoods that contain at least one fake feature. Both are close to 1 if
    the distributions are equal. Raises ValueError for features that `metrics.checks` refuses, or fewer than
    `neighbors` + 1 real ones.
    """
    check_feature_pair(fake, real)
    check_integer("neighbors", neighbors, 1)
    radii = _get_radii(real, neighbors)
    inside, covered = radii.new_zeros(()), torch.zeros_like(radii, dtype=torch.bool)
    for _, distances in _iterate_distances(fake, real):
        within = distances < radii
        inside += within.sum()
        covered |= within.any(dim=0)
    return inside.item() / (neighbors * len(fake)), covered.double().mean().item()


def _get_radii(features: Tensor, neighbors: int) -> Tensor:
    """Return the distance (N,) of each feature (N, d) to its k-th nearest neighbor, where k is `neighbors`."""
    if len(features) <= neighbors:
        raise ValueError(f"{neighbors} nearest neighbors need more than {neighbors} features, not {len(features)}")
    # The smallest distance is that of the feature to itself, so the k-th neighbor has the (k + 1)-th smallest distance.
    radii = [d.kthvalue(neighbors + 1, dim=1).values for _, d in _iterate_distances(features, features)]
    return torch.cat(radii)


def _iterate_distances(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the matrix of distances between a (N, d) and b (M, d) in blocks of rows, each with its first row index."""
    b = b.double()
    for start in range(0, len(a), BLOCK):
        yield start, torch.cdist(a[start : start + BLOCK].double(), b)
