"""Fréchet distance between Gaussian fits of two sets of features (Heusel et al., NeurIPS 2017, eq. 6).

Everything is in double precision on the CPU: in single precision the distance of few features is off by a percent.
"""

import math
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNK = 8192  # features centered at a time
EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean (d,) and unbiased covariance S (d, d) of n features; the count n is None where a file does not tell it."""

    mean: Tensor
    covariance: Tensor
    count: int | None
    known_factor: Tensor | None = field(default=None, repr=False)
    """what `factor` returns, where it is known already"""

    @classmethod
    def from_features(cls, features: Tensor) -> "FeatureStatistics":
        """Return the statistics of features (N, d); ValueError when N < 2 or where they are not finite."""
        count, dimension = features.shape
        if count < 2:
            raise ValueError(f"a covariance needs at least 2 features, not {count}")
        mean = features.mean(dim=0, dtype=torch.float64)
        if not mean.isfinite().all():
            raise ValueError(f"{(~features.isfinite()).any(dim=1).sum()} of {count} features are not finite")
        if count <= dimension:
            centered = features.double() - mean
            # A reflection takes (1, ..., 1), which they are orthogonal to, to the first axis: one column less.
            factor = (centered[1:] + centered[0] / (math.sqrt(count) - 1)).T / math.sqrt(count - 1)
            return cls(mean.cpu(), (factor @ factor.T).cpu(), count, factor.cpu())
        covariance = mean.new_zeros(dimension, dimension)
        for chunk in features.split(CHUNK):
            centered = chunk.double() - mean
            covariance.addmm_(centered.T, centered)
        return cls(mean.cpu(), covariance.div_(count - 1).cpu(), count)

    @cached_property
    def factor(self) -> Tensor:
        """F (d, r) with S = F Fᵀ, computed once.

        Its columns are the centered features, rotated into n - 1, when n <= d; else it is Cholesky's factor or, where
        the covariance is singular to working precision, the eigenvectors times the roots of the eigenvalues not null.
        """
        if self.known_factor is not None:
            return self.known_factor
        lower, failed = torch.linalg.cholesky_ex(self.covariance)
        if not failed:
            return lower
        values, vectors = torch.linalg.eigh(self.covariance)
        kept = values >= len(values) * EPSILON * values[-1]
        return vectors[:, kept] * values[kept].sqrt()

    def to_dict(self) -> dict[str, Tensor]:
        """Return the statistics and their factor as tensors, for a cache; `from_dict` gives the same numbers back."""
        state = {"mean": self.mean, "covariance": self.covariance, "factor": self.factor}
        return state if self.count is None else {**state, "count": torch.tensor(self.count)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Tensor]) -> "FeatureStatistics":
        """Return the statistics that `to_dict` gave."""
        count = int(state["count"]) if "count" in state else None
        return cls(state["mean"], state["covariance"], count, state["factor"])

    def save(self, path: str | Path) -> None:
        """Write the `.npz` file that pytorch-fid reads: `mu`, `sigma` and, beside them, `count`.

        ValueError when there is such a file already.
        """
        path = Path(path)
        if path.exists():
            raise ValueError(f"{path} exists already; choose another name")
        arrays: dict[str, Any] = {"mu": self.mean.numpy(), "sigma": self.covariance.numpy()}
        if self.count is not None:
            arrays["count"] = np.array(self.count)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, **arrays)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | Path) -> "FeatureStatistics":
        """Read a `.npz` file of pytorch-fid's or ours; ValueError when it is not one."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                mean, covariance = (torch.from_numpy(arrays[name]).double() for name in ("mu", "sigma"))
                count = int(arrays["count"]) if "count" in arrays else None
        except Exception as error:  # numpy and zipfile raise many kinds
            raise ValueError(f"{path} is no file of Fréchet statistics (.npz with mu and sigma): {error}") from None
        if mean.dim() != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(f"{path}: mu {tuple(mean.shape)} and sigma {tuple(covariance.shape)} do not go together")
        if not (mean.isfinite().all() and covariance.isfinite().all()):
            raise ValueError(f"{path}: mu or sigma is not finite")
        return cls(mean, covariance, count)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Return ||m_a - m_b||² + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), never negative.

    Warns when one of them has fewer features than dimensions: the distance is then far above that of many features.
    ValueError when the dimensions differ.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and of {len(b.mean)} dimensions cannot be compared")
    few = min(n for n in (a.count, b.count, math.inf) if n is not None)
    if few < len(a.mean):
        warnings.warn(
            f"the Fréchet distance of {few} features in {len(a.mean)} dimensions is biased upwards: take more images",
            stacklevel=2,
        )
    traces = a.covariance.trace() + b.covariance.trace()
    distance = (a.mean - b.mean).square().sum() + traces - 2 * trace_sqrt_product(a.factor, b.factor)
    return max(0.0, distance.item())


def trace_sqrt_product(a: Tensor, b: Tensor) -> Tensor:
    """Return tr((S_a S_b)^(1/2)) for S_a = a aᵀ and S_b = b bᵀ, a (d, r) and b (d, s).

    It is the sum of the singular values of aᵀ b. For Cholesky's factors they are taken as the roots of the eigenvalues
    of the Gram matrix, in a third of the time; factors of lower rank have null ones, whose roots that would lose.
    """
    cross = a.T @ b
    if cross.shape == (len(a), len(a)):
        return torch.linalg.eigvalsh(cross.T @ cross).clamp(min=0).sqrt().sum()
    return torch.linalg.svdvals(cross).sum()
