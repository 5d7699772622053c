"""Fréchet distance between Gaussian fits of two sets of features (Heusel et al., NeurIPS 2017).

All computations use double precision. In single precision, the distance between small sets has an error of about 1%.
"""

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from metrics.checks import (
    check_definite,
    check_dimensions,
    check_features,
    check_integer,
    check_moments,
    check_same_origin,
)

RECORDED = ("extractor", "layer", "preprocessing", "weights", "image_size", "data")  # in a file, if known
CHUNK = 8192  # number of features in each update of the covariance
EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean (d,) and unbiased covariance S (d, d) of n features, in double precision.

    Raises ValueError if `metrics.checks` refuses the mean, the covariance or n.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None
    """n, or None if it is unknown because the statistics come from a file without it"""
    precomputed_factor: Tensor | None = field(default=None, repr=False)
    """Value of `factor`, if it has been computed before"""
    origin: Mapping[str, str] = field(default_factory=dict)
    """What the features depend on, as far as known: the `origin` of their extractor, and the size of the images"""
    data: str | None = None
    """A fingerprint of the images, if known"""

    def __post_init__(self):
        check_moments(self.mean, self.covariance)
        if self.count is not None:
            check_integer("count", self.count, 2)

    @classmethod
    def from_features(cls, features: Tensor) -> "FeatureStatistics":
        """Compute the statistics of features (N, d). Raises ValueError for features that `metrics.checks` refuses."""
        check_features(features)
        count, dimension = features.shape
        mean = features.mean(dim=0, dtype=torch.float64)
        if count <= dimension:
            centered = features.double() - mean
            # The centered features sum to 0. A Householder reflection over the samples makes one of them 0, to omit it.
            factor = (centered[1:] + centered[0] / (math.sqrt(count) - 1)).T / math.sqrt(count - 1)
            return cls(mean.cpu(), (factor @ factor.T).cpu(), count, factor.cpu())
        covariance = mean.new_zeros(dimension, dimension)
        for chunk in features.split(CHUNK):
            centered = chunk.double() - mean
            covariance.addmm_(centered.T, centered)
        return cls(mean.cpu(), covariance.div_(count - 1).cpu(), count)

    @cached_property
    def factor(self) -> Tensor:
        """Factor F (d, r) with S = F Fᵀ.

        If n <= d, `from_features` computes F from the centered features, with r = n - 1. Otherwise F is the Cholesky
        factor. If S is numerically singular, F consists of the eigenvectors for the nonzero eigenvalues, each scaled by
        the square root of its eigenvalue. Raises ValueError if S has negative eigenvalues.
        """
        if self.precomputed_factor is not None:
            return self.precomputed_factor
        lower, failed = torch.linalg.cholesky_ex(self.covariance)
        if not failed:
            return lower
        values, vectors = torch.linalg.eigh(self.covariance)
        check_definite(self.covariance, values)
        kept = values >= len(values) * EPSILON * values[-1]
        return vectors[:, kept] * values[kept].sqrt()

    def to_dict(self) -> dict[str, Tensor]:
        """Return the statistics and their factor as a dict of tensors, for a cache."""
        state = {"mean": self.mean, "covariance": self.covariance, "factor": self.factor}
        return state if self.count is None else {**state, "count": torch.tensor(self.count)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Tensor]) -> "FeatureStatistics":
        """Restore the statistics from the result of `to_dict`, bit for bit."""
        count = int(state["count"]) if "count" in state else None
        return cls(state["mean"], state["covariance"], count, state["factor"])

    def save(self, target: str | Path | IO[bytes]) -> None:
        """Write an `.npz` file with `mu` and `sigma`, as in pytorch-fid, and with `count`, `data` and the `origin`.

        `target` is a path or an open binary file. Raises ValueError if the path already exists.
        """
        if isinstance(target, str | Path):
            _create(Path(target), self.save)
            return
        arrays: dict[str, Any] = {"mu": self.mean.detach().numpy(), "sigma": self.covariance.detach().numpy()}
        if self.count is not None:
            arrays["count"] = np.array(self.count)
        for name, text in (*self.origin.items(), ("data", self.data)):
            if text is not None:
                arrays[name] = np.array(text)
        np.savez(target, **arrays)

    @classmethod
    def load(cls, path: str | Path, preprocessing: str | None = None) -> "FeatureStatistics":
        """Read an `.npz` file written by `save` or by pytorch-fid. Raises ValueError if the file is invalid.

        `preprocessing` declares how the images were resized if the file does not record it; None stands for
        "pytorch_fid", because pytorch-fid records nothing. If the file records another value, this raises ValueError.
        """
        try:
            if os.path.exists(path) and not os.path.isfile(path):
                raise ValueError("it is not a regular file")  # a pipe would block
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                mean, covariance = (_to_double(arrays[name]) for name in ("mu", "sigma"))
                count = _to_count(arrays["count"]) if "count" in arrays else None
                texts = {name: _to_text(arrays[name]) for name in RECORDED if name in arrays}
        except Exception as error:  # numpy and zipfile raise exceptions of many types
            raise ValueError(f"{path} is not a file of Fréchet statistics (.npz with mu and sigma): {error}") from None
        data = texts.pop("data", None)
        if texts.get("extractor", "inception") == "inception":
            texts.setdefault("preprocessing", preprocessing or "pytorch_fid")
        try:
            check_same_origin(texts, {} if preprocessing is None else {"preprocessing": preprocessing})
            statistics = cls(mean, covariance, count, origin=texts, data=data)
            _ = statistics.factor  # checks the eigenvalues
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return statistics


