import pytest
import torch

from gan.config import Config
from gan.options.loader import load_config
from gan.training.build import build_experiment


@pytest.fixture
def build(tiny_config):
    """Return a function that builds the experiment of the tiny config, with config keys changed by overrides."""

    def build_tiny(*overrides):
        config = load_config(Config, tiny_config, overrides)
        return build_experiment(config, config.data.load(), torch.device("cpu"))

    return build_tiny
