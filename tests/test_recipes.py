"""The shipped recipes against the published code that they follow. Parameter counts are those of that code."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from classification.config import Config as ClassifierConfig
from gan.config import AdamConfig, Config, OptimizerConfig
from gan.objectives.ada import AdaConfig
from gan.objectives.losses import LOSSES
from gan.options.loader import load_config
from gan.options.schedules import Schedule
from models import ImageShape, build_classifier
from models.activation_norms.batch import BatchNormConfig
from models.activation_norms.none import NoActivationNorm
from models.normalizations import NORMALIZATIONS
from models.normalizations.conv_norm import ConvNorm
from models.normalizations.none import NoNormalization

ROOT = Path(__file__).parent.parent
CONFIGS = {p.relative_to(ROOT / "configs").with_suffix("").as_posix(): p for p in (ROOT / "configs").rglob("*.yaml")}
PUBLISHED = re.compile(r"IS (\d+\.\d+), FID (\d+\.\d+)")


CIFAR = ImageShape(3, 32)


@dataclass(frozen=True)
class Recipe:
    """What the code of a recipe's source says. The defaults are common to both sources."""

    parameters: tuple[int, int]  # of G and D
    image: ImageShape = CIFAR
    z_dim: int = 128
    loss: str = "hinge"
    penalty: float | None = None
    normalization: str = "spectral"
    generator_normalization: str = "none"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.0, 0.9)
    schedule: str = "linear"
    steps: int = 100_000
    batches: tuple[int, int] = (64, 64)  # of D and G
    n_critic: int = 5
    flip: bool = False
    noise: bool = False
    average: float = 0  # half-life in thousands of images
    preprocessing: str = "torch_fidelity"
    has_figures: bool = True


def collections(**changes) -> Recipe:
    """Return a recipe of pytorch-gan-collections, which measures FID as pytorch-fid does."""
    return Recipe(preprocessing="pytorch_fid", **changes)


def half_life(decay: float, batch_size: int) -> float:
    """Return the half-life in thousands of images of an average that keeps `decay` of itself in each update."""
    return pytest.approx(math.log(0.5) / math.log(decay) * batch_size / 1000, rel=1e-5)


# The networks of w86763777/pytorch-gan-collections (860e90b) and of kwotsin/mimicry (a7fda06) were run for the counts.
# Those of ajbrock/BigGAN-PyTorch (9845943) and POSTECH-CVLab/PyTorch-StudioGAN (947b35e) were run for biggan.
# With the same weights, ours had the same outputs and gradients in double precision (errors below 1e-14).
RECIPES = {
    "cifar10/dcgan": collections(
        parameters=(11_429_632, 4_309_441),
        z_dim=100,
        loss="nonsaturating",
        normalization="none",
        betas=(0.5, 0.9),
        batches=(128, 256),
        n_critic=1,
        flip=True,
    ),
    "cifar10/sndcgan": collections(
        parameters=(3_584_003, 5_860_865), z_dim=100, batches=(128, 256), n_critic=1, noise=True
    ),
    "cifar10/sngan_resnet": collections(parameters=(4_276_739, 1_053_824), batches=(64, 128), noise=True),
    "cifar10/wgan_gp_resnet": collections(
        parameters=(4_276_739, 1_053_825),
        loss="wasserstein",
        penalty=10.0,
        normalization="none",
        batches=(64, 128),
        flip=True,
    ),
    "cifar10/sngan_resnet_mimicry": Recipe(parameters=(4_276_739, 1_053_825)),
    "cifar10/sngan_resnet_conditional": Recipe(parameters=(4_304_387, 1_055_105), image=ImageShape(3, 32, 10)),
    "cifar100/sngan_resnet_conditional": Recipe(parameters=(4_580_867, 1_066_625), image=ImageShape(3, 32, 100)),
    "stl10/sngan_resnet_mimicry": Recipe(parameters=(4_878_083, 10_141_441), image=ImageShape(3, 48)),
    "stl10/wgan_gp_resnet": Recipe(
        parameters=(4_878_083, 10_141_441),
        image=ImageShape(3, 48),
        loss="wasserstein",
        penalty=10.0,
        normalization="none",
    ),
    "cifar10/biggan": Recipe(
        parameters=(4_304_387, 4_207_361),
        image=ImageShape(3, 32, 10),
        generator_normalization="spectral",
        betas=(0.0, 0.999),
        schedule="constant",
        steps=500 * 50_000 // (4 * 50),
        batches=(50, 50),
        n_critic=4,
        average=half_life(0.9999, 50),
        has_figures=False,
    ),
    "cifar10/biggan_studiogan": Recipe(
        parameters=(9_416_196, 2_415_170),
        image=ImageShape(3, 32, 10),
        z_dim=80,
        generator_normalization="spectral",
        betas=(0.5, 0.999),
        schedule="constant",
        flip=True,
        average=half_life(0.9999, 64),
    ),
}


