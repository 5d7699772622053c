import pytest
import torch

from gan.data import ImageData
from gan.evaluation.evaluator import Evaluator
from gan.evaluation.features import BATCH_SIZE
from gan.runtime.errors import UserError
from metrics.estimate import Estimate
from metrics.extractors.base import Features
from metrics.extractors.digits import DigitsExtractor
from metrics.frechet import FeatureStatistics, frechet_distance
from metrics.neighbors import Pairs
from metrics.protocols import parse_protocol
from tests.gan.evaluation.pixels import PixelExtractor, random_data

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def evaluator(splits, classifier):
    return digits_evaluator(splits, classifier, "fd_digits300_test", "modes300", "confident300")


def digits_evaluator(splits, classifier, *names):
    extractors = {"digits": DigitsExtractor(classifier)}
    real = {"train": splits.train, "test": splits.held_out}
    return Evaluator([parse_protocol(name) for name in names], extractors, real, CPU)


def pixel_evaluator(*names, real=None):
    protocols = [parse_protocol(name) for name in names]
    return Evaluator(protocols, {"pixels": PixelExtractor()}, {"test": real or random_data(40)}, CPU)


def noise(count, k):
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(k)), None


def test_real_images_score_better_than_noise(evaluator, splits):
    real = evaluator.score_images(splits.train.images, CPU)
    fake = evaluator(lambda z, y: 2 * z - 1, noise)
    assert real["modes300"] == 10
    assert real["confident300"] > 0.9
    assert real["fd_digits300_test"] < 5 < fake["fd_digits300_test"]


def test_distance_of_the_real_images_is_zero(splits, classifier):
    x = splits.held_out.images.float() / 127.5 - 1
    evaluator = digits_evaluator(splits, classifier, f"fd_digits{len(x)}_test")
    scores = evaluator(lambda z, y: x[z], lambda count, k: (torch.arange(count) + k * BATCH_SIZE, None))
    assert scores[f"fd_digits{len(x)}_test"] == pytest.approx(0, abs=1e-5)


def test_images_of_the_largest_protocol_are_generated_once():
    calls = []

    def generate(z, y):
        calls.append((len(z), y))
        return z

    evaluator = pixel_evaluator(f"is_pixels{2 * BATCH_SIZE + 7}", "is_pixels20")
    evaluator(generate, lambda count, k: (torch.zeros(count, 1, 2, 2), k))
    assert calls == [(BATCH_SIZE, 0), (BATCH_SIZE, 1), (7, 2)]


def test_progress_of_the_generated_images_is_shown(monkeypatch, capsys):
    evaluator = pixel_evaluator("is_pixels600")
    monkeypatch.setattr("gan.evaluation.progress.QUIET_S", 0)
    monkeypatch.setattr("gan.evaluation.progress.LINE_S", 0)
    evaluator(lambda z, y: 2 * z - 1, noise)
    lines = [f"features of 600 generated images: {percent} %, 00:00 left" for percent in (41, 83)]
    assert capsys.readouterr().out.splitlines() == lines


def test_metric_of_fewer_images_uses_the_first_ones():
    real, fake = random_data(40), random_data(60, seed=1).images
    scores = pixel_evaluator("fd_pixels60_test", "fd_pixels25_test", real=real).score_images(fake, CPU)
    statistics = FeatureStatistics.from_features(real.images.flatten(1).float())
    for count in (25, 60):
        expected = frechet_distance(FeatureStatistics.from_features(fake[:count].flatten(1).float()), statistics)
        assert scores[f"fd_pixels{count}_test"] == pytest.approx(expected, rel=1e-12)
    assert scores["fd_pixels25_test"] != scores["fd_pixels60_test"]


def test_real_images_are_extracted_once_by_the_constructor():
    extractor = PixelExtractor()
    protocols = [parse_protocol(name) for name in ("fd_pixels20_test", "kid_pixels20_test")]
    evaluator = Evaluator(protocols, {"pixels": extractor}, {"test": random_data(40)}, CPU)
    assert extractor.num_images == 40
    evaluator.score_images(random_data(20, seed=1).images, CPU)
    assert extractor.num_images == 60


def test_metrics_are_in_the_order_of_the_protocols(evaluator):
    assert list(evaluator(lambda z, y: z, noise)) == ["fd_digits300_test", "modes300", "confident300"]


def test_evaluation_needs_no_graph_and_no_global_random_numbers(evaluator):
    weight = torch.ones((), requires_grad=True)
    generated = []

    def generate(z, y):
        generated.append(weight * z)
        return generated[-1]

    before = torch.get_rng_state()
    evaluator(generate, noise)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(images.requires_grad for images in generated)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_refused(value):
    """As 8-bit values they would be black or white."""

    def generate(z, y):
        z[1, 0, 0, 0] = value
        return z

    with pytest.raises(UserError, match="images with NaN or infinite pixels"):
        pixel_evaluator("fd_pixels20_test")(generate, noise)


def test_features_that_are_not_finite_are_refused():
    evaluator = pixel_evaluator("fd_pixels20_test", "is_pixels20")
    evaluator.extractors["pixels"] = lambda images: Features(images.flatten(1).float() / 0, images.flatten(1).float())
    with pytest.raises(UserError, match=r"^fd_pixels20_test: 20 of 20 features are not finite"):
        evaluator.score_images(random_data(20).images, CPU)


def test_metrics_of_neighbors_share_one_pass_and_the_cached_distances(monkeypatch):
    names = [f"{metric}_pixels60_test" for metric in ("precision", "recall", "density", "coverage")]
    fake = random_data(60, seed=1).images
    expected = {}
    for name in names:
        expected |= pixel_evaluator(name).score_images(fake, CPU)
    bound, passes = Pairs.bound, []
    monkeypatch.setattr(Pairs, "bound", lambda *args, **options: passes.append(1) or bound(*args, **options))
    evaluator = pixel_evaluator(*names)
    assert not passes  # the distances between real images are in the cache
    assert evaluator.score_images(fake, CPU) == expected
    assert len(passes) == 2


def test_scores_are_estimates_where_a_metric_has_parts():
    scores = pixel_evaluator("is_pixels60", "kid_pixels60_test", "fd_pixels60_test").score_images(
        random_data(60, seed=1).images, CPU
    )
    assert [isinstance(value, Estimate) for value in scores.values()] == [True, True, False]


def test_classwise_distance_uses_the_labels_of_the_latents():
    real = random_data(600)
    labels = torch.arange(600) % 3
    real = ImageData(real.images, labels, 3)

    def get_latents(count, k):
        index = torch.arange(count) + k * BATCH_SIZE
        return index, labels[index]

    evaluator = pixel_evaluator("intrafd_pixels600_test", "fd_pixels600_test", real=real)
    scores = evaluator(lambda z, y: real.images[z].float() / 127.5 - 1, get_latents)
    assert scores["intrafd_pixels600_test"] == pytest.approx(0, abs=1e-6)
    assert evaluator.score_images(real.images, CPU, labels) == pytest.approx(scores, abs=1e-6)
    assert evaluator.score_images(real.images, CPU, labels.roll(1))["intrafd_pixels600_test"] > 1
    with pytest.raises(UserError, match="have no labels"):
        evaluator.score_images(real.images, CPU)
