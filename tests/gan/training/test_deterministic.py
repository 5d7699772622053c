import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from gan.runtime.rng import set_deterministic
from gan.training.step import training_step
from models.kernels import switch
from tests.gan.experiments import build_on_random_images
from tests.gan.runs import assert_same_runs, load_newest, read_numbers, same

pytestmark = pytest.mark.usefixtures("short_slope_search")
ROOT = Path(__file__).parents[3]
ALL_RANDOM_OPTIONS = [
    "train.deterministic=true",
    "train.augment=[ada, color, translation, cutout]",
    "train.ada={p: 0.3, kimg: 0.5, every: 2}",
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
def test_deterministic_runs_of_two_processes_are_bit_equal(tmp_path, tiny_config, threads):
    for name in ("a", "b"):
        command = [sys.executable, "train_gan.py", "--config", tiny_config, "--out", tmp_path / name, "--device", "cpu"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run([*command, *ALL_RANDOM_OPTIONS], cwd=ROOT, env=environment, check=True)
    assert_same_runs(tmp_path / "a", tmp_path / "b")


@pytest.mark.gpu
def test_deterministic_runs_and_resume_on_gpu_are_bit_equal(tmp_path, tiny_config):
    pytest.importorskip("safetensors")
    pytest.importorskip("tqdm")
    (tmp_path / "images").mkdir()
    random = torch.Generator().manual_seed(0)
    for k, pixels in enumerate(torch.randint(256, (32, 3, 16, 16), generator=random, dtype=torch.uint8)):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "images" / f"{k}.png")

    def train(name: str, *arguments: str) -> Path:
        command = [sys.executable, "train_gan.py", "--config", tiny_config, "--out", tmp_path / name]
        data = f"data={{name: folder, root: '{tmp_path / 'images'}', horizontal_flip: true, dequantize: true}}"
        # A run ends with an audit, so a whole run needs one where the first part of the resumed run ends.
        options = ["log.to=[]", "eval.metrics=[]", "lipschitz.audit_every=2", *ALL_RANDOM_OPTIONS, data, *arguments]
        subprocess.run([*command, "--device", "cuda", *options], cwd=ROOT, check=True)
        return tmp_path / name

    whole, again = train("a"), train("b")
    train("c", "train.steps=2")
    for other in (again, train("c", "--resume")):
        assert read_numbers(whole) == read_numbers(other)
        assert same(load_newest(whole), load_newest(other))


@pytest.mark.gpu
@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize("fused", [False, True])
def test_deterministic_steps_on_gpu(monkeypatch, upsample, fused):
    forms = {"average": "kernel", "nearest": "kernel", "bilinear": "map"} if fused else {}
    monkeypatch.setitem(switch.FUSED_RESAMPLING, "cuda", forms)
    set_deterministic(True)
    options = [f"generator.upsample={upsample}", "generator.attention=16", "train.augment=[translation]"]
    states = []
    for _ in range(2):
        experiment = build_on_random_images("cifar10/sngan_resnet", "train.graph=false", *options)
        for _ in range(2):
            training_step(experiment, experiment.G, experiment.D)
        states.append(experiment.state_dict())
    assert same(*states)