def _create(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Call `write` with a new file, which is removed if this fails. Raises ValueError if the path already exists."""
    try:
        file = path.open("xb")
    except FileExistsError:
        raise ValueError(f"{path} already exists; choose another name") from None
    try:
        with file:
            write(file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _to_double(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"its numbers have the type {array.dtype}")
    return torch.from_numpy(array.astype(np.float64))


def _to_text(array: np.ndarray) -> str:
    text = array.item() if array.size == 1 else None
    text = text.decode() if isinstance(text, bytes) else text
    if not isinstance(text, str):
        raise ValueError(f"what it records about its features has the type {array.dtype} and the shape {array.shape}")
    return text


def _to_count(array: np.ndarray) -> int:
    """Return a number as an int. Anything else is returned as it is, to be refused by `FeatureStatistics`."""
    number = array.item()
    return cast(int, int(number) if isinstance(number, float) and number.is_integer() else number)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Return ||m_a - m_b||² + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), clamped to at least 0.

    Warns if a set has fewer features than dimensions, because the distance is then strongly biased upwards.
    Raises ValueError if the dimensions or the origins differ, or if a covariance has negative eigenvalues.
    """
    for statistics in (a, b):
        if not isinstance(statistics, FeatureStatistics):
            raise ValueError(f"a Fréchet distance is between FeatureStatistics, not {type(statistics).__name__}")
    check_same_origin(a.origin, b.origin)
    check_dimensions(len(a.mean), len(b.mean))
    count = min(n for n in (a.count, b.count, math.inf) if n is not None)
    if count < len(a.mean):
        warnings.warn(
            f"the Fréchet distance of {count} features in {len(a.mean)} dimensions is biased upwards: use more images",
            stacklevel=2,
        )
    traces = a.covariance.trace() + b.covariance.trace()
    distance = (a.mean - b.mean).square().sum() + traces - 2 * trace_sqrt_product(a.factor, b.factor)
    return max(0.0, distance.item())


def trace_sqrt_product(a: Tensor, b: Tensor) -> Tensor:
    """Return tr((S_a S_b)^(1/2)) for S_a = a aᵀ and S_b = b bᵀ, where a is (d, r) and b is (d, s).

    The result is the sum of the singular values of aᵀ b.
    """
    cross = a.T @ b
    # For full-rank factors, the eigenvalues of the Gram matrix take a third of the time of a singular value
    # decomposition. They are too inaccurate for the zero singular values of low-rank factors.
    if cross.shape == (len(a), len(a)):
        return torch.linalg.eigvalsh(cross.T @ cross).clamp(min=0).sqrt().sum()
    return torch.linalg.svdvals(cross).sum()
