import math
import re

import pytest
import torch

from gan.config import Config
from gan.options.loader import load_config
from gan.run.checkpoint import Checkpoints, load
from gan.run.divergence import find_nonfinite, read_divergences
from gan.run.logging import read_metrics
from gan.runtime.interrupt import Interrupt
from gan.training import loop, step
from gan.training.build import build_experiment
from gan.training.step import training_step
from train_classifier import main as train_classifier
from train_gan import main


def spoil(run, what: str, value: float) -> dict:
    """Put a value that is not finite somewhere into a run; return the losses of the step."""
    losses = {"loss/D": torch.tensor(1.0), "loss/G": torch.tensor(1.0)}
    weight = next(run.D.parameters())
    match what:
        case "loss/G":
            losses[what] = torch.tensor(value)
        case "a gradient":
            weight.grad = torch.zeros_like(weight)
            weight.grad.view(-1)[-1] = value
        case "a weight":
            weight.data.view(-1)[0] = value
        case "a buffer":
            next(b for b in run.G.buffers() if b.is_floating_point()).view(-1)[0] = value
        case "the average":
            next(run.ema.network.parameters()).view(-1)[0] = value
        case "a running mean":
            run.optimizer_G.state[next(run.G.parameters())]["exp_avg_sq"].view(-1)[0] = value
    return losses


PLACES = {
    "loss/G": "loss/G",
    "a gradient": r"the gradient of D\.downs\.0\.",
    "a weight": r"D\.downs\.0\.",
    "a buffer": r"G\..*running_mean",
    "the average": r"G_ema\.",
    "a running mean": r"exp_avg_sq of G\.",
}


@pytest.fixture
def experiment(tmp_path, tiny_config):
    config = load_config(Config, tiny_config, ["eval.metrics=[]", "generator.activation_norm=batch"])
    run = build_experiment(config, config.data.load(), torch.device("cpu"))
    training_step(run, run.G, run.D)
    return run


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("what", "name"), PLACES.items(), ids=PLACES)
def test_whatever_is_not_finite_is_noticed_and_named(experiment, what, name, value):
    assert find_nonfinite(experiment.networks, spoil(experiment, "nothing", value)) == []
    losses = spoil(experiment, what, value)
    assert re.match(name, find_nonfinite(experiment.networks, losses)[0])


def test_large_numbers_are_finite(experiment):
    next(experiment.D.parameters()).data.fill_(3e38)
    assert find_nonfinite(experiment.networks, {"loss/D": torch.tensor(-3e38)}) == []


@pytest.fixture
def nan_at(monkeypatch):
    """Return a function that makes a weight of G NaN in the update after the given step, for so many tries."""

    def arm(at, tries):
        original = step.update_generator

        def update_generator(experiment, G, D):
            losses = original(experiment, G, D)
            if experiment.step == at and experiment.inputs.retries < tries:
                next(experiment.G.parameters()).data[0] = math.nan
            return losses

        monkeypatch.setattr(step, "update_generator", update_generator)

    return arm


def numbers(folder) -> list[dict]:
    lines = read_metrics(folder)
    return [{tag: value for tag, value in line.items() if not tag.startswith("speed/")} for line in lines]


def train(tiny_config, folder, *arguments) -> int:
    return main(["--config", str(tiny_config), "--out", str(folder), "--device", "cpu", "train.steps=6", *arguments])


@pytest.mark.parametrize("quiet", ["log.every", "checkpoint.every", "eval.every"])
def test_a_diverged_run_stops_within_an_interval_and_keeps_the_last_good_checkpoint(
    tmp_path, tiny_config, nan_at, classifier, capsys, quiet
):
    nan_at(2, tries=1)
    folder = tmp_path / "run"
    every = {"log.every": 2, "checkpoint.every": 2, "eval.every": 2, quiet: 100}
    assert train(tiny_config, folder, *(f"{key}={value}" for key, value in every.items())) == 3
    (diagnosis,) = read_divergences(folder)
    assert (diagnosis["step"], diagnosis["then"]) == (4, "stopped")
    first = diagnosis["not_finite"][0]
    said = capsys.readouterr().err
    assert said.startswith(f"diverged: {first} and ")
    assert "is not finite at step 4; the numbers logged at step 2 were finite; stopped, with the last good" in said
    assert said.count("\n") == 1
    assert first == "loss/D"
    assert any(name.startswith("G.") for name in diagnosis["not_finite"])
    assert diagnosis["last_lipschitz_step"] == 2
    assert diagnosis["last_lipschitz"]["lipschitz/D/product"] > 0
    assert numbers(folder)[-1]["step"] == 2
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert kept <= {"step_00000002.pt", "best.pt"}
    for name in kept:
        state = load(folder / "checkpoints" / name)
        assert all(torch.isfinite(tensor).all() for player in "GD" for tensor in state[player].values())


