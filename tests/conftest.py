"""Fixtures of all tests.

The main process of pytest-xdist loads this file before it starts its workers, so that an import at its top would be
waited for twice. PyTorch and the toolkit are imported by the fixtures that use them.
"""

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from metrics.extractors.digits import DigitsClassifier

TINY = """\
data: {name: digits, resolution: 16}
generator: {width: 4, z_dim: 8}
discriminator: {width: 4, normalization: spectral}
regularizers: {r1: {weight: 0.1, every: 3}}
train: {steps: 4, batch_size: 8, n_critic: 2}
log: {every: 1}
eval: {every: 2, metrics: [fd_digits70_test, modes70, kl70, confident70, is_digits70], standing_statistics: 20}
lipschitz: {every: 2, audit_every: 4, iterations: 3}
checkpoint: {every: 2, keep: 1}
"""


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Search no cyclic garbage while modules are imported, and later rarely and not in what they have left."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000)
        gc.enable()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """Return a temporary folder that all workers of pytest-xdist share."""
    root = tmp_path_factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


@pytest.fixture(scope="session", autouse=True)
def cache(shared_folder):
    """Use a temporary folder as the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared_folder / "cache"))
        yield shared_folder / "cache"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Use one thread: tiny tensors gain nothing from threads, and they slow down parallel workers."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Do not wait until files are on the disk: no test cuts the power, and the suite writes thousands of files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def small_sample_grids():
    """Draw 16 images per sample grid instead of 64, as `tests.forked` does: a tiny run mostly draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gan.training.loop.NUM_SAMPLES", 16)
        yield


@pytest.fixture(autouse=True)
def same_signal_handlers():
    """Restore the signal handlers of the test process, which a comparison replaces."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def classifier() -> "DigitsClassifier":
    """Return the digits classifier of the metrics."""
    from metrics.extractors.digits import load_digits_classifier

    return load_digits_classifier()


@pytest.fixture(scope="session")
def python(cache, tmp_path_factory):
    """Return a server that starts Python processes in which the toolkit has already been imported."""
    from tests.processes import PythonServer

    server = PythonServer(tmp_path_factory.mktemp("processes"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def inception_state_dict() -> "dict[str, Tensor]":
    """Return random weights with the published names and shapes, scaled so that activations keep their variance."""
    import torch
    import torchvision

    with torch.device("meta"):
        shapes = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    random = torch.Generator().manual_seed(0)

    def draw(name: str, shape: torch.Size) -> torch.Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(1)
        if name.endswith("conv.weight"):
            weight = torch.randn(shape, generator=random) * (2.2 / shape[1:].numel()) ** 0.5
            if name.startswith("Conv2d_1a"):
                return weight
            # Otherwise the mean of the activations would turn off half of the units.
            return weight - weight.mean(dim=(1, 2, 3), keepdim=True)
        if name == "fc.weight":
            return torch.randn(shape, generator=random) * 0.5
        if name.endswith(("running_var", "bn.weight")):
            return torch.empty(shape).uniform_(0.8, 1.2, generator=random)
        return torch.randn(shape, generator=random) * 0.1

    return {name: draw(name, tensor.shape) for name, tensor in shapes.items()}


@pytest.fixture(scope="session")
def inception_file(inception_state_dict, tmp_path_factory) -> Path:
    """Return a file of these weights in the published format, which torch-fidelity and pytorch-fid load."""
    import torch

    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(inception_state_dict, path)
    return path


@pytest.fixture
def event_files_in_order(monkeypatch):
    """Number the event files of this process from 0, so that their names sort in the order of their creation."""
    from tensorboard.summary.writer.event_file_writer import AtomicCounter

    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer._global_uid", AtomicCounter(0))


@contextmanager
def search_in_one_step() -> Iterator[None]:
    from metrics.lipschitz import steepest_slope

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gan.evaluation.lipschitz.steepest_slope", partial(steepest_slope, steps=1))
        yield


@pytest.fixture(scope="module")
def short_slope_search():
    """Let audits search for the steepest slope in one step instead of 20, which take most of the time of an audit."""
    with search_in_one_step():
        yield


@pytest.fixture
def tiny_config(tmp_path) -> Path:
    """Return a YAML file whose run takes a fraction of a second."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """Return a function that trains the tiny config into a folder, with further arguments, and returns the folder."""
    from train_gan import main

    config = tmp_path_factory.mktemp("config") / "tiny.yaml"
    config.write_text(TINY)

    def run(out: Path, *arguments: str) -> Path:
        assert main(["--config", str(config), "--out", str(out), "--device", "cpu", *arguments]) == 0
        return out

    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, tiny_run) -> Path:
    """Return the folder of a finished run of the tiny config, with `short_slope_search`. Tests must not change it."""
    with search_in_one_step():
        return tiny_run(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def copied_run(tmp_path, finished_run) -> Path:
    """Return a copy of the finished run in `tmp_path`, which a test may change."""
    return shutil.copytree(finished_run, tmp_path / "run")
