"""Memorization: which generated images are no copies of training images (Alaa et al., ICML 2022)."""

from torch import Tensor

from metrics.checks import check_distances, check_feature_pair
from metrics.neighbors import Pairs, squared_neighbor_distances


def authentic_percentage(fake: Tensor, train: Tensor, train_distances: Tensor | None = None) -> float:
    """Return the percentage of authentic features (N, d), with the training features (M, d) (AuthPct).

    A generated feature is authentic if its nearest training feature is nearer to another training feature than to it.
    The percentage is 0 for copies of training images. For new images of the same distribution, it depends on the number
    of dimensions and of training images, so compare it with that of held-out real images. It also rises for bad images
    far from all training images, so read it together with a distance such as FID.

    `train_distances` is the result of `squared_neighbor_distances(train, k)` if it has been computed before. Raises
    ValueError for features that `metrics.checks` refuses.
    """
    check_feature_pair(fake, train)
    if train_distances is None:
        train_distances = squared_neighbor_distances(train, 1)
    check_distances(train_distances, len(train), 1)
    squared, nearest = Pairs(fake, train).find_nearest(1)
    return 100 * (train_distances[nearest[:, 0], 0] < squared[:, 0]).double().mean().item()
