import math
import re

import pytest
import torch

from gan.run.checkpoint import load
from gan.run.divergence import find_nonfinite, read_divergences, record_divergence
from gan.run.logging import read_metrics
from gan.runtime.interrupt import Interrupt
from gan.training import loop, step
from gan.training.step import training_step
from tests.gan.runs import load_newest, read_numbers, resume
from train_classifier import main as train_classifier
from train_gan import main

pytestmark = pytest.mark.usefixtures("short_slope_search")


def set_value(experiment, place: str, value: float) -> dict:
    """Set one number of an experiment to `value`, and return the losses of the step."""
    losses = {"loss/D": torch.tensor(1.0), "loss/G": torch.tensor(1.0)}
    weight = next(experiment.D.parameters())
    match place:
        case "loss/G":
            losses[place] = torch.tensor(value)
        case "gradient":
            weight.grad = torch.zeros_like(weight)
            weight.grad.view(-1)[-1] = value
        case "weight":
            weight.data.view(-1)[0] = value
        case "buffer":
            next(b for b in experiment.G.buffers() if b.is_floating_point()).view(-1)[0] = value
        case "weight average":
            next(experiment.ema.network.parameters()).view(-1)[0] = value
        case "optimizer state":
            experiment.optimizer_G.state[next(experiment.G.parameters())]["exp_avg_sq"].view(-1)[0] = value
    return losses


PLACES = {
    "loss/G": "loss/G",
    "gradient": r"the gradient of D\.downs\.0\.",
    "weight": r"D\.downs\.0\.",
    "buffer": r"G\..*running_mean",
    "weight average": r"G_ema\.",
    "optimizer state": r"exp_avg_sq of G\.",
}


@pytest.fixture
def experiment(build):
    experiment = build("eval.metrics=[]", "generator.activation_norm=batch")
    training_step(experiment, experiment.G, experiment.D)
    return experiment


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("place", "name"), PLACES.items(), ids=PLACES)
def test_nonfinite_value_is_found_and_named(experiment, place, name, value):
    assert find_nonfinite(experiment.networks, set_value(experiment, "nowhere", value)) == []
    losses = set_value(experiment, place, value)
    assert re.match(name, find_nonfinite(experiment.networks, losses)[0])


def test_large_values_are_finite(experiment):
    next(experiment.D.parameters()).data.fill_(3e38)
    assert find_nonfinite(experiment.networks, {"loss/D": torch.tensor(-3e38)}) == []


@pytest.fixture
def nan_at(monkeypatch):
    """Return a function that sets a weight of G to NaN after step `at`, in the first `attempts` attempts only."""

    def patch(at, attempts):
        original = step.update_generator

        def update_generator(experiment, *arguments):
            losses = original(experiment, *arguments)
            if experiment.step == at and experiment.inputs.rollbacks < attempts:
                next(experiment.G.parameters()).data[0] = math.nan
            return losses

        monkeypatch.setattr(step, "update_generator", update_generator)

    return patch


def train(tiny_config, folder, *arguments) -> int:
    return main(["--config", str(tiny_config), "--out", str(folder), "--device", "cpu", "train.steps=6", *arguments])


@pytest.mark.parametrize("rare", ["log.every", "checkpoint.every", "eval.every"])
def test_divergence_stops_run_and_keeps_last_good_checkpoint(tmp_path, tiny_config, nan_at, capsys, rare):
    nan_at(2, attempts=1)
    folder = tmp_path / "run"
    intervals = {"log.every": 2, "checkpoint.every": 2, "eval.every": 2, rare: 100}
    assert train(tiny_config, folder, *(f"{key}={every}" for key, every in intervals.items())) == 3
    (divergence,) = read_divergences(folder)
    assert (divergence["step"], divergence["then"]) == (4, "stopped")
    first = divergence["not_finite"][0]
    err = capsys.readouterr().err
    assert err.startswith(f"diverged at step 4: not finite: {first} and ")
    assert " more; the numbers logged at step 2 were finite; stopped, with the last good checkpoint kept" in err
    assert err.count("\n") == 1
    assert first == "loss/D"
    assert any(name.startswith("G.") for name in divergence["not_finite"])
    assert divergence["last_lipschitz_step"] == 2
    assert divergence["last_lipschitz"]["lipschitz/D/product"] > 0
    assert read_numbers(folder)[-1]["step"] == 2
    checkpoints = {path.name for path in (folder / "checkpoints").iterdir()}
    assert checkpoints <= {"step_00000002.pt", "best.pt"}
    for name in checkpoints:
        state = load(folder / "checkpoints" / name)
        assert all(torch.isfinite(tensor).all() for network in "GD" for tensor in state[network].values())


