"""Classifiers in files, trained for a second or not at all."""

from dataclasses import replace
from pathlib import Path

import torch

from classification.build import build_experiment
from classification.config import Config, SGDConfig, TrainConfig
from classification.step import draw_batch, training_step
from gan.data.datasets.digits import Digits
from gan.options.loader import dump_config
from gan.runtime.weights import export_network
from models import ImageShape, build_classifier
from models.networks.classifiers import ResNet10Config
from models.networks.layers import standardize_images

CONFIG = Config(
    data=Digits(resolution=8),
    classifier=ResNet10Config(width=4),
    optimizer=SGDConfig(lr=0.2),
    train=TrainConfig(steps=80, batch_size=64, augment=("translation",)),
)
IMAGE = ImageShape(1, 8, 10)


def save_untrained(path: Path, seed: int = 0, image: ImageShape = IMAGE) -> Path:
    """Write a classifier with random weights and return the path."""
    torch.manual_seed(seed)
    config = replace(CONFIG, classifier=ResNet10Config(width=1))
    network = standardize_images(build_classifier(config.classifier, image), *torch.ones(2, image.channels))
    export_network(path, network, dump_config(config), image=image)
    return path


def save_trained(path: Path) -> Path:
    """Write a classifier of digits of 8 x 8 pixels, which classifies most of them correctly, and return the path."""
    experiment = build_experiment(CONFIG, CONFIG.data.load(), torch.device("cpu"))
    for _ in range(CONFIG.train.steps):
        training_step(experiment, *draw_batch(experiment))
    export_network(path, experiment.network, dump_config(CONFIG), image=IMAGE)
    return path
