"""A share of a training set, of each class alike."""

import torch
from torch import Tensor

from gan.runtime import rng


def stratified(labels: Tensor, rows: Tensor, share: float, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Return a share of the rows (n,), and the others; both in order.

    Of each class (`labels[rows]`) that share, rounded, is drawn from the seed for the purpose, but at least one row
    unless the share is 0. A smaller share is part of a larger one of the same rows.
    """
    order = rows[torch.randperm(len(rows), generator=rng.generator("cpu", seed, purpose))]
    place = _place_in_class(labels[order])
    counts = torch.bincount(labels[order])
    quotas = (counts * share).round().clamp(min=1 if share > 0 else 0).long()
    chosen = place < quotas[labels[order]]
    return order[chosen].sort().values, order[~chosen].sort().values


def subset_rows(labels: Tensor, share: float, seed: int) -> Tensor | None:
    """Return the rows of the training images that `data.subset` leaves, or None for all of them."""
    if share == 1:
        return None
    return stratified(labels, torch.arange(len(labels)), share, seed, "subset")[0]


def _place_in_class(labels: Tensor) -> Tensor:
    """Return, for each entry, how many before it have the same label."""
    by_class = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    place = torch.empty_like(by_class)
    place[by_class] = torch.arange(len(labels)) - starts[labels[by_class]]
    return place
