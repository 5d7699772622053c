"""Kernel inception distance (Bińkowski et al., ICLR 2018)."""

import numpy as np
import torch
from torch import Tensor

from metrics.checks import check_feature_pair, check_integer


def kid(fake: Tensor, real: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 2020) -> float:
    """Return the unbiased squared MMD between features (N, d) and (M, d) with the kernel (xᵀy / d + 1)³.

    The result is the mean over random subsets, each with min(subset_size, N, M) features of both sets. The subsets
    depend on `seed` and are the same as in torch-fidelity. Computations use double precision. The estimate can be
    slightly negative. Raises ValueError for features that `metrics.checks` refuses, no subsets, or subsets of 1.
    """
    check_feature_pair(fake, real)
    check_integer("subsets", subsets, 1)
    check_integer("subset_size", subset_size, 2)
    size = min(subset_size, len(fake), len(real))
    random = np.random.RandomState(seed)

    def draw(features: Tensor) -> Tensor:
        index = torch.from_numpy(random.choice(len(features), size, replace=False))
        return features[index.to(features.device)].double()

    return torch.stack([_squared_mmd(draw(fake), draw(real)) for _ in range(subsets)]).mean().item()


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased squared MMD between two sets (m, d) (Gretton et al., JMLR 2012)."""
    count = len(x)
    within = sum(_kernel(z, z).sum() - (z.square().mean(dim=1) + 1).pow(3).sum() for z in (x, y))
    return within / (count * (count - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    gram = torch.addmm(x.new_ones(()), x, y.T, alpha=1 / x.shape[1])
    return gram * gram * gram
