"""Fréchet distance between Gaussian fits of two sets of features (Heusel et al., NeurIPS 2017, eq. 6)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean (d,) and unbiased covariance (d, d) of n features, in double precision."""

    mean: Tensor
    covariance: Tensor
    count: int

    @classmethod
    def from_features(cls, features: Tensor) -> "FeatureStatistics":
        """Return the statistics of features (N, d); ValueError when N < 2."""
        if len(features) < 2:
            raise ValueError(f"a covariance needs at least 2 features, not {len(features)}")
        features = features.double()
        mean = features.mean(dim=0)
        centered = features - mean
        return cls(mean, centered.T @ centered / (len(features) - 1), len(features))


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Return ||m_a - m_b||² + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), in double precision and never negative.

    With S_a = B Bᵀ, the trace of the root is the sum of the square roots of the eigenvalues of the symmetric
    Bᵀ S_b B, so neither a matrix root nor complex numbers are needed.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt()
    cross = torch.linalg.eigvalsh(root.T @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, distance.item())
