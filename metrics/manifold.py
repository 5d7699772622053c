"""Precision, recall, density and coverage, computed from nearest neighbors in feature space."""

from collections.abc import Collection

import torch
from torch import Tensor

from metrics.checks import check_distances, check_feature_pair, check_integer
from metrics.neighbors import Pairs, squared_neighbor_distances

PRECISION_NEIGHBORS = 3  # as in Kynkäänniemi et al. and in torch-fidelity
DENSITY_NEIGHBORS = 5  # as in Naeem et al.
MAX_NEIGHBORS = max(PRECISION_NEIGHBORS, DENSITY_NEIGHBORS)


def precision_recall(fake: Tensor, real: Tensor, neighbors: int = PRECISION_NEIGHBORS) -> tuple[float, float]:
    """Return improved precision and recall of features (N, d) and (M, d), as in torch-fidelity.

    The neighborhood of a feature is the ball whose radius is the distance to its k-th nearest neighbor in the same set,
    where k is `neighbors`. Precision is the fraction of fake features in the neighborhood of any real feature. Recall
    is the fraction of real features in the neighborhood of any fake feature (Kynkäänniemi et al., NeurIPS 2019).
    Raises ValueError for features that `metrics.checks` refuses, or fewer than `neighbors` + 1 of them.
    """
    scores = manifold_metrics(("precision", "recall"), fake, real, neighbors=(neighbors, DENSITY_NEIGHBORS))
    return scores["precision"], scores["recall"]


def density_coverage(fake: Tensor, real: Tensor, neighbors: int = DENSITY_NEIGHBORS) -> tuple[float, float]:
    """Return density and coverage of features (N, d) and (M, d) (Naeem et al., ICML 2020).

    Density is the mean number of real neighborhoods that contain a fake feature, divided by `neighbors`. It can exceed
    1. Coverage is the fraction of real neighborhoods that contain at least one fake feature. Both are close to 1 if
    the distributions are equal. Raises ValueError for features that `metrics.checks` refuses, or fewer than
    `neighbors` + 1 real ones.
    """
    scores = manifold_metrics(("density", "coverage"), fake, real, neighbors=(PRECISION_NEIGHBORS, neighbors))
    return scores["density"], scores["coverage"]


def manifold_metrics(
    names: Collection[str],
    fake: Tensor,
    real: Tensor,
    real_distances: Tensor | None = None,
    neighbors: tuple[int, int] = (PRECISION_NEIGHBORS, DENSITY_NEIGHBORS),
) -> dict[str, float]:
    """Return several of "precision", "recall", "density" and "coverage" by name, computed in one pass over all pairs.

    `real_distances` is the result of `squared_neighbor_distances(real, k)` if it has been computed before. `neighbors`
    is the number of neighbors for precision and recall, and that for density and coverage. As in the code of the
    authors, a feature on the boundary of a neighborhood is inside for precision and recall, and outside for density and
    coverage. Raises ValueError for features that `metrics.checks` refuses, or too few for their neighbors.
    """
    check_feature_pair(fake, real)
    for number in neighbors:
        check_integer("neighbors", number, 1)
    precision_neighbors, density_neighbors = neighbors
    pairs = Pairs(fake, real)
    precision_radii = density_radii = fake_radii = None
    if "precision" in names:
        precision_radii = _get_radii(real, precision_neighbors, real_distances)
    if "recall" in names:
        fake_radii = _get_radii(fake, precision_neighbors)
    if "density" in names or "coverage" in names:
        density_radii = _get_radii(real, density_neighbors, real_distances)
    precise, inside = real.new_zeros((2,), dtype=torch.int64)
    recalled, covered = real.new_zeros((2, len(real)), dtype=torch.bool)
    for block in pairs.blocks():
        if precision_radii is not None:
            precise += block.within(precision_radii, inclusive=True).any(dim=1).sum()
        if fake_radii is not None:
            recalled |= block.within(fake_radii[block.rows, None], inclusive=True).any(dim=0)
        if density_radii is not None:
            within = block.within(density_radii, inclusive=False)
            inside += within.sum()
            covered |= within.any(dim=0)
    scores = {
        "precision": precise.item() / len(fake),
        "recall": recalled.double().mean().item(),
        "density": inside.item() / (density_neighbors * len(fake)),
        "coverage": covered.double().mean().item(),
    }
    return {name: scores[name] for name in names}


def _get_radii(features: Tensor, neighbors: int, distances: Tensor | None = None) -> Tensor:
    """Return the squared radii (N,) of the neighborhoods of features (N, d)."""
    if distances is None:
        distances = squared_neighbor_distances(features, neighbors)
    check_distances(distances, len(features), neighbors)
    return distances[:, neighbors - 1]
