"""Every metric refuses what it cannot judge, in one line."""

import itertools
import math

import numpy as np
import pytest
import torch

from metrics.authenticity import authentic_percentage
from metrics.classwise import classwise_frechet_distance
from metrics.frechet import FeatureStatistics, frechet_distance
from metrics.frechet_infinity import frechet_distance_infinity
from metrics.inception_score import inception_score
from metrics.kid import kid
from metrics.manifold import density_coverage, precision_recall
from metrics.modes import captured_modes, confident_fraction, kl_to_uniform
from metrics.neighbors import squared_neighbor_distances

OF_PAIRS = {
    "kid": kid,
    "precision_recall": precision_recall,
    "density_coverage": density_coverage,
    "authentic_percentage": authentic_percentage,
    "classwise_frechet_distance": lambda fake, real: classwise_frechet_distance(
        fake, torch.zeros(fake.shape[:1]).long(), real, torch.zeros(real.shape[:1]).long()
    ),
}
OF_ONE_SET = {  # errors do not say which set it is
    "frechet": lambda fake, real: frechet_distance(*map(FeatureStatistics.from_features, (fake, real))),
    "frechet_infinity": lambda fake, real: frechet_distance_infinity(fake, FeatureStatistics.from_features(real)),
    "neighbors": lambda fake, real: (squared_neighbor_distances(fake, 1), squared_neighbor_distances(real, 1)),
}
OF_PAIRS |= OF_ONE_SET
OF_LOGITS = {
    "inception_score": inception_score,
    "captured_modes": captured_modes,
    "kl_to_uniform": kl_to_uniform,
    "confident_fraction": confident_fraction,
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_value(values, value):
    values = values.clone()
    values[3, 1] = value
    return values


def message(compute, *arguments):
    """Return the message of the error, which is one line."""
    with pytest.raises(ValueError, match=r".+") as error:
        compute(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


FEATURES = {
    "1 of 40 {}features are not finite": [
        with_value(draw(40, 3).to(dtype), value)
        for value in (math.nan, math.inf, -math.inf)
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    ],
    "1 of 40 {}features exceed 1e+30, which is too large": [
        with_value(draw(40, 3), 1e31),
        with_value(draw(40, 3).double(), -1e200),
    ],
    "{}features must have the shape (N, d)": [draw(40), draw(40, 3, 1), draw(40, 0), torch.tensor(1.0)],
    "{}features must be floating-point numbers": [
        draw(40, 3).long(),
        draw(40, 3).byte(),
        draw(40, 3) > 0,
        draw(40, 3).to(torch.complex64),
    ],
    "{}features must be a tensor, not ndarray": [draw(40, 3).numpy()],
}


@pytest.mark.parametrize("name", OF_PAIRS)
def test_features_that_are_refused(name):
    for expected, cases in FEATURES.items():
        for side, features in itertools.product(("fake", "real"), cases):
            pair = (features, draw(40, 3, seed=1)) if side == "fake" else (draw(40, 3, seed=1), features)
            owner = "" if name in OF_ONE_SET else f"{side} "
            assert message(OF_PAIRS[name], *pair).startswith(expected.format(owner))


def test_kernel_that_overflows_is_refused():
    fake, real = 1e10 * draw(40, 3), 1e10 * draw(40, 3, seed=1)
    assert message(kid, fake, real).startswith("the kernel of features this large overflows in torch.float32")
    assert math.isfinite(kid(fake.double(), real.double()))


@pytest.mark.parametrize("name", OF_PAIRS)
def test_one_image_and_no_image_are_refused(name):
    for counts in ((1, 40), (40, 1), (0, 40), (40, 0)):
        fake, real = (draw(count, 3) for count in counts)
        assert message(OF_PAIRS[name], fake, real).startswith("at least 2 features"), counts


@pytest.mark.parametrize("name", sorted(OF_PAIRS.keys() - {"neighbors"}))
def test_features_of_different_dimensions_are_refused(name):
    assert message(OF_PAIRS[name], draw(40, 3), draw(40, 4)) == "cannot compare features with 3 and 4 dimensions"


LOGITS = {
    "the logits of 1 of 40 images are not finite": [with_value(draw(40, 3), value) for value in (math.nan, math.inf)],
    "the logits of 40 of 40 images are not finite": [torch.full((40, 3), -math.inf)],
    "the logits of at least 2 images are needed, not": [draw(1, 3), draw(0, 3)],
    "logits (N, K) need at least 2 classes, not 1": [draw(40, 1)],
    "logits must have the shape (N, d)": [draw(40), draw(40, 3, 2), draw(40, 0)],
    "logits must be floating-point numbers": [draw(40, 3).long(), draw(40, 3).to(torch.complex64)],
}


@pytest.mark.parametrize("name", OF_LOGITS)
def test_logits_that_are_refused(name):
    for expected, cases in LOGITS.items():
        for logits in cases:
            assert message(OF_LOGITS[name], logits).startswith(expected)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_a_class_with_probability_zero_is_allowed(name):
    assert math.isfinite(OF_LOGITS[name](with_value(draw(40, 3), -math.inf)))


PAIR = draw(40, 3), draw(40, 3, seed=1)


@pytest.mark.parametrize(
    ("argument", "compute"),
    {
        "neighbors": lambda value: precision_recall(*PAIR, neighbors=value),
        "neighbors  ": lambda value: squared_neighbor_distances(PAIR[0], value),
        "points": lambda value: frechet_distance_infinity(PAIR[0], FeatureStatistics.from_features(PAIR[1]), value),
        "neighbors ": lambda value: density_coverage(*PAIR, neighbors=value),
        "subsets": lambda value: kid(*PAIR, subsets=value),
        "subset_size": lambda value: kid(*PAIR, subset_size=value),
        "splits": lambda value: inception_score(draw(40, 3), splits=value),
    }.items(),
)
def test_arguments_must_be_positive_integers(argument, compute):
    minimum = 2 if argument == "subset_size" else 1
    for value in (0, -1, 2.5, 3.0, math.nan, True, None, "3"):
        assert message(compute, value) == f"{argument.strip()} must be an integer of at least {minimum}, not {value!r}"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (torch.zeros(39).long(), "each feature needs a label"),
        (torch.zeros(40, 1).long(), "each feature needs a label"),
        (torch.zeros(40), "labels must be integers, not torch.float32"),
        (torch.zeros(40) > 0, "labels must be integers, not torch.bool"),
    ],
)
def test_labels_that_are_refused(labels, expected):
    classes = torch.zeros(40).long()
    assert message(classwise_frechet_distance, PAIR[0], labels, PAIR[1], classes) == expected
    assert message(classwise_frechet_distance, PAIR[0], classes, PAIR[1], labels) == expected


def test_subsets_of_one_feature_are_refused():
    assert message(lambda: kid(*PAIR, subset_size=1)) == "subset_size must be an integer of at least 2, not 1"


def test_numpy_integers_are_integers():
    assert kid(*PAIR, subsets=np.int64(2), subset_size=np.int32(20)) == kid(*PAIR, subsets=2, subset_size=20)