WILD = (
    *("discriminator.normalization=none", "regularizers={r1: {weight: 1000}}", "loss=wasserstein"),
    *("optimizer.generator.lr=1000", "optimizer.discriminator.lr=1000"),
)


def test_a_run_that_really_diverges_stops(tmp_path, tiny_config, classifier):
    assert train(tiny_config, tmp_path / "run", *WILD, "train.steps=50", "eval.metrics=[]") == 3


def test_a_classifier_that_diverges_stops(tmp_path):
    small = ["data.resolution=8", "classifier={name: resnet10, width: 4}", "train.steps=50", "train.batch_size=16"]
    small += ["log.every=1", "optimizer.lr=1000", "optimizer.weight_decay=1000", "eval.batch_size=100"]
    folder = tmp_path / "run"
    assert train_classifier(["--out", str(folder), "--device", "cpu", *small]) == 3
    (diagnosis,) = read_divergences(folder)
    assert diagnosis["then"] == "stopped"
    assert not (folder / "classifier.safetensors").exists()


def test_a_rollback_takes_other_random_numbers_and_goes_on(tmp_path, tiny_config, tiny_run, nan_at, capsys):
    whole = tiny_run(tmp_path / "whole", "train.steps=6")
    nan_at(3, tries=1)
    capsys.readouterr()
    folder = tmp_path / "run"
    assert train(tiny_config, folder, "train.on_nan=rollback") == 0
    assert "rolled back to step 2, attempt 1 of 3" in capsys.readouterr().out
    (diagnosis,) = read_divergences(folder)
    assert diagnosis["then"] == "rolled back to step 2"
    assert [line["step"] for line in numbers(folder)] == [1, 2, 3, 4, 5, 6]
    assert numbers(folder)[:2] == numbers(whole)[:2]
    assert numbers(folder)[2]["loss/D"] != numbers(whole)[2]["loss/D"]
    assert load(folder / "checkpoints" / "step_00000006.pt")["retries"] == 1


def test_a_retry_is_trained_on_other_latents_and_looked_at_with_the_same(experiment):
    def drawn() -> list[torch.Tensor]:
        inputs = experiment.inputs
        samples = loop.fixed_samples(experiment.ema.network, inputs).double()
        return [samples, inputs.latents(4, "any")[0], inputs.training_latents(4, "any")[0]]

    before = drawn()
    experiment.inputs.retries = 1
    assert [torch.equal(a, b) for a, b in zip(before, drawn(), strict=True)] == [True, True, False]


def test_after_three_rollbacks_the_run_stops(tmp_path, tiny_config, nan_at, classifier):
    nan_at(0, tries=100)
    folder = tmp_path / "run"
    assert train(tiny_config, folder, "train.on_nan=rollback") == 3
    diagnoses = read_divergences(folder)
    assert [d["then"] for d in diagnoses] == [*["rolled back to step 0"] * 3, "stopped"]
    config = load_config(Config, folder / "config.yaml")
    assert Checkpoints(folder, config).load_newest(torch.device("cpu"))["retries"] == 3


def test_a_retry_that_is_interrupted_and_resumed_equals_one_that_is_not(tmp_path, tiny_config, nan_at, classifier):
    class Once(Interrupt):
        requested = property(lambda self: 15 if armed and armed.pop() else None)

    folders = [tmp_path / name for name in ("whole", "interrupted")]
    nan_at(3, tries=1)
    armed = []
    assert train(tiny_config, folders[0], "train.on_nan=rollback") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_gan.Interrupt", Once)
        armed = [True, False, False, False, False]  # from the end: after the second step of the retry
        assert train(tiny_config, folders[1], "train.on_nan=rollback") == 143
    assert main(["--out", str(folders[1]), "--device", "cpu", "--resume"]) == 0
    assert numbers(folders[0]) == numbers(folders[1])
