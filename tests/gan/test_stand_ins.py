"""A run whose metrics are stand-ins, from its start to its evaluation, and comparisons of such runs."""

import json

import pytest
import torch

from gan import evaluate
from gan.compare.__main__ import main as compare
from gan.compare.arms import build_arms, build_cells, parse_axis
from gan.compare.description import extend_description, save_description
from gan.compare.experiment_types import GAN
from gan.compare.folder import GridFolder
from gan.compare.start import check_cells
from gan.config import Config
from gan.options.loader import load_config
from gan.run.checkpoint import load
from gan.run.logging import read_metrics
from gan.runtime.weights import export_network
from models import ImageShape, build_classifier
from models.networks.classifiers import ResNet10Config
from models.networks.layers import standardize_images
from train_gan import main

pytestmark = pytest.mark.usefixtures("short_slope_search")
STAND_INS = ("fd_classifier70_train", "is_classifier70")


@pytest.fixture(autouse=True)
def empty_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("signal.signal", lambda *arguments: None)


@pytest.fixture
def weights(tmp_path) -> str:
    """Return the option for weights of Inception that have appeared. They are not read."""
    path = tmp_path / "inception.pth"
    path.touch()
    return f"metrics.inception_weights={path}"


@pytest.fixture
def options(tmp_path) -> list[str]:
    """Return options with metrics of Inception and a classifier that stands in for them."""
    image = ImageShape(1, 16, 10)
    torch.manual_seed(0)
    network = standardize_images(build_classifier(ResNet10Config(width=2), image), torch.zeros(1), torch.ones(1))
    path = tmp_path / "classifier.safetensors"
    export_network(path, network, "classifier: {name: resnet10, width: 2}", image=image)
    return ["eval.metrics=[fid70_train, is70]", f"metrics.classifier={path}"]


def test_run_begins_resumes_and_is_evaluated_with_its_stand_ins(tmp_path, tiny_config, options, weights, capsys):
    run = tmp_path / "run"
    start = ["--config", str(tiny_config), "--out", str(run), "--device", "cpu", *options]
    with pytest.warns(UserWarning, match="Instead of fid70_train and is70, this run has fd_classifier70_train and is_"):
        assert main([*start, "train.steps=2"]) == 0
    assert load_config(Config, run / "config.yaml").eval.metrics == STAND_INS
    assert "# the weights of Inception are missing" in (run / "config.yaml").read_text()

    with pytest.warns(UserWarning, match="the metrics stay those with which the run began"):
        assert main([*start, "--resume", "train.steps=4", weights]) == 0
    assert "# the weights of Inception are missing" in (run / "config.yaml").read_text()
    scores = {
        line["step"]: line[f"metrics/{STAND_INS[0]}"] for line in read_metrics(run) if f"metrics/{STAND_INS[0]}" in line
    }
    assert list(scores) == [2, 4]
    assert not any("fid" in tag for line in read_metrics(run) for tag in line)
    assert load(run / "checkpoints" / "best.pt")["step"] == min(scores, key=scores.get)
    assert f"\n{STAND_INS[0]} " in capsys.readouterr().out

    assert evaluate.main([str(run), "--device", "cpu"]) == 0
    entry = json.loads((run / "evaluation.json").read_text())["step_00000004"]
    assert {name: values["0"] for name, values in entry.items()} == {
        name: read_metrics(run)[-1][f"metrics/{name}"] for name in STAND_INS
    }


def test_cells_of_a_comparison_have_the_same_stand_ins(tmp_path, tiny_config, options, weights):
    folder = GridFolder(tmp_path / "grid")
    arms = build_arms([parse_axis("loss=hinge,wasserstein")], [])

    def check(*more: str):
        overrides = [*options, *more]
        cells = build_cells(tiny_config, overrides, arms, [0])
        return check_cells(folder, GAN, load_config(Config, tiny_config, overrides), cells, "cpu")

    base, cells, starts = check()
    assert {len(start.notes) for start in starts.values()} == {1}
    for cell in cells:
        assert cell.config.eval.metrics == base.eval.metrics == STAND_INS
        assert load_config(Config, tiny_config, cell.overrides) == cell.config  # as the process of the cell reads it
    folder.create()
    save_description(folder, extend_description(folder, tiny_config, base, cells, None))

    again = check(weights)  # the weights have appeared
    assert [cell.config.eval.metrics for cell in again.cells] == [STAND_INS] * 2
    assert not any(start.missing for start in again.by_cell.values())


def test_comparison_reports_everything_missing_once(tmp_path, tiny_config, capsys):
    keys = ["data=cifar10", f"data.root={tmp_path}", "metrics.optional=false", "eval.metrics=[fid10_train]"]
    axis = ["--vary", "loss=hinge,wasserstein", "--seeds", "0,1", "--device", "cpu"]
    assert compare([str(tiny_config), *keys, *axis, "--out", str(tmp_path / "grid")]) == 2
    error = capsys.readouterr().err
    assert [line[:24] for line in error.splitlines()] == ["error: data.root: cifar1", "error: the weights of In"]
    assert list((tmp_path / "grid" / "cells").iterdir()) == []
