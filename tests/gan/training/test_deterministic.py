import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan.runtime.rng import set_deterministic
from tests.gan.runs import assert_same_runs

pytestmark = pytest.mark.usefixtures("short_slope_search")
ROOT = Path(__file__).parents[3]
ALL_RANDOM_OPTIONS = [
    "train.deterministic=true",
    "train.augment=[color, translation, cutout]",
    "data={horizontal_flip: true, dequantize: true}",
    "regularizers={r1: {}, gradient_penalty: {every: 2}, dragan: {}, srip: {}}",
]


@pytest.fixture(autouse=True)
def restore_default():
    yield
    set_deterministic(False)


def is_deterministic() -> bool:
    return torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic


def test_config_selects_deterministic_algorithms(tmp_path, tiny_run):
    for flag in (True, False):
        tiny_run(tmp_path / str(flag), "train.steps=1", "eval.metrics=[]", f"train.deterministic={str(flag).lower()}")
        assert is_deterministic() == flag


def test_deterministic_runs_are_bit_equal(tmp_path, tiny_run):
    assert_same_runs(*(tiny_run(tmp_path / name, "train.steps=2", *ALL_RANDOM_OPTIONS) for name in ("a", "b")))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_deterministic_runs_of_two_processes_are_bit_equal(tmp_path, tiny_config, classifier, threads):
    for name in ("a", "b"):
        command = [sys.executable, "train_gan.py", "--config", tiny_config, "--out", tmp_path / name, "--device", "cpu"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run([*command, *ALL_RANDOM_OPTIONS], cwd=ROOT, env=environment, check=True)
    assert_same_runs(tmp_path / "a", tmp_path / "b")


@pytest.mark.gpu
def test_deterministic_runs_and_resume_on_gpu_are_bit_equal(tmp_path, tiny_config, classifier):
    def train(name: str, *arguments: str) -> None:
        command = [sys.executable, "train_gan.py", "--config", tiny_config, "--out", tmp_path / name]
        subprocess.run(
            [*command, "--device", "cuda", "log.to=[]", *ALL_RANDOM_OPTIONS, *arguments], cwd=ROOT, check=True
        )

    train("a")
    train("b")
    assert_same_runs(tmp_path / "a", tmp_path / "b")
    train("c", "train.steps=2")
    train("c", "--resume")
    assert_same_runs(tmp_path / "a", tmp_path / "c")
