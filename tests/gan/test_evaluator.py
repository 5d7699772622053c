import pytest
import torch

from gan.build import build_evaluator
from gan.config import Config
from gan.datasets.digits import Digits
from gan.evaluate import BATCH_SIZE, Evaluator
from metrics.digits import DigitsExtractor
from metrics.features import Features


@pytest.fixture(scope="module")
def splits():
    return Digits(resolution=16).load()


@pytest.fixture
def evaluator(splits, classifier):
    return Evaluator(DigitsExtractor(classifier), splits.held_out.images, ("fd_digits", "modes", "confident"), 300)


def noise(count, k):
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(k)), None


def test_real_images_score_well_and_noise_does_not(evaluator, splits):
    real = evaluator.floor(splits.train.images)
    fake = evaluator(lambda z, y: 2 * z - 1, noise)
    assert real["modes"] == 10
    assert real["confident"] > 0.9
    assert real["fd_digits"] < 5 < fake["fd_digits"]


def test_a_generator_of_the_held_out_images_has_distance_zero(evaluator, splits):
    x = splits.held_out.images.float() / 127.5 - 1
    evaluator.num_samples = len(x)
    scores = evaluator(lambda z, y: x[z], lambda count, k: (torch.arange(count) + k * BATCH_SIZE, None))
    assert scores["fd_digits"] == pytest.approx(0, abs=1e-5)


def test_exactly_num_samples_images_are_made_with_their_labels(splits):
    seen = []

    def extractor(images):
        return Features(images.flatten(1).float(), torch.zeros(len(images), 10).log_softmax(dim=1))

    def generate(z, y):
        seen.append((len(z), y))
        return z

    evaluator = Evaluator(extractor, splits.held_out.images, ("modes",), 2 * BATCH_SIZE + 7)
    evaluator(generate, lambda count, k: (torch.zeros(count, 1, 16, 16), k))
    assert seen == [(BATCH_SIZE, 0), (BATCH_SIZE, 1), (7, 2)]


def test_metrics_come_in_the_order_asked_for(evaluator):
    assert list(evaluator(lambda z, y: z, noise)) == ["fd_digits", "modes", "confident"]


def test_evaluating_builds_no_graph_and_draws_no_global_random_number(evaluator):
    weight = torch.ones((), requires_grad=True)
    made = []

    def generate(z, y):
        made.append(weight * z)
        return made[-1]

    before = torch.get_rng_state()
    evaluator(generate, noise)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(images.requires_grad for images in made)


@pytest.mark.parametrize(("names", "better"), [(("fd_digits", "modes"), 1.0), (("modes", "fd_digits"), 3.0)])
def test_the_first_metric_knows_which_value_is_better(splits, classifier, names, better):
    evaluator = Evaluator(DigitsExtractor(classifier), splits.held_out.images[:20], names, 2)
    assert evaluator.is_better(better, 2.0)
    assert not evaluator.is_better(2.0, better)
    assert not evaluator.is_better(2.0, 2.0)
    assert evaluator.is_better(2.0, None)


def test_the_classifier_is_trained_once_and_kept(splits, classifier, monkeypatch):
    def never(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr("gan.build.train_digits_classifier", never)
    evaluator = build_evaluator(Config(), splits, torch.device("cpu"))
    x = splits.held_out.images[:5]
    assert torch.equal(evaluator.extractor(x).features, DigitsExtractor(classifier)(x).features)


def test_the_classifier_generalizes(splits, classifier):
    logits = DigitsExtractor(classifier)(splits.held_out.images).logits
    assert (logits.argmax(dim=1) == splits.held_out.labels).double().mean() > 0.95
