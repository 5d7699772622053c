import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan.config import Config, EvalConfig
from gan.data import ImageData
from gan.data.datasets.digits import Digits
from gan.evaluation.evaluator import BATCH_SIZE, Evaluator, RealFeatures
from gan.evaluation.extractors import MetricsConfig
from gan.runtime import cache
from gan.runtime.errors import UserError
from gan.training.build import build_evaluator
from metrics.catalog import parse_protocol
from metrics.extractors.base import Features
from metrics.extractors.digits import DigitsExtractor
from metrics.frechet import FeatureStatistics, frechet_distance

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


class Pixels:
    """The pixels as features; counts the images it is shown."""

    def __init__(self, fingerprint: str = "pixels"):
        self.fingerprint = fingerprint
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        flat = images.flatten(1).float()
        return Features(flat, flat)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def splits():
    return Digits(resolution=16).load()


def random_data(count, seed=0, side=2):
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 1, side, side), generator=random, dtype=torch.uint8)
    return ImageData(images, torch.zeros(count, dtype=torch.long), 1)


@pytest.fixture
def evaluator(splits, classifier):
    return shows_digits(splits, classifier, "fd_digits300_test", "modes300", "confident300")


def shows_digits(splits, classifier, *names):
    extractors = {"digits": DigitsExtractor(classifier)}
    real = {"train": splits.train, "test": splits.held_out}
    return Evaluator([parse_protocol(name) for name in names], extractors, real, CPU)


def of_pixels(*names, real=None):
    protocols = [parse_protocol(name) for name in names]
    return Evaluator(protocols, {"pixels": Pixels()}, {"test": real or random_data(40)}, CPU)


def noise(count, k):
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(k)), None


def test_real_images_score_well_and_noise_does_not(evaluator, splits):
    real = evaluator.score_images(splits.train.images, CPU)
    fake = evaluator(lambda z, y: 2 * z - 1, noise)
    assert real["modes300"] == 10
    assert real["confident300"] > 0.9
    assert real["fd_digits300_test"] < 5 < fake["fd_digits300_test"]


def test_a_generator_of_the_held_out_images_has_distance_zero(splits, classifier):
    x = splits.held_out.images.float() / 127.5 - 1
    evaluator = shows_digits(splits, classifier, f"fd_digits{len(x)}_test")
    scores = evaluator(lambda z, y: x[z], lambda count, k: (torch.arange(count) + k * BATCH_SIZE, None))
    assert scores[f"fd_digits{len(x)}_test"] == pytest.approx(0, abs=1e-5)


def test_as_many_images_as_the_largest_protocol_wants_are_made_once_with_their_labels():
    seen = []

    def generate(z, y):
        seen.append((len(z), y))
        return z

    evaluator = of_pixels(f"is_pixels{2 * BATCH_SIZE + 7}", "is_pixels20")
    evaluator(generate, lambda count, k: (torch.zeros(count, 1, 2, 2), k))
    assert seen == [(BATCH_SIZE, 0), (BATCH_SIZE, 1), (7, 2)]


def test_a_metric_of_fewer_images_looks_at_the_first_of_them():
    real, fake = random_data(40), random_data(60, seed=1).images
    scores = of_pixels("fd_pixels60_test", "fd_pixels25_test", real=real).score_images(fake, CPU)
    statistics = FeatureStatistics.from_features(real.images.flatten(1))
    for count in (25, 60):
        expected = frechet_distance(FeatureStatistics.from_features(fake[:count].flatten(1)), statistics)
        assert scores[f"fd_pixels{count}_test"] == pytest.approx(expected, rel=1e-12)
    assert scores["fd_pixels25_test"] != scores["fd_pixels60_test"]


def test_metrics_come_in_the_order_asked_for(evaluator):
    assert list(evaluator(lambda z, y: z, noise)) == ["fd_digits300_test", "modes300", "confident300"]


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


@pytest.mark.parametrize(
    ("names", "better"), [(("fd_digits20_test", "modes20"), 1.0), (("modes20", "fd_digits20_test"), 3.0)]
)
def test_the_first_metric_knows_which_value_is_better(splits, classifier, names, better):
    evaluator = shows_digits(splits, classifier, *names)
    assert evaluator.is_better(better, 2.0)
    assert not evaluator.is_better(2.0, better)
    assert not evaluator.is_better(2.0, 2.0)
    assert evaluator.is_better(2.0, None)


def test_features_of_real_images_are_extracted_once_and_cached():
    data = random_data(30)
    first, second = Pixels(), Pixels()
    statistics = RealFeatures(first, data, None, CPU).statistics
    again = RealFeatures(second, data, None, CPU).statistics
    assert (first.seen, second.seen) == (30, 0)
    assert torch.equal(again.mean, statistics.mean)
    assert frechet_distance(again, statistics) == pytest.approx(0, abs=1e-6)
    assert torch.equal(RealFeatures(second, data, None, CPU).features, data.images.flatten(1).float())


@pytest.mark.parametrize("what", ["features", "statistics"])
@pytest.mark.parametrize("other", ["data", "weights", "count"])
def test_cached_features_of_other_data_weights_or_counts_are_not_reused(what, other):
    getattr(RealFeatures(Pixels(), random_data(30), 20, CPU), what)
    extractor = Pixels("other weights" if other == "weights" else "pixels")
    data = random_data(30)
    if other == "data":
        data.images[17, 0, 1, 1] ^= 1
    count = 21 if other == "count" else 20
    getattr(RealFeatures(extractor, data, count, CPU), what)
    assert extractor.seen == count


