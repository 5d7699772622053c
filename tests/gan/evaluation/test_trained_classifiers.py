import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from classification.config import Config as ClassifierConfig
from gan.config import Config
from gan.data.datasets.digits import Digits
from gan.evaluate import main as evaluate
from gan.evaluation.build import build_evaluator
from gan.evaluation.extractors import MetricsConfig, build_extractor
from gan.evaluation.trained_classifiers import ASSETS, SHIPPED, SUFFIX, load_classifier
from gan.options.loader import load_config, parse_config
from gan.run.folder import changed_keys
from gan.runtime.errors import UserError
from gan.runtime.weights import read_weights
from metrics.catalog import METRICS
from models import ImageShape
from tests.gan.evaluation.classifiers import IMAGE, save_trained, save_untrained
from train_gan import main

CPU = torch.device("cpu")
CIFAR10 = "cifar10_jpeg@41acad51d14b3f39"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the file of a classifier of digits of 8 x 8 pixels."""
    return save_trained(tmp_path_factory.mktemp("classifier") / "classifier.safetensors")


@pytest.fixture(scope="module")
def digits():
    return Digits(resolution=8).load()


def test_name_of_a_shipped_classifier_gets_its_fingerprint():
    # The constant is a part of the configs of runs: another one would refuse them.
    assert MetricsConfig(classifier="cifar10_jpeg").classifier == CIFAR10
    assert MetricsConfig(classifier=CIFAR10).classifier == CIFAR10
    assert build_extractor("classifier", MetricsConfig(classifier=CIFAR10), ImageShape(3, 32, 10), CPU).shape[0] == 3


@pytest.mark.parametrize("path", sorted(ASSETS.glob(f"*{SUFFIX}")), ids=lambda path: path.name)
def test_shipped_classifier_is_that_of_its_config(path):
    assert path.stat().st_size < 2e6
    name = path.name.removesuffix(SUFFIX)
    assert load_classifier(name).name == f"{name}@{SHIPPED[name]}"
    config = load_config(ClassifierConfig, ASSETS.parent / "configs" / "classification" / f"{name}.yaml")
    saved = parse_config(ClassifierConfig, read_weights(path)[1]["config"], str(path))
    assert changed_keys(saved, config) == []  # the data may be elsewhere
    assert saved.train == config.train
    network, image, _ = load_classifier(name)
    assert image == (3, config.data.resolution, 10)
    # The statistics of natural images.
    assert network.standardize.mean.flatten().tolist() == pytest.approx([0.48, 0.47, 0.43], abs=0.04)
    assert network.standardize.std.flatten().tolist() == pytest.approx([0.25, 0.25, 0.27], abs=0.03)


def test_fingerprint_depends_on_the_weights_alone(tmp_path):
    a, b = save_untrained(tmp_path / "a.safetensors"), save_untrained(tmp_path / "b.safetensors", seed=1)
    (tmp_path / "run").mkdir()
    shutil.copy(a, tmp_path / "run" / "classifier.safetensors")
    names = [MetricsConfig(classifier=str(path)).classifier for path in (a, tmp_path / "run", b)]
    paths, fingerprints = zip(*(name.split("@") for name in names), strict=True)
    assert paths == tuple(map(str, (a, tmp_path / "run", b)))
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    extractor = build_extractor("classifier", MetricsConfig(classifier=names[0]), IMAGE, CPU)
    assert extractor.fingerprint.startswith(fingerprints[0])


def test_file_with_other_weights_is_refused(tmp_path):
    name = MetricsConfig(classifier=str(save_untrained(tmp_path / "a.safetensors"))).classifier
    save_untrained(tmp_path / "a.safetensors", seed=1)
    with pytest.raises(UserError, match=r"^metrics\.classifier: .*a\.safetensors is another classifier than before"):
        build_extractor("classifier", MetricsConfig(classifier=name), IMAGE, CPU)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (ImageShape(1, 16, 10), "classifies images of 8 x 8 pixels, not 16 x 16"),
        (ImageShape(3, 8, 10), "classifies images with 1 channel, not 3"),
        (ImageShape(1, 8, 7), "classifies 10 classes, not 7"),
    ],
)
def test_classifier_of_other_images_is_refused(tmp_path, image, reason):
    options = MetricsConfig(classifier=str(save_untrained(tmp_path / "a.safetensors")))
    with pytest.raises(UserError, match=rf"^metrics\.classifier: .*a\.safetensors@\w+ {reason}"):
        build_extractor("classifier", options, image, CPU)
    build_extractor("classifier", options, ImageShape(1, 8), CPU)  # images without classes


def break_file(path, damage):
    tensors = {"weight": torch.zeros(1)}
    if damage == "text":
        path.write_text("no weights")
    elif damage == "other weights":
        description = {"config": "classifier: {name: resnet10, width: 1}", "image": "[1, 8, 10]"}
        save_file(tensors, path, description)
    elif damage == "generator":
        save_file(tensors, path, {"config": "generator: {name: dcgan}", "image": "[1, 8, 10]"})
    elif damage == "no image":
        save_file(tensors, path, {"config": "classifier: {name: resnet10}", "image": "[1"})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("missing", "cannot read the weights in .*; name cifar10_jpeg.* or a run of train_classifier"),
        ("text", "cannot read the weights in"),
        ("other weights", "the weights in .* do not fit the network that the file describes"),
        ("generator", "contains no description of a classifier"),
        ("no image", "contains no description of a classifier"),
    ],
)
def test_broken_file_is_one_line(tmp_path, capsys, damage, reason):
    path = tmp_path / "a.safetensors"
    break_file(path, damage)
    for folder in ("fake", "real"):
        save_images(tmp_path / folder, Digits(resolution=8).load().train.images[:20])
    arguments = ["--images", str(tmp_path / "fake"), str(tmp_path / "real"), "--metrics", "fd_classifier"]
    assert evaluate([*arguments, f"metrics.classifier={path}"]) == 2
    assert re.fullmatch(rf"error: metrics\.classifier: .*{reason}.*\n", capsys.readouterr().err)


def save_images(folder, images):
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(np.moveaxis(image.numpy(), 0, -1).squeeze()).save(folder / f"{number}.png")


def test_image_folders_are_compared_in_the_features_of_a_classifier(tmp_path, trained, digits, capsys):
    save_images(tmp_path / "fake", digits.train.images[:40])
    save_images(tmp_path / "real", digits.held_out.images[:40])
    save_images(tmp_path / "wide", digits.train.images[:40, :, :6])
    save_images(tmp_path / "color", digits.train.images[:40].expand(-1, 3, -1, -1))
    options = ["--metrics", "fd_classifier", "is_classifier", f"metrics.classifier={trained}"]
    options += ["--out", str(tmp_path / "scores.json")]

    def run(*folders):
        return evaluate(["--images", *(str(tmp_path / name) for name in folders), *options])

    assert run("fake", "real") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["classifier"] == MetricsConfig(classifier=str(trained)).classifier
    assert list(scores["metrics"]) == ["fd_classifier40", "is_classifier40"]
    assert (run("wide", "wide"), run("color", "color")) == (2, 2)
    wide, color = capsys.readouterr().err.splitlines()
    assert "the classifier expects uint8 images of 1 x 8 x 8, not torch.uint8 of 1 x 6 x 8" in wide
    assert "classifies images with 1 channel, not 3" in color


def test_every_metric_works_in_the_features_of_a_classifier(trained, digits):
    names = [
        f"{name}_classifier120{'' if metric.required_reference == 'none' else '_test'}"
        for name, metric in METRICS.items()
        if name != "fid"
    ]
    evaluator = build_evaluator(names, MetricsConfig(classifier=str(trained)), digits, CPU)
    scores = evaluator.score_images(digits.train.images[:120], CPU, digits.train.labels[:120])
    assert list(scores) == names
    assert all(map(np.isfinite, scores.values()))
    assert scores["is_classifier120"] > 3
    assert scores["modes_classifier120"] == 10
    assert scores["intrafd_classifier120_test"] > scores["fd_classifier120_test"] > 0


def test_distance_grows_with_blur_noise_and_dropped_classes(trained, digits):
    train, held_out = digits.train, digits.held_out
    evaluator = build_evaluator(["fd_classifier500_test"], MetricsConfig(classifier=str(trained)), digits, CPU)

    def distance(images):
        return evaluator.score_images(images[:500], CPU)["fd_classifier500_test"]

    def blur(images, weight):  # a box of 3 x 3 pixels, mixed with the image
        smooth = torch.nn.functional.avg_pool2d(images.float(), 3, stride=1, padding=1, count_include_pad=False)
        return images.float().lerp(smooth, weight).round().byte()

    def add_noise(images, std):
        noise = std * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        return (images + noise).round().clamp(0, 255).byte()

    floor = distance(train.images)
    assert len(held_out) > 300
    series = {
        "blur": [distance(blur(train.images, weight)) for weight in (0.3, 0.6, 1)],
        "noise": [distance(add_noise(train.images, std)) for std in (40, 60, 80)],
        "classes": [distance(train.images[train.labels < kept]) for kept in (9, 7, 4, 1)],
    }
    for name, values in series.items():
        assert sorted(values) == values, name
        assert values[0] > 1.5 * floor, name


@pytest.fixture
def two_classifiers(tmp_path):
    """Return the files of two classifiers for the images of the tiny run."""
    image = ImageShape(1, 16, 10)
    return [save_untrained(tmp_path / f"{name}.safetensors", seed, image) for seed, name in enumerate("ab")]


def test_run_keeps_its_classifier(tmp_path, tiny_run, two_classifiers, capsys):
    a, b = two_classifiers
    name = MetricsConfig(classifier=str(a)).classifier
    short = ["train.steps=1", "eval.metrics=[fd_classifier70_test]", "eval.standing_statistics=0"]
    run = tiny_run(tmp_path / "run", *short, f"metrics.classifier={a}")
    assert load_config(Config, run / "config.yaml").metrics.classifier == name
    assert f"classifier: {name}" in (run / "config.yaml").read_text()
    capsys.readouterr()

    another = "contains a run with another config \\(different: metrics\\.classifier\\)"
    cpu = ["--device", "cpu"]
    assert main(["--out", str(run), "--resume", *cpu, f"metrics.classifier={b}"]) == 2
    assert evaluate([str(run), *cpu, f"metrics.classifier={b}"]) == 2
    assert all(re.search(another, line) for line in capsys.readouterr().err.splitlines())
    moved = shutil.copy(a, tmp_path / "moved.safetensors")
    assert evaluate([str(run), *cpu, f"metrics.classifier={moved}"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["classifier"] == f"{moved}@{name.split('@')[1]}"

    shutil.copy(b, a)
    assert main(["--out", str(run), "--resume", *cpu]) == 2
    assert evaluate([str(run), *cpu]) == 2
    errors = capsys.readouterr().err.splitlines()[-2:]
    assert all("a.safetensors is another classifier than before" in error for error in errors)


def test_results_of_an_evaluation_have_one_classifier(tmp_path, copied_run, two_classifiers, capsys):
    a, b = two_classifiers
    arguments = [str(copied_run), "--device", "cpu", "--metrics", "fd_classifier70_test"]
    assert evaluate([*arguments, f"metrics.classifier={a}"]) == 0
    assert evaluate([*arguments, f"metrics.classifier={b}"]) == 2
    assert "has metrics of another classifier" in capsys.readouterr().err
    assert evaluate([*arguments, f"metrics.classifier={b}", "--out", str(tmp_path / "other.json")]) == 0
