"""Stratified subsets of the training images."""

import torch
from torch import Tensor

from gan.runtime import rng


def stratified_split(labels: Tensor, rows: Tensor, fraction: float, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Return a random fraction of the rows (n,) and the remaining rows, both sorted.

    The fraction is taken of each class in `labels[rows]` and rounded, but to at least one row if it is positive. The
    result is a function of the arguments. With the same seed and purpose, a smaller fraction is a subset of a larger
    one.
    """
    order = rows[torch.randperm(len(rows), generator=rng.generator("cpu", seed, purpose))]
    position = _position_in_class(labels[order])
    counts = torch.bincount(labels[order])
    quotas = (counts * fraction).round().clamp(min=1 if fraction > 0 else 0).long()
    chosen = position < quotas[labels[order]]
    return order[chosen].sort().values, order[~chosen].sort().values


def subset_rows(labels: Tensor, fraction: float, seed: int) -> Tensor | None:
    """Return the rows of the training images that `data.subset` selects, or None if it selects all of them."""
    if fraction == 1:
        return None
    return stratified_split(labels, torch.arange(len(labels)), fraction, seed, "subset")[0]


def _position_in_class(labels: Tensor) -> Tensor:
    """Return for each entry the number of earlier entries with the same label."""
    by_class = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    position = torch.empty_like(by_class)
    position[by_class] = torch.arange(len(labels)) - starts[labels[by_class]]
    return position
