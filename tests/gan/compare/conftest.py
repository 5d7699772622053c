import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gan.compare.__main__ import main

ROOT = Path(__file__).parents[3]
SMALL = """\
data: {name: digits, resolution: 16}
generator: {width: 4, z_dim: 8}
discriminator: {width: 4}
train: {steps: 30, batch_size: 8}
log: {every: 5}
eval: {every: 10, metrics: [fd_digits70_test, modes70, kl70, confident70, is_digits70]}
lipschitz: {every: 10, audit_every: 10, iterations: 3}
checkpoint: {every: 5, keep: 1}
"""
GRID = ("--vary", "discriminator.normalization=none,conv_norm", "--seeds", "0,1", "--jobs", "2", "--device", "cpu")


@pytest.fixture(scope="session")
def small_config(tmp_path_factory) -> Path:
    """A config file whose training takes a second."""
    path = tmp_path_factory.mktemp("small") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def killed_grid(small_config, classifier, tmp_path_factory) -> Path:
    """A comparison of two normalizations with two seeds, killed with SIGKILL after its first checkpoint."""
    out = tmp_path_factory.mktemp("grid") / "out"
    command = [sys.executable, "-m", "gan.compare", str(small_config), *GRID, "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(out.glob("cells/*/checkpoints/step_*.pt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(1)  # the cells end with the comparison, which a test checks
    shutil.copytree(out, out.with_name("killed"))
    return out


@pytest.fixture(scope="session")
def grid(killed_grid, small_config) -> Path:
    """The same comparison, resumed and finished. Tests must not change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("signal.signal", lambda *arguments: None)
        assert main([str(small_config), *GRID, "--out", str(killed_grid)]) == 0
    return killed_grid
