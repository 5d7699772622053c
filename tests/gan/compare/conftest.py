import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gan.compare.__main__ import main

SMALL = """\
data: {name: digits, resolution: 16}
generator: {width: 4, z_dim: 8}
discriminator: {width: 4}
train: {steps: 30, batch_size: 8}
log: {every: 5}
eval: {every: 10, num_samples: 50}
lipschitz: {every: 10, audit_every: 10, iterations: 3}
checkpoint: {every: 5, keep: 1}
"""
GRID = ("--vary", "discriminator.normalization=none,conv_norm", "--seeds", "0,1", "--jobs", "2", "--device", "cpu")


@pytest.fixture(scope="session")
def small_config(tmp_path_factory) -> Path:
    """A YAML file whose run takes a second."""
    path = tmp_path_factory.mktemp("small") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def command() -> Callable[..., list[str]]:
    """The command line of a comparison."""
    return lambda *arguments: [sys.executable, "-m", "gan.compare", *map(str, arguments)]


@pytest.fixture(scope="session")
def grid(small_config, classifier, tmp_path_factory) -> Path:
    """A finished comparison of two normalizers with two seeds; tests read it, or copy it."""
    out = tmp_path_factory.mktemp("grid") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("signal.signal", lambda *arguments: None)
        assert main([str(small_config), *GRID, "--out", str(out)]) == 0
    return out
