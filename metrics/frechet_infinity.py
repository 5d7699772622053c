"""The Fréchet distance for infinitely many generated images (Chong & Forsyth, CVPR 2020)."""

import warnings

import numpy as np
import torch
from torch import Tensor

from metrics.checks import check_features, check_integer
from metrics.frechet import FeatureStatistics, frechet_distance

POINTS = 15


def frechet_distance_infinity(fake: Tensor, real: FeatureStatistics, points: int = POINTS, seed: int = 2020) -> float:
    """Return the limit of the Fréchet distance between features (N, d) and `real` for N to infinity.

    The distance has a bias that is proportional to 1 / N for large N and depends on the generator. As in the paper, it
    is computed for `points` numbers of features, evenly spaced from N / 10 (at least 2) to N, each with another random
    subset, and a line in 1 / N is fitted by least squares. The result is its value at 0, which may be slightly
    negative. The bias by the number of real images remains. Raises ValueError if there are fewer than 10 features or 2
    points.

    The bias is not linear yet where a subset has fewer features than dimensions, so N / 10 should be larger than d.
    """
    check_features(fake)
    check_integer("points", points, 1)
    if len(fake) < 10 or points < 2:
        raise ValueError(f"an extrapolation needs at least 10 features and 2 points, not {len(fake)} and {points}")
    random = np.random.RandomState(seed)
    counts = np.linspace(max(2, len(fake) // 10), len(fake), points).astype(int)
    distances = []
    with warnings.catch_warnings():
        if len(fake) >= fake.shape[1]:  # the warning is meant for the largest subset
            warnings.filterwarnings("ignore", "the Fréchet distance of", UserWarning)
        for count in counts:
            index = torch.from_numpy(random.permutation(len(fake))[:count]).to(fake.device)
            distances.append(frechet_distance(FeatureStatistics.from_features(fake[index]), real))
    slope_and_limit = np.polyfit(1 / counts, distances, deg=1)
    return float(slope_and_limit[1])
