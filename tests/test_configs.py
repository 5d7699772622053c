"""Every shipped config, at tiny size: two training steps, an audit, an evaluation, samples, and a bit-equal resume."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import train_classifier
import train_gan
from gan.compare.experiment_types import CLASSIFIER, GAN
from gan.data import ImageData, Splits
from gan.data.datasets.folder import FolderConfig
from gan.evaluation.extractors import EXTRACTORS
from gan.options.loader import load_config
from gan.run.logging import read_metrics
from gan.sample import __main__ as sample
from metrics.extractors.base import Features
from metrics.extractors.digits import DigitsClassifier, DigitsExtractor
from metrics.lipschitz import singular_values, steepest_slope
from metrics.protocols import parse_protocol
from tests.gan.runs import Killed, same

FOLDER = Path(__file__).parent.parent / "configs"
EXPERIMENT_TYPES = {
    path: CLASSIFIER if path.parent.name == "classification" else GAN for path in sorted(FOLDER.rglob("*.yaml"))
}
# Like another config, with images of another size, fewer steps, or with one other part
COPIES = (
    *("folder/64", "folder/64_ada", "folder/128", "cifar10/fast", "cifar10/study", "stl10/study", "stl10/labeled"),
    *("stl10/sngan_resnet_conv_norm", "stl10/sngan_resnet_mimicry", "stl10/wgan_gp_resnet"),
    *("cifar100/sngan_resnet_conditional", "cifar10/sngan_resnet_conditional", "cifar10/sngan_resnet_conv_norm"),
    *(
        "cifar10/sngan_resnet_mimicry",
        "cifar10/wgan_gp_resnet",
        "cifar10/sndcgan_conv_norm",
        "cifar10/biggan",
        "cifar10/biggan_studiogan",
    ),
    *("stacked_digits/dcgan_conv_norm", "classification/imagenet_resnet50"),
    "classification/cifar10_resnet18_conv_norm",
    *("classification/cifar10_resnet18_free", "classification/cifar10_resnet18_free_conv_norm"),
    *("classification/cifar100_resnet18", "classification/stl10_48"),
    *("classification/cifar10_resnet18", "classification/digits_study"),
    *("stl10/sndcgan", "stacked_digits/study_resnet", "stacked_digits/study", "cifar10/study_gpu"),
    "cifar10/study_resnet",
)
NUM_IMAGES = 20  # in each split, and generated for each metric
SHARED = [
    *("train.steps=2", "train.batch_size=4", "log.every=1", "eval.every=2", "checkpoint.every=1", "checkpoint.keep=2"),
    *("lipschitz.every=2", "lipschitz.audit_every=2", "lipschitz.iterations=1"),
    "log.to=[]",  # TensorBoard does not depend on the config
]
GAN_ONLY = [
    *("train.generator_batch_size=4", "train.compile=false", "generator.z_dim=4"),
    "eval.standing_statistics=20",
]
CLASSIFIER_ONLY = [
    "classifier.width=2",
    "validation=0.3",
    "eval.attack.iterations=1",
    "eval.corruptions=[gaussian_blur]",
]


def get_name(path):
    return path.relative_to(FOLDER).with_suffix("").as_posix()


def parametrize_configs(experiment_type):
    paths = [
        pytest.param(path, marks=pytest.mark.slow) if get_name(path) in COPIES else path
        for path, found in EXPERIMENT_TYPES.items()
        if found is experiment_type
    ]
    return pytest.mark.parametrize("path", paths, ids=get_name)


class TinyExtractor:
    """Stands in for Inception, whose weights are a download: coarse pixels as features and as logits."""

    fingerprint = "tiny"

    def __call__(self, images: torch.Tensor) -> Features:
        pixels = torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)
        return Features(pixels, pixels[:, :10] / 255)


@pytest.fixture(autouse=True)
def cheap_measurements(monkeypatch):
    """Make audits short and sample grids small, and extract features without training or a download."""
    monkeypatch.setattr("gan.training.loop.NUM_SAMPLES", 4)
    monkeypatch.setattr("gan.evaluation.lipschitz.singular_values", partial(singular_values, largest=2**12))
    monkeypatch.setattr("gan.evaluation.lipschitz.steepest_slope", partial(steepest_slope, steps=1))
    digits = DigitsExtractor(DigitsClassifier().eval().requires_grad_(False))
    monkeypatch.setattr(EXTRACTORS.get("digits"), "build", lambda *arguments: digits)
    monkeypatch.setattr(EXTRACTORS.get("inception"), "missing", lambda *arguments: [])
    monkeypatch.setattr(EXTRACTORS.get("inception"), "build", lambda *arguments: TinyExtractor())


@pytest.fixture
def replace_data(monkeypatch):
    """Return a function that replaces the images of a dataset class by random ones, of its resolution or of `side`."""

    def load(dataset, side: int | None) -> Splits:
        side = side or getattr(dataset, "resolution", 32)
        random = torch.Generator().manual_seed(0)
        shape = (NUM_IMAGES, 3, side, side)
        splits = (torch.randint(256, shape, generator=random, dtype=torch.uint8) for _ in range(2))
        labels = torch.arange(NUM_IMAGES) % 5
        return Splits(*(ImageData(images, labels, getattr(dataset, "num_classes", 10)) for images in splits))

    def replace(cls, side: int | None = None):
        monkeypatch.setattr(cls, "missing", lambda dataset: [])
        monkeypatch.setattr(cls, "load", lambda dataset: load(dataset, side))

    return replace


def write_images(folder: Path, data: FolderConfig) -> Path:
    """Write random images of several sizes, as a user's folder may have them, and return the folder.

    For a class-conditional GAN, it has two splits of ten classes.
    """
    random = torch.Generator().manual_seed(0)
    for split in ("train", "test") if data.conditional else (".",):
        for number in range(NUM_IMAGES):
            shape = (data.resolution + 4 * number, data.resolution + 30, 3)
            pixels = torch.randint(256, shape, generator=random, dtype=torch.uint8)
            parent = folder / split / (f"class{number % 10}" if data.conditional else ".")
            parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(parent / f"{number}.png", compress_level=1)
    return folder


@pytest.fixture
def check_resume(monkeypatch):
    """Return a function that repeats the second step from the checkpoint of the first one, which must be the same.

    The repetition ends before the evaluation, and has no audit. `tests/gan/training/test_loop.py` tests that a resumed
    run measures the same.
    """

    def stop(*arguments):
        raise Killed

    def check(main, run: Path):
        newest = run / "checkpoints" / "step_00000002.pt"
        losses, state = read_losses(run), read_state(newest)
        newest.unlink()
        for loop in ("gan.training.loop", "classification.loop"):
            monkeypatch.setattr(f"{loop}.measure_due", lambda *arguments: ({}, {}))
            monkeypatch.setattr(f"{loop}.evaluate", stop)
        with pytest.raises(Killed):
            main(["--out", str(run), "--resume", "--device", "cpu"])
        assert read_losses(run) == losses
        repeated = read_state(newest)
        del state["lipschitz"], repeated["lipschitz"]  # the last measurement, which is not repeated
        assert same(repeated, state)

    return check


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the state in a checkpoint of a test, with an unpickler that is faster than the safe one."""
    return torch.load(checkpoint, weights_only=False)


