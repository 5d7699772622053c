import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from gan.run.lock import hold_lock

SMALL = """\
data: {name: digits, resolution: 16}
generator: {width: 4, z_dim: 8}
discriminator: {width: 4}
train: {steps: 15, batch_size: 8}
log: {every: 5}
eval: {every: 5, metrics: [fd_digits70_test, modes70], standing_statistics: 20}
lipschitz: {every: 5, audit_every: 15, iterations: 3}
checkpoint: {every: 3, keep: 1}
"""
TIMEOUT_S = 800  # for another worker; less than `faulthandler_timeout` of pyproject.toml
GRID = ("--vary", "discriminator.normalization=none,conv_norm", "--seeds", "0,1", "--jobs", "2", "--device", "cpu")


@pytest.fixture(scope="session")
def small_config(shared_folder) -> Path:
    """A config file whose training takes a second."""
    path = shared_folder / "small.yaml"
    with FileLock(path.with_suffix(".lock"), TIMEOUT_S):
        if not path.exists():
            path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def grids(small_config, python, shared_folder) -> Path:
    """The folder of two comparisons of two normalizations with two seeds.

    "killed" was killed with SIGKILL after its first checkpoint. "out" was resumed from it and finished. All workers
    share this folder, and tests must not change it.
    """
    folder = shared_folder / "grids"
    out, killed = folder / "out", folder / "killed"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock", TIMEOUT_S):
        if not (out / "report.html").exists():
            command = [Path(__file__).with_name("comparison.py"), small_config, *GRID, "--out", out]
            process = python.start(*command)
            process.wait_for(lambda: any(out.glob("cells/*/checkpoints/step_*.pt")))
            process.kill()
            for log in out.glob("logs/*.log"):
                with hold_lock(log.with_suffix(".lock"), 60):
                    pass  # the cell has ended, too
            shutil.copytree(out, killed)
            done = python.run(*command)
            assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture(scope="session")
def killed_grid(grids) -> Path:
    """A comparison that was killed with SIGKILL after its first checkpoint. Tests must not change it."""
    return grids / "killed"


@pytest.fixture(scope="session")
def grid(grids) -> Path:
    """The same comparison, resumed and finished. Tests must not change it."""
    return grids / "out"
