"""Batch norm statistics of the averaged generator, wherever it is evaluated, sampled or exported."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn

from gan.data.grids import sample_grid
from gan.evaluate import evaluate_seed
from gan.evaluate import main as evaluate
from gan.export import load_generator
from gan.training import loop
from gan.training.lipschitz import lipschitz_audit
from gan.training.restore import restore_experiment, restore_generator
from gan.training.standing_statistics import find_batch_norms, with_standing_statistics
from gan.training.step import training_step
from models.activation_norms.batch import BatchNorm
from tests.gan.runs import read_numbers, same
from train_gan import main

pytestmark = pytest.mark.usefixtures("short_slope_search")
CPU = torch.device("cpu")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture
def build_average(build):
    """Return a function that builds an experiment whose average lags far behind its generator."""

    def build_lagging(*overrides):
        experiment = build("eval.standing_statistics=1000", *overrides)
        experiment.G.train()
        with torch.no_grad():
            for parameter in experiment.G.parameters():
                parameter.mul_(3)
        for _ in range(3):
            training_step(experiment, experiment.G, experiment.D)
        return experiment

    return build_lagging


def measure_normalized(G, latents):
    """Return the mean and the variance of what each batch norm returns, before its scale and shift, per channel."""
    measured = []

    def hook(norm, inputs, _):
        x = (inputs[0] - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
        measured.append((x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3))))

    handles = [norm.register_forward_hook(hook) for norm in find_batch_norms(G)]
    with torch.no_grad():
        G(*latents)
    for handle in handles:
        handle.remove()
    return measured


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_activations_of_the_average_are_normalized(build_average, conditional, channels_last):
    experiment = build_average(f"data.conditional={conditional}", f"train.channels_last={channels_last}")
    latents = experiment.inputs.latents(2000, "test")
    standing, live = (
        measure_normalized(G, latents) for G in (experiment.evaluated_generator(), experiment.ema.network)
    )
    assert len(standing) == len(live) == 2
    for mean, variance in standing:
        assert mean.abs().max() < 0.15
        assert (variance - 1).abs().max() < 0.2
    assert max((variance.log().abs().max()).item() for _, variance in live) > 0.5


class Network(nn.Module):
    """A generator with a nested batch norm, dropout and a second batch norm without statistics of its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4, momentum=0.3)), nn.Dropout(0.5))
        self.last = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, z):
        return self.layers(z)


def standing(network, config, count, **options):
    config = replace(config, eval=replace(config.eval, standing_statistics=count))
    config = replace(config, generator=replace(config.generator, z_dim=3))
    return with_standing_statistics(network.eval(), config, None, **options)


@pytest.mark.parametrize("count", [2, 249, 251, 750])
def test_statistics_are_means_over_all_latents(build, count):
    config, network, seen = build().config, Network(), []
    network.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    copy = standing(network, config, count)
    assert max(map(len, seen)) <= 250
    assert max(map(len, seen)) - min(map(len, seen)) <= 1
    assert sum(map(len, seen)) == count
    whole = torch.cat(seen)
    norm = copy.layers[1][0]
    torch.testing.assert_close(norm.running_mean, whole.mean(dim=0))
    weighted = sum(x.var(dim=0) * len(x) for x in seen) / count
    torch.testing.assert_close(norm.running_var, weighted)
    assert (norm.momentum, norm.training, copy.training) == (0.3, False, False)
    assert network.layers[1][0].num_batches_tracked == 0


def test_original_and_all_other_state_are_unchanged(build_average):
    experiment = build_average("generator.normalization=spectral", "data.conditional=true")
    random = torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in experiment.ema.network.state_dict().items()}
    after = experiment.evaluated_generator().state_dict()
    assert same(before, experiment.ema.network.state_dict())
    assert torch.equal(random, torch.get_rng_state())
    different = {name for name in after if not torch.equal(before[name], after[name])}
    assert different == {f"norms.{i}.norm.{name}" for i in range(2) for name in STATISTICS}
    assert same(after, experiment.evaluated_generator().state_dict())


