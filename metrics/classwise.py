"""The Fréchet distance of each class, for class-conditional generators (intra FID: Miyato & Koyama, ICLR 2018)."""

from torch import Tensor

from metrics.checks import check_feature_pair, check_labels
from metrics.frechet import FeatureStatistics, frechet_distance


def classwise_frechet_distance(fake: Tensor, fake_labels: Tensor, real: Tensor, real_labels: Tensor) -> float:
    """Return the mean over the classes of the Fréchet distance between features (N, d) and (M, d) of the same class.

    Labels are (N,) and (M,); the classes are those of the real features. Each class has the same weight. Each distance
    is biased by the number of features of its class, which is smaller than N. Raises ValueError if a class has fewer
    than 2 features in either set, or if a generated one is of a class without real ones, and for features and labels
    that `metrics.checks` refuses.
    """
    check_feature_pair(fake, real)
    check_labels(fake_labels, len(fake))
    check_labels(real_labels, len(real))
    classes = real_labels.unique().tolist()
    foreign = sorted(set(fake_labels.unique().tolist()) - set(classes))
    if foreign:
        raise ValueError(f"there are no real images of the generated class {foreign[0]}")
    total = 0.0
    for label in classes:
        parts = fake[fake_labels == label], real[real_labels == label]
        if min(map(len, parts)) < 2:
            raise ValueError(
                f"class {label} has {len(parts[0])} generated and {len(parts[1])} real images, but needs 2 of each"
            )
        total += frechet_distance(*map(FeatureStatistics.from_features, parts))
    return total / len(classes)