@pytest.mark.parametrize("damage", [lambda blob: blob[: len(blob) // 2], lambda blob: b"", lambda blob: b"x" * 100])
def test_a_damaged_cache_file_is_noticed_and_rebuilt(damage):
    data = random_data(30)
    expected = RealFeatures(Pixels(), data, None, CPU).statistics
    (path,) = cache.cache_dir().glob("statistics-*.pt")
    path.write_bytes(damage(path.read_bytes()))
    extractor = Pixels()
    assert torch.equal(RealFeatures(extractor, data, None, CPU).statistics.mean, expected.mean)
    assert extractor.seen == 30
    assert torch.load(path, weights_only=True)


def test_features_go_to_the_device_and_statistics_stay_on_the_cpu():
    data = random_data(30)
    for what in ("features", "statistics"):
        getattr(RealFeatures(Pixels(), data, None, CPU), what)  # into the cache
    elsewhere = RealFeatures(Pixels(), data, None, torch.device("meta"))
    assert elsewhere.features.device.type == "meta"
    assert elsewhere.statistics.mean.device == CPU


def test_a_part_of_the_real_images_is_a_fixed_random_one():
    data = random_data(200)
    first, second = (RealFeatures(Pixels(), data, 50, CPU).features for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, data.images[:50].flatten(1).float())
    rows = {row.numpy().tobytes() for row in data.images.flatten(1).float()}
    assert all(row.numpy().tobytes() in rows for row in first)


def test_the_classifier_is_trained_once_and_kept(splits, cache, classifier, monkeypatch):
    def never(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr("gan.evaluation.extractors.digits.train_digits_classifier", never)
    evaluator, left_out = build_evaluator(Config(), splits, CPU)
    x = splits.held_out.images[:5]
    assert torch.equal(evaluator.extractors["digits"](x).features, DigitsExtractor(classifier)(x).features)
    assert left_out == {}


def test_the_classifier_generalizes(splits, classifier):
    logits = DigitsExtractor(classifier)(splits.held_out.images).logits
    assert (logits.argmax(dim=1) == splits.held_out.labels).double().mean() > 0.95


def test_a_file_of_other_features_is_refused_at_the_start(splits, cache, classifier, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    path = tmp_path / "statistics.npz"
    FeatureStatistics.from_features(torch.rand(9, 7)).save(path)
    names = EvalConfig(metrics=("fd_digits70_file",))
    config = Config(eval=names, metrics=MetricsConfig(statistics=str(path)))
    with pytest.raises(UserError, match="is of 7 features, not of the 64 that fd_digits70_file has"):
        build_evaluator(config, splits, CPU)


def test_metrics_without_their_weights_are_left_out_with_a_reason(splits, cache, classifier, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    names = ("fid10_train", "fd_dinov2-vit-b-14-10_train", "kl10")
    evaluator, left_out = build_evaluator(Config(eval=EvalConfig(metrics=names)), splits, CPU)
    assert list(map(str, evaluator.protocols)) == ["kl10"]
    assert "metrics.inception_weights" in left_out["fid10_train"]
    assert "metrics.download=true" in left_out["fd_dinov2-vit-b-14-10_train"]
    evaluator, left_out = build_evaluator(Config(eval=EvalConfig(metrics=names[:2])), splits, CPU)
    assert evaluator is None
    assert len(left_out) == 2


# One of several processes: saves the features and the scores that it ends up with.
SHARE = """
import sys, torch
from gan.data import ImageData
from gan.runtime.errors import UserError
from gan.evaluation.evaluator import BATCH_SIZE, Evaluator, extract_features
from metrics.catalog import parse_protocol
from metrics.extractors.base import Features

folder, rank, world, count = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)

def extractor(images):
    x = images.flatten(1).float()
    return Features(x, x)

extractor.fingerprint = "pixels"
random = torch.Generator().manual_seed(0)
fake, real = (torch.randint(256, (n, 1, 4, 4), generator=random, dtype=torch.uint8) for n in (count, 300))
parts = fake.split(BATCH_SIZE)
features, logits = extract_features(extractor, count, lambda k, size: parts[k][:size])
assert torch.equal(features, fake.flatten(1).float())
names = f"fd_pixels{count}_test", f"kid_pixels{count}_test"
real = {"test": ImageData(real, torch.zeros(300, dtype=torch.long), 1)}
evaluator = Evaluator([parse_protocol(name) for name in names], {"pixels": extractor}, real, torch.device("cpu"))
torch.save((features, logits, evaluator.score_images(fake, torch.device("cpu"))), f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def shared_out(arguments, cache):
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    commands = [[sys.executable, "-c", SHARE, *map(str, those)] for those in arguments]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait() for process in processes] == [0] * len(commands)


@pytest.mark.parametrize("count", [100, 2 * BATCH_SIZE + 90])  # one process without a batch; an uneven share
def test_several_processes_find_the_numbers_of_one(tmp_path, count):
    for world in (1, 2):
        folder = tmp_path / str(world)
        folder.mkdir()
        shared_out([(folder, r, world, count) for r in range(world)], folder)
    one, *two = (torch.load(path) for path in (tmp_path / "1/0.pt", tmp_path / "2/0.pt", tmp_path / "2/1.pt"))
    for theirs in two:
        assert torch.equal(theirs[0], one[0])
        assert torch.equal(theirs[1], one[1])
        assert theirs[2] == one[2]


def test_two_runs_that_fill_the_cache_at_once_both_end_well(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    shared_out([(tmp_path / name, 0, 1, 300) for name in ("a", "b")], tmp_path)
    (_, _, first), (_, _, second) = (torch.load(tmp_path / name / "0.pt") for name in ("a", "b"))
    assert first == second
    (path,) = (tmp_path / "convnorm-gan").glob("statistics-*")
    assert torch.load(path, weights_only=True)["mean"].shape == (16,)
