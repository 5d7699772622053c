"""What metrics refuse. A wrong input must be an error, because for most of them a metric has a plausible value."""

import operator
from collections.abc import Mapping

import torch
from torch import Tensor

NEGATIVE = 1e-3  # of the sum of all eigenvalues of a covariance in single precision; more is no rounding error
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST = 1e30  # in absolute value; squared distances and kernels of such features are finite in double precision


def check_features(features: Tensor, name: str = "features") -> None:
    """Raise ValueError unless these are at least 2 finite floating-point features (N, d)."""
    _check_matrix(features, name)
    _check_count(f"at least 2 {name} are needed", len(features))
    lowest, highest = (bound.item() for bound in torch.aminmax(features.detach()))
    if not (lowest >= -LARGEST and highest <= LARGEST):  # False for NaN
        invalid = ~(features.double().abs() <= LARGEST).all(dim=1)
        fault = f"exceed {LARGEST:g}, which is too large" if features[invalid].isfinite().all() else "are not finite"
        raise ValueError(f"{invalid.sum()} of {len(features)} {name} {fault}")


def check_feature_pair(fake: Tensor, real: Tensor) -> None:
    """Raise ValueError unless both are at least 2 finite floating-point features, (N, d) and (M, d)."""
    for features, name in ((fake, "fake features"), (real, "real features")):
        _check_matrix(features, name)
    check_dimensions(fake.shape[1], real.shape[1])
    _check_count("at least 2 features in both sets", len(fake), len(real))
    check_features(fake, "fake features")
    check_features(real, "real features")


def check_dimensions(a: int, b: int) -> None:
    """Raise ValueError unless two sets of features have the same dimension."""
    if a != b:
        raise ValueError(f"cannot compare features with {a} and {b} dimensions")


def check_same_origin(a: Mapping[str, str], b: Mapping[str, str]) -> None:
    """Raise ValueError if features of two origins are not comparable: if an entry differs that both of them have."""
    for name in a:
        if name in b and a[name] != b[name]:
            raise ValueError(f"features with {name} '{a[name]}' are not comparable with {name} '{b[name]}'")


def check_moments(mean: Tensor, covariance: Tensor) -> None:
    """Raise ValueError unless these are a mean (d,) and a symmetric covariance (d, d), finite and in double precision.

    `check_definite` checks the eigenvalues of the covariance.
    """
    if mean.dim() != 1 or covariance.shape != (len(mean), len(mean)) or len(mean) == 0:
        shapes = f"mean {tuple(mean.shape)} and covariance {tuple(covariance.shape)}"
        raise ValueError(f"the shapes of {shapes} do not match; they must be (d,) and (d, d)")
    for name, values, largest in (("mean", mean, LARGEST), ("covariance", covariance, LARGEST**2)):
        if values.dtype != torch.float64:
            raise ValueError(f"the {name} must be in double precision, not {values.dtype}")
        if not (values.abs() <= largest).all():  # False for NaN
            raise ValueError(f"the {name} is not finite, or it exceeds {largest:g}")
    variances = covariance.diagonal()
    if variances.min() < 0:
        raise ValueError(f"the covariance has the negative variance {variances.min():.3g}")
    scale = variances.sqrt()
    # Sums of many products, which some tools compute in single precision, have larger errors than their last digit.
    tolerance = 1000 * _get_epsilon(covariance) * scale * scale[:, None]
    if ((covariance - covariance.T).abs() > tolerance).any():
        raise ValueError("the covariance is not symmetric")


def check_definite(covariance: Tensor, eigenvalues: Tensor) -> None:
    """Raise ValueError if a covariance (d, d) with these eigenvalues (d,) is not positive semidefinite."""
    rounding = len(covariance) * _get_epsilon(covariance) * eigenvalues.abs().max()
    negative = eigenvalues.clamp(max=0)
    if negative.min() < -rounding or -negative.sum() > NEGATIVE * eigenvalues.abs().sum():
        raise ValueError(f"the covariance is not positive semidefinite: it has the eigenvalue {negative.min():.3g}")


def check_logits(logits: Tensor) -> None:
    """Raise ValueError unless these are floating-point logits (N, K) of at least 2 images and at least 2 classes.

    A logit of -inf is a class with probability 0. NaN, inf, and an image without any possible class are errors.
    """
    _check_matrix(logits, "logits")
    _check_count("the logits of at least 2 images are needed", len(logits))
    if logits.shape[1] < 2:
        raise ValueError(f"logits (N, K) need at least 2 classes, not {logits.shape[1]}")
    invalid = ~logits.amax(dim=1).isfinite()  # the largest logit is NaN if any of them is
    if invalid.any():
        raise ValueError(f"the logits of {invalid.sum()} of {len(logits)} images are not finite")


def check_labels(labels: Tensor, count: int) -> None:
    """Raise ValueError unless these are the integer classes (N,) of `count` features."""
    if not isinstance(labels, Tensor) or labels.shape != (count,):
        raise ValueError("each feature needs a label")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, not {labels.dtype}")


def check_distances(distances: Tensor, count: int, neighbors: int) -> None:
    """Raise ValueError unless these are distances (N, k) of `count` features to at least `neighbors` others."""
    if distances.dim() != 2 or len(distances) != count or distances.shape[1] < neighbors:
        raise ValueError(
            f"the distances of {count} features to {neighbors} neighbors cannot have the shape {tuple(distances.shape)}"
        )
    if not (distances >= 0).all():  # False for NaN
        raise ValueError("distances must not be negative or NaN")


def check_integer(name: str, value: int, minimum: int) -> None:
    """Raise ValueError unless an argument is an integer of at least `minimum`."""
    try:
        valid = not isinstance(value, bool | Tensor) and operator.index(value) >= minimum
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(f"{name} must be an integer of at least {minimum}, not {value!r}")


def _get_epsilon(values: Tensor) -> float:
    """Return the relative rounding error of numbers in double precision, or in single precision if they fit into it."""
    return torch.finfo(torch.float32 if torch.equal(values.float().double(), values) else torch.float64).eps


def _check_matrix(values: Tensor, name: str) -> None:
    if not isinstance(values, Tensor):
        raise ValueError(f"{name} must be a tensor, not {type(values).__name__}")
    if values.dim() != 2 or values.shape[1] == 0:
        raise ValueError(f"{name} must have the shape (N, d) with d >= 1, not {tuple(values.shape)}")
    if values.dtype not in DTYPES:
        raise ValueError(f"{name} must be floating-point numbers, not {values.dtype}")
    if values.layout != torch.strided or values.is_meta:
        raise ValueError(f"{name} must be an ordinary tensor with values, not a {values.layout} or meta tensor")


def _check_count(need: str, *counts: int) -> None:
    if min(counts) < 2:
        raise ValueError(f"{need}, not {' and '.join(map(str, counts))}")