@pytest.mark.parametrize(
    "option", ["generator.activation_norm=layer", "train.ema_halflife_kimg=0", "eval.standing_statistics=0"]
)
def test_nothing_is_computed_without_need(build, option):
    experiment = build("eval.standing_statistics=1000", option)
    assert experiment.evaluated_generator(lambda: pytest.fail("a batch is generated")) is experiment.ema.network


def test_statistics_of_one_latent_are_refused(build):
    with pytest.raises(Exception, match="standing_statistics: one latent has no variance; use at least 2, or 0"):
        build("eval.standing_statistics=1")


def test_signal_ends_the_computation(build):
    class Signal(Exception):
        pass

    def stop():
        raise Signal

    with pytest.raises(Signal):
        build().evaluated_generator(stop)


def test_each_process_computes_the_same_without_messages(build_average, monkeypatch):
    experiment = build_average("train.sync_batch_norm=true")
    expected = experiment.evaluated_generator().state_dict()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda *_: pytest.fail("a message is sent"))
    assert same(expected, experiment.evaluated_generator().state_dict())
    norms = find_batch_norms(experiment.ema.network)
    assert all(isinstance(norm, BatchNorm) and norm.across_processes for norm in norms)


def test_audit_measures_the_evaluated_generator(build_average):
    experiment = build_average("eval.standing_statistics=20")
    numbers = lipschitz_audit(experiment)[0]
    experiment.ema.network = experiment.evaluated_generator()
    assert lipschitz_audit(experiment)[0] == numbers


def test_training_and_commands_use_the_same_statistics(tmp_path, tiny_run, capsys):
    options = ("train.ema_halflife_kimg=0.05", "optimizer.generator.lr=0.05")
    folder = tiny_run(tmp_path / "run", *options)
    G = restore_generator(folder, CPU).network
    experiment = restore_experiment(folder, CPU)
    scores = evaluate_seed(G, experiment.inputs, experiment.evaluator, 0)
    assert scores != evaluate_seed(experiment.ema.network, experiment.inputs, experiment.evaluator, 0)

    assert read_numbers(folder)[-1].items() >= {f"metrics/{name}": value for name, value in scores.items()}.items()
    grid = sample_grid(loop.fixed_samples(G, experiment.inputs), stacked=False).permute(1, 2, 0)
    assert np.array_equal(np.asarray(Image.open(folder / "samples" / "step_00000004.png")), grid.numpy())
    assert same(load_generator(folder).network.state_dict(), G.state_dict())

    def evaluate_run(*arguments):
        assert evaluate([str(folder), "--device", "cpu", *arguments]) == 0
        results = json.loads((folder / "evaluation.json").read_text())["step_00000004"]
        return {name: values["0"] for name, values in results.items()}

    assert evaluate_run() == scores
    assert evaluate_run("eval.standing_statistics=0") != scores


@pytest.mark.slow
def test_distance_of_an_average_that_lags(tmp_path):
    """The recipe of digits with a constant learning rate and a long half-life."""
    rarely = [f"{key}=1000" for key in ("eval.every", "lipschitz.every", "lipschitz.audit_every", "checkpoint.every")]
    options = ["train.steps=500", "optimizer.schedule=constant", "train.ema_halflife_kimg=50", *rarely]
    folder, config = tmp_path / "run", Path(__file__).parents[3] / "configs" / "digits" / "dcgan.yaml"
    metric = "fd_digits2k_test"
    arguments = ["--config", str(config), "--out", str(folder), "--device", "cpu", f"eval.metrics=[{metric}]"]
    assert main([*arguments, *options]) == 0
    experiment = restore_experiment(folder, CPU)
    after, before = (
        evaluate_seed(G, experiment.inputs, experiment.evaluator, 0)[metric]
        for G in (experiment.evaluated_generator(), experiment.ema.network)
    )
    assert after < 0.6 * before
