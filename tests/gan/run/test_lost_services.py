"""Runs without network, TensorBoard or cache: each trains to its last step and prints at most one warning."""

import os
import shutil
import subprocess

import pytest

from gan.run.logging import read_metrics

# Trains a config in a process without network, in which TensorBoard may fail in step 2.
PROGRAM = """\
import shutil, socket, sys
from pathlib import Path
def refuse(*args, **options): raise OSError(101, "Network is unreachable")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from tensorboard.summary.writer.record_writer import RecordWriter
from functools import partial
import gan.evaluation.lipschitz, gan.training.step, train_gan
gan.evaluation.lipschitz.steepest_slope = partial(gan.evaluation.lipschitz.steepest_slope, steps=1)
mode, *arguments = sys.argv[1:]
folder = Path(arguments[arguments.index("--out") + 1])
update_generator = gan.training.step.update_generator
def fail_and_update(experiment, *networks):
    if experiment.step == 2 and mode == "writer":
        RecordWriter.write = refuse
    if experiment.step == 2 and mode == "folder":
        for path in folder.glob("events*"): path.unlink()
        shutil.rmtree(folder / "samples")
    return update_generator(experiment, *networks)
gan.training.step.update_generator = fail_and_update
sys.exit(train_gan.main(arguments))
"""


@pytest.fixture
def train(python, tiny_config, tmp_path):
    """Return a function that trains the tiny config in a process of its own and returns the lines of stderr.

    The process has only the given environment variables.
    """

    def train_tiny(environment: dict[str, str], mode: str = "", *overrides: str) -> list[str]:
        out = tmp_path / "run"
        arguments = [mode, "--config", tiny_config, "--out", out, "--device", "cpu", *overrides]
        done = python.run("-c", PROGRAM, *arguments, env={"PATH": os.environ["PATH"]} | environment)
        assert done.returncode == 0, done.stderr
        assert [line["step"] for line in read_metrics(out)] == [1, 2, 3, 4]
        assert (out / "generator.safetensors").exists()
        return done.stderr.splitlines()

    return train_tiny


@pytest.fixture
def filled_cache(cache) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(cache)}


def test_run_without_network(train, filled_cache):
    assert train(filled_cache) == []


def test_metric_that_needs_network_is_left_out(train, tmp_path, filled_cache):
    keys = ["eval.metrics=[fid10_train, modes70]", "metrics.download=true"]
    lines = train(filled_cache | {"TORCH_HOME": str(tmp_path / "hub")}, "", *keys)
    (line,) = lines
    assert line.startswith("warning: cannot download the Inception weights")
    assert all("metrics/modes70" in line for line in read_metrics(tmp_path / "run")[1::2])


@pytest.mark.parametrize("mode", ["writer", "folder"])
def test_run_continues_when_tensorboard_fails(train, tmp_path, filled_cache, mode):
    lines = train(filled_cache, mode)
    message = "warning: cannot log to tensorboard (Network is unreachable); continuing without it"
    assert lines == ([message] if mode == "writer" else [])
    assert (tmp_path / "run" / "samples" / "step_00000004.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["file in the way", "read-only", "no home"])
def test_unwritable_cache_is_reported_once(train, tmp_path, case):
    if case == "file in the way":
        (tmp_path / "cache").touch()
        environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    elif case == "read-only":
        environment = {"XDG_CACHE_HOME": str(tmp_path / "disk")}
        (tmp_path / "disk").mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path / "disk")]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("cannot mount a file system")
    else:
        environment = {"HOME": "", "USER": "nobody"}
        if os.getuid() == 0:
            environment |= {"HOME": "/dev/null"}  # without HOME, the home folder of root is read from the password file
    try:
        lines = train(environment)
    finally:
        if case == "read-only":
            subprocess.run(["umount", str(tmp_path / "disk")], check=True)
    (line,) = lines
    assert line.startswith("warning: the cache")
    assert line.endswith("; continuing without it")