UNSTABLE = (
    *("discriminator.normalization=none", "regularizers={r1: {weight: 1000}}", "loss=wasserstein"),
    *("optimizer.generator.lr=1000", "optimizer.discriminator.lr=1000"),
)


def test_unstable_run_stops(tmp_path, tiny_config):
    assert train(tiny_config, tmp_path / "run", *UNSTABLE, "train.steps=50", "eval.metrics=[]") == 3


def test_divergence_stops_classifier(tmp_path):
    small = ["data.resolution=8", "classifier={name: resnet10, width: 4}", "train.steps=50", "train.batch_size=16"]
    small += ["log.every=1", "optimizer.lr=1000", "optimizer.weight_decay=1000", "eval.batch_size=100"]
    folder = tmp_path / "run"
    assert train_classifier(["--out", str(folder), "--device", "cpu", *small]) == 3
    (divergence,) = read_divergences(folder)
    assert divergence["then"] == "stopped"
    assert not (folder / "classifier.safetensors").exists()


def test_rollback_continues_with_other_random_numbers(tmp_path, tiny_config, finished_run, nan_at, capsys):
    nan_at(3, attempts=1)
    folder = tmp_path / "run"
    assert train(tiny_config, folder, "train.on_nan=rollback") == 0
    assert "rolled back to step 2, rollback 1 of 3" in capsys.readouterr().out
    (divergence,) = read_divergences(folder)
    assert divergence["then"] == "rolled back to step 2"
    assert [line["step"] for line in read_numbers(folder)] == [1, 2, 3, 4, 5, 6]
    assert read_numbers(folder)[:2] == read_numbers(finished_run)[:2]
    assert read_numbers(folder)[2]["loss/D"] != read_numbers(finished_run)[2]["loss/D"]
    assert load(folder / "checkpoints" / "step_00000006.pt")["retries"] == 1
    assert all(line["speed/images_per_s"] > 0 for line in read_metrics(folder))


CONTENTS = [
    "",
    "5",
    "[5]",
    "[{}]",
    '[{"step": null}]',
    '[{"step": 1, "then": "stopped", "not_finite": []}]',
    "[" * 100_000,
]


def test_damaged_divergences_are_kept(tmp_path):
    path = tmp_path / "divergence.json"
    for text in CONTENTS:
        path.write_text(text)
        with pytest.warns(UserWarning, match=r"divergence\.json is damaged \(.*; continuing without it, kept as"):
            record_divergence(tmp_path, 3, ["loss/D"], "stopped")
        assert [entry["step"] for entry in read_divergences(tmp_path)] == [3]
    assert {kept.read_text() for kept in tmp_path.glob("*.damaged*")} == set(CONTENTS)


def test_nonfinite_step_is_not_logged_when_only_lipschitz_numbers_are_due(tmp_path, tiny_config, nan_at):
    nan_at(2, attempts=1)
    every = [f"{key}.every=100" for key in ("log", "eval", "checkpoint")] + ["lipschitz.every=1"]
    assert train(tiny_config, tmp_path / "run", *every) == 3
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2]
    assert read_divergences(tmp_path / "run")[0]["step"] == 3


def test_retry_changes_training_latents_only(experiment):
    def draw() -> list[torch.Tensor]:
        inputs = experiment.inputs
        samples = loop.fixed_samples(experiment.ema.network, inputs).double()
        return [samples, inputs.latents(4, "any")[0], inputs.training_latents(4, "any")[0]]

    before = draw()
    experiment.inputs.rollbacks = 1
    assert [torch.equal(a, b) for a, b in zip(before, draw(), strict=True)] == [True, True, False]


def test_run_stops_after_three_rollbacks(tmp_path, tiny_config, nan_at):
    nan_at(0, attempts=100)
    folder = tmp_path / "run"
    assert train(tiny_config, folder, "train.on_nan=rollback") == 3
    divergences = read_divergences(folder)
    assert [divergence["then"] for divergence in divergences] == [*["rolled back to step 0"] * 3, "stopped"]
    assert load_newest(folder)["retries"] == 3


def test_resume_of_interrupted_retry_is_bit_equal(tmp_path, tiny_config, nan_at):
    class InterruptOnce(Interrupt):
        def get_signal(self):
            return 15 if signals and signals.pop() else None

    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    nan_at(3, attempts=1)
    assert train(tiny_config, uninterrupted, "train.on_nan=rollback") == 0
    signals = [True, False, False, False, False]  # read from the end: a signal in the second step of the retry
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_gan.Interrupt", InterruptOnce)
        assert train(tiny_config, interrupted, "train.on_nan=rollback") == 143
    resume(interrupted)
    assert read_numbers(interrupted) == read_numbers(uninterrupted)
