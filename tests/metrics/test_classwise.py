import pytest
import torch

from metrics.classwise import classwise_frechet_distance
from metrics.frechet import FeatureStatistics, frechet_distance


def features(count, seed, shift=0.0):
    return shift + torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_mean_of_the_distances_of_the_classes():
    """Each class has the same weight, whatever its number of images."""
    fake, real = features(90, 0, 0.3), features(80, 1)
    fake_labels, real_labels = torch.arange(90) % 10 // 4, torch.arange(80) % 7 // 3
    expected = sum(
        frechet_distance(*map(FeatureStatistics.from_features, (fake[fake_labels == k], real[real_labels == k])))
        for k in range(3)
    )
    assert classwise_frechet_distance(fake, fake_labels, real, real_labels) == pytest.approx(expected / 3, rel=1e-12)


def test_translated_classes_have_the_squared_translation():
    x, labels = features(60, 0), torch.arange(60) % 2
    shift = torch.tensor([[1.0, 0, 0], [0, 3.0, 0]])[labels]
    assert classwise_frechet_distance(x + shift, labels, x, labels) == pytest.approx((1 + 9) / 2, rel=1e-10)


def test_exchanged_classes_are_detected():
    """The Fréchet distance of all images is 0."""
    labels = torch.arange(60) % 2
    x = features(60, 0) + 10 * labels[:, None]
    assert classwise_frechet_distance(x, labels, x, labels) == pytest.approx(0, abs=1e-9)
    assert classwise_frechet_distance(x, 1 - labels, x, labels) > 200


@pytest.mark.parametrize(
    ("fake_labels", "message"),
    [([0] * 5 + [1], "class 1 has 1 generated and 3 real images"), ([0] * 6, "class 1 has 0 generated"),
     ([0, 0, 1, 1, 7, 7], "no real images of the generated class 7"), ([0, 1], "needs a label")],
)  # fmt: skip
def test_classes_with_too_few_images_are_rejected(fake_labels, message):
    with pytest.raises(ValueError, match=message):
        classwise_frechet_distance(
            features(6, 0), torch.tensor(fake_labels), features(6, 1), torch.tensor([0, 0, 0, 1, 1, 1])
        )