def read_tags(run: Path) -> set[tuple[int, str]]:
    """Return the step and tag of each logged number."""
    return {(line["step"], tag) for line in read_metrics(run) for tag in line}


def read_losses(run: Path) -> list[dict[str, float]]:
    """Return the losses and the norms of the gradients by tag, for each step."""
    return [{t: v for t, v in line.items() if t.startswith(("loss/", "gradient_norm/"))} for line in read_metrics(run)]


@parametrize_configs(GAN)
def test_gan_config(path, tmp_path, replace_data, check_resume):
    config = load_config(GAN.schema, path)
    metrics = [str(parse_protocol(name).with_count(NUM_IMAGES)) for name in config.eval.metrics]
    small = [*SHARED, *GAN_ONLY, f"eval.metrics=[{', '.join(metrics)}]"]
    for name in ("generator", "discriminator"):
        is_r3gan = hasattr(getattr(config, name), "group_size")
        small += [f"{name}.width=8", f"{name}.blocks=1"] if is_r3gan else [f"{name}.width=2"]
    if config.data.stacked:
        small += ["data.size=50", "data.held_out_size=20"]
    if isinstance(config.data, FolderConfig):
        small.append(f"data.root={write_images(tmp_path / 'images', config.data)}")
    elif not config.data.shows_digits:
        replace_data(type(config.data))
    run = tmp_path / "run"
    assert train_gan.main(["--config", str(path), "--out", str(run), "--device", "cpu", *small]) == 0
    tags = read_tags(run)
    assert {(1, "loss/D"), (2, "loss/D"), (2, "lipschitz/D/slope"), (2, "lipschitz/G/jacobian_max")} <= tags
    assert {(2, f"metrics/{name}") for name in metrics} <= tags

    grid = tmp_path / "grid.png"
    assert sample.main([str(run), "-n", "2", "--out", str(grid), "--device", "cpu"]) == 0
    assert grid.exists()
    check_resume(train_gan.main, run)


@parametrize_configs(CLASSIFIER)
def test_classifier_config(path, tmp_path, replace_data, check_resume):
    config = load_config(CLASSIFIER.schema, path)
    # A classifier accepts images of any size. The stem for ImageNet divides it by 4.
    replace_data(type(config.data), side=32 if config.classifier.stem == "imagenet" else 16)
    run = tmp_path / "run"
    small = [*SHARED, *CLASSIFIER_ONLY]
    assert train_classifier.main(["--config", str(path), "--out", str(run), "--device", "cpu", *small]) == 0
    tags = ("loss/train", "lipschitz/classifier/slope", "metrics/accuracy_validation", "metrics/accuracy_test")
    assert {(2, tag) for tag in tags} <= read_tags(run)
    check_resume(train_classifier.main, run)