def read(name: str) -> Config:
    return load_config(Config, ROOT / "configs" / f"{name}.yaml")


def count_parameters(config, image: ImageShape) -> int:
    with torch.device("meta"):  # without initial weights
        return sum(parameter.numel() for parameter in config.build(image).parameters())


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipe_is_that_of_its_source(name):
    config, image = read(name), RECIPES[name].image
    optimizer, train = config.optimizer, config.train
    assert optimizer.generator == optimizer.discriminator
    assert optimizer.generator.eps == 1e-8
    assert (train.first, train.augment) == ("discriminator", ())
    assert train.precision == "fp32"
    assert config.data.subset == 1
    assert config.data.conditional == (image.num_classes is not None)
    penalties = config.regularizers
    assert penalties.keys() <= {"gradient_penalty"}
    assert all(penalty.every == 1 for penalty in penalties.values())
    assert (
        Recipe(
            parameters=(count_parameters(config.generator, image), count_parameters(config.discriminator, image)),
            image=image,
            z_dim=config.generator.z_dim,
            loss=LOSSES.get_name(type(config.loss)),
            penalty=penalties["gradient_penalty"].weight if penalties else None,
            normalization=NORMALIZATIONS.get_name(type(config.discriminator.normalization)),
            generator_normalization=NORMALIZATIONS.get_name(type(config.generator.normalization)),
            lr=optimizer.generator.lr,
            betas=optimizer.generator.betas,
            schedule=optimizer.schedule,
            steps=train.steps,
            batches=(train.batch_size, train.fakes_per_update),
            n_critic=train.n_critic,
            flip=config.data.horizontal_flip,
            noise=config.data.dequantize,
            average=train.ema_halflife_kimg,
            preprocessing=config.metrics.fid_preprocessing,
            has_figures=RECIPES[name].has_figures,
        )
        == RECIPES[name]
    )


def test_networks_of_mimicry_have_its_details():
    for name in ("cifar10/sngan_resnet_mimicry", "cifar10/sngan_resnet_conditional", "stl10/sngan_resnet_mimicry"):
        config = read(name)
        assert config.discriminator.rectified_shortcuts
        assert (config.generator.upsample, config.discriminator.pooling) == ("bilinear", "sum")
        assert config.generator.pytorch_init == config.discriminator.pytorch_init == ("biases",)
        assert config.generator.activation_norm.class_gain_std == (0.02 if config.data.conditional else 0)
    config = read("stl10/wgan_gp_resnet")
    assert (config.discriminator.rectified_shortcuts, config.discriminator.pooling) == (True, "mean")
    assert config.generator.pytorch_init == ("biases", "shortcuts", "to_image")
    assert config.discriminator.pytorch_init == ("biases", "shortcuts")


def test_biggan_has_the_details_of_its_sources():
    script, studiogan = read("cifar10/biggan"), read("cifar10/biggan_studiogan")
    assert script.data.label_frequencies == studiogan.data.label_frequencies == "uniform"
    for network in (script.generator, script.discriminator):
        assert (network.width, network.attention, network.init) == (64, None, "normal")
    assert not script.generator.hierarchical
    assert not script.discriminator.rectified_shortcuts
    for network, width in ((studiogan.generator, 96), (studiogan.discriminator, 48)):
        assert (network.width, network.attention, network.init) == (width, 16, "orthogonal")
    assert (studiogan.generator.hierarchical, studiogan.generator.embedding_dim) == (True, 128)
    assert studiogan.generator.activation_norm.eps == 1e-4
    assert studiogan.generator.normalization.exclude == ("embedding",)
    assert studiogan.discriminator.rectified_shortcuts


