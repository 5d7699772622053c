from dataclasses import replace

import pytest
import torch

from classification.build import build_experiment
from classification.config import Config, EvalConfig, TrainConfig
from classification.experiment import Experiment
from gan.data.datasets.digits import Digits
from models.networks.classifiers import ResNet10Config

TINY = Config(
    data=Digits(resolution=8),
    classifier=ResNet10Config(width=4),
    train=TrainConfig(steps=6, batch_size=16),
    eval=EvalConfig(every=2, batch_size=100),
)


@pytest.fixture(scope="session")
def splits():
    return Digits(resolution=8).load()


@pytest.fixture
def build(splits):
    """Return a function that builds the experiment of the tiny config, with some fields changed."""

    def build_tiny(**changes) -> Experiment:
        return build_experiment(replace(TINY, **changes), splits, torch.device("cpu"))

    return build_tiny