def test_recipes_with_figures_are_those_that_the_documentation_lists():
    """A figure is only quoted for a recipe that is compared with its source above, and everywhere in the same way."""
    quoted = {name: PUBLISHED.findall(path.read_text(encoding="utf-8")) for name, path in CONFIGS.items()}
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+/\w+)` \|.*\| (\d+\.\d+) / (\d+\.\d+) \|$", page, re.MULTILINE)
    listed = {name: [(inception_score, fid)] for name, inception_score, fid in rows}
    assert listed == {name: figures for name, figures in quoted.items() if figures}
    assert listed.keys() == {name for name, recipe in RECIPES.items() if recipe.has_figures}


# shengliu66/ConvNorm at aad1043: config_cifar10_standard.json, config_cifar100_standard.json, config_robust_train.json.
# Epochs, epochs after which the learning rate falls, updates per batch, classes, parameters of models/resnet.py.
CLASSIFIERS = {
    "cifar10_resnet18": (120, (40, 80), 1, 10, 11_173_962),
    "cifar10_resnet18_conv_norm": (120, (40, 80), 1, 10, 11_214_794),
    "cifar10_resnet18_free": (30, (10, 20), 4, 10, 11_173_962),
    "cifar10_resnet18_free_conv_norm": (30, (10, 20), 4, 10, 11_214_794),
    "cifar100_resnet18": (150, (60, 120), 1, 100, 11_220_132),
}


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_recipe_of_the_conv_norm_authors(name):
    epochs, milestones, updates, num_classes, parameters = CLASSIFIERS[name]
    config = load_config(ClassifierConfig, ROOT / "configs" / "classification" / f"{name}.yaml")
    steps_per_epoch = 391 * updates  # 50,000 images in batches of 128
    assert (config.validation, config.data.subset, config.labels.noise) == (0, 1, 0)
    assert config.data.horizontal_flip
    assert (config.train.batch_size, config.train.augment) == (128, ("translation",))
    assert config.train.steps == epochs * steps_per_epoch
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.1, 0.9, 1e-4)
    assert (optimizer.schedule, optimizer.gamma) == ("step", 0.1)
    assert optimizer.milestones == tuple(epoch * steps_per_epoch for epoch in milestones)
    free = config.train.free
    assert (free.replays, free.eps, free.step, free.reset) == ((4, 8, 8, True) if updates == 4 else (0, 8, 8, False))
    attack = config.eval.attack
    assert (attack.eps, attack.step, attack.iterations, attack.restarts) == (8, 2, 20, 1)
    std = (0.2675, 0.2565, 0.2761) if num_classes == 100 else (0.2023, 0.1994, 0.2010)
    mean = (0.5071, 0.4867, 0.4408) if num_classes == 100 else (0.4914, 0.4822, 0.4465)
    assert (config.standardize.mean, config.standardize.std) == (mean, std)
    assert config.classifier.init == "pytorch"
    if name.endswith("conv_norm"):
        assert config.classifier.normalization == ConvNorm(variant="authors")  # which has its own batch norm
        assert config.classifier.activation_norm == NoActivationNorm()
    else:
        assert config.classifier.normalization == NoNormalization()
        assert config.classifier.activation_norm == BatchNormConfig()

    with torch.device("meta"):  # without initial weights
        network = build_classifier(config.classifier, ImageShape(3, 32, num_classes))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_r3gan_is_that_of_the_authors():
    # The preset CIFAR10 and `augment_kwargs` of train.py, the command of README.md, and training_loop.py of
    # brownvc/R3GAN at 19a7ddf. tests/gan/options/test_schedules.py compares the schedules.
    config = read("cifar10/r3gan")

    def schedule(start, end):  # `total_nimg` is 2e7
        return Schedule(start=start, end=end, schedule="cosine", kimg=20_000.0)

    adam = AdamConfig(lr=schedule(2e-4, 5e-5), betas=(0.0, schedule(0.9, 0.99)), eps=1e-8)
    assert config.optimizer == OptimizerConfig(generator=adam, discriminator=adam, schedule="constant")
    assert {name: (r.weight, r.every) for name, r in config.regularizers.items()} == {
        name: (schedule(0.05, 0.005), 1) for name in ("r1", "r2")
    }
    train = config.train
    assert train.ema_halflife_kimg == schedule(0, 5000)
    assert train.ada == AdaConfig(p=schedule(0, 0.55), target=None, color=0.5, cutout=1.0)
    assert (train.augment, train.precision) == (("ada",), "bf16")
    assert (train.batch_size, train.fakes_per_update, train.n_critic, train.first) == (512, 512, 1, "discriminator")
    assert train.steps * train.batch_size == pytest.approx(250e6, abs=512)
    assert (config.data.horizontal_flip, config.data.conditional, config.data.dequantize) == (True, True, False)
    assert (config.generator.z_dim, LOSSES.get_name(type(config.loss))) == (64, "relativistic")
    for network in (config.generator, config.discriminator):  # `WidthPerStage`, `BlocksPerStage`, `CardinalityPerStage`
        assert (network.width, network.blocks, network.group_size) == (3 * 1024 // 4, 2, 2 * 768 // (3 * 32))
