import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._dynamo.utils import counters

from gan.config import Config
from gan.objectives.regularizers import Batch
from gan.options.loader import load_config
from gan.run.checkpoint import load
from gan.runtime.interrupt import Interrupt
from gan.training import loop
from gan.training.build import build_experiment
from gan.training.lipschitz import lipschitz_numbers
from gan.training.step import discriminate, training_step, update_discriminator, update_generator
from gan.training.warnings import TrainingWarnings
from tests.gan.runs import assert_same_runs, newest, numbers, same
from train_gan import main


class Killed(Exception):
    pass


@pytest.fixture
def killed_before(monkeypatch):
    """Return a function that makes training stop before the given step, as by a kill."""

    def arm(step):
        original = loop.training_step

        def training_step(experiment, G, D):
            if experiment.step == step:
                monkeypatch.setattr(loop, "training_step", original)
                raise Killed
            return original(experiment, G, D)

        monkeypatch.setattr(loop, "training_step", training_step)

    return arm


def resume(folder, *arguments):
    assert main(["--out", str(folder), "--device", "cpu", "--resume", *arguments]) == 0


RECIPES = {
    "conv_norm": [],
    "conv_norm running average": ["discriminator.normalization.running_average=true"],
    "spectral": ["discriminator.normalization=spectral", "generator.normalization=spectral"],
    "none": ["discriminator.normalization=none", "discriminator.activation_norm=batch", "optimizer.schedule=cosine"],
    "all that is random": [
        "loss=relativistic",
        "train.first=generator",
        "train.augment=[color, translation, cutout]",
        "data={horizontal_flip: true, dequantize: true}",
        "regularizers={gradient_penalty: {every: 2}, dragan: {}, srip: {}, spectral_reg: {}}",
    ],
}
recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@recipes
def test_a_run_killed_and_resumed_equals_one_never_killed(tmp_path, tiny_run, killed_before, recipe):
    tiny_run(tmp_path / "whole", "train.steps=5", *recipe)
    killed_before(3)
    with pytest.raises(Killed):
        tiny_run(tmp_path / "killed", "train.steps=5", *recipe)
    assert newest(tmp_path / "killed")["step"] == 2
    assert numbers(tmp_path / "killed")[-1]["step"] == 3
    resume(tmp_path / "killed")
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path, tiny_run, killed_before, event_files_in_order):
    tiny_run(tmp_path / "whole")
    killed_before(1)
    with pytest.raises(Killed):
        tiny_run(tmp_path / "killed")
    resume(tmp_path / "killed")
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")
    events = EventAccumulator(str(tmp_path / "killed"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/D")] == [1, 2, 3, 4]


def test_a_run_goes_on_from_the_newest_whole_checkpoint(tmp_path, tiny_run, capsys):
    options = ("checkpoint.keep=2", "checkpoint.every=1")
    tiny_run(tmp_path / "whole", *options)
    folder = tiny_run(tmp_path / "damaged", *options)
    path = folder / "checkpoints" / "step_00000004.pt"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=rf"continuing from step_00000003.pt: cannot read the checkpoint {path}: "):
        resume(folder)
    assert f"{folder}: step 3 of 4 on cpu\n" in capsys.readouterr().out
    assert_same_runs(tmp_path / "whole", folder)


def test_a_finished_run_goes_on_when_it_is_given_more_steps(tmp_path, tiny_run):
    tiny_run(tmp_path / "long", "train.steps=6")
    tiny_run(tmp_path / "short", "train.steps=4")
    resume(tmp_path / "short", "train.steps=6")
    assert_same_runs(tmp_path / "long", tmp_path / "short")


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path, tiny_run):
    folder = tiny_run(tmp_path / "run")
    before = numbers(folder), (folder / "config.yaml").read_bytes(), newest(folder)
    resume(folder)
    assert same((numbers(folder), (folder / "config.yaml").read_bytes(), newest(folder)), before)


def test_the_seed_decides_the_run(tmp_path, tiny_run):
    a, b = (newest(tiny_run(tmp_path / seed, f"seed={seed}")) for seed in ("1", "2"))
    assert not same(a["G"], b["G"])


@recipes
def test_measuring_and_saving_change_nothing(tmp_path, tiny_run, recipe):
    every = ["log.every={}", "eval.every={}", "lipschitz.every={}", "lipschitz.audit_every={}"]
    every.append("checkpoint.every={}")
    states = [
        newest(tiny_run(tmp_path / name, *recipe, *(key.format(name) for key in every))) for name in ("1", "1000")
    ]
    for name in ("G", "D", "G_ema", "optimizer_G", "optimizer_D"):
        assert same(states[0][name], states[1][name]), name


@pytest.fixture
def experiment(tmp_path, tiny_config, classifier):
    def build(*overrides):
        config = load_config(Config, tiny_config, overrides)
        return build_experiment(config, config.data.load(), torch.device("cpu"))

    return build


@recipes
def test_measuring_leaves_networks_and_global_random_numbers_as_they_were(tmp_path, experiment, recipe):
    run = experiment(*recipe)
    update_discriminator(run, run.G, run.D, 0)
    update_generator(run, run.G, run.D)

    def state():
        networks = (run.G, run.D, run.ema.network)
        modes = [module.training for network in networks for module in network.modules()]
        gradients = [None if p.grad is None else p.grad.clone() for network in networks for p in network.parameters()]
        weights = [{name: t.clone() for name, t in network.state_dict().items()} for network in networks]
        return [torch.get_rng_state(), modes, gradients, weights]

    before = state()
    loop.evaluate(run, None, Interrupt(), TrainingWarnings(run.config.loss, run.inputs.sampler.images))
    loop.fixed_samples(run.ema.network, run.inputs)
    lipschitz_numbers(run)
    assert same(before, state())


@recipes
def test_a_step_draws_no_global_random_number(experiment, recipe):
    run = experiment(*recipe)
    before = torch.get_rng_state()
    update_discriminator(run, run.G, run.D, 0)
    update_generator(run, run.G, run.D)
    assert torch.equal(before, torch.get_rng_state())


def test_each_player_moves_only_its_own_network(experiment):
    run = experiment()

    def weights(network):
        return [p.detach().clone() for p in network.parameters()]

    G, D = weights(run.G), weights(run.D)
    update_discriminator(run, run.G, run.D, 0)
    assert same(G, weights(run.G))
    assert not same(D, weights(run.D))
    D, gradients = weights(run.D), [p.grad.clone() for p in run.D.parameters()]
    update_generator(run, run.G, run.D)
    assert not same(G, weights(run.G))
    assert same(D, weights(run.D))
    assert same(gradients, [p.grad for p in run.D.parameters()])
    assert all(p.requires_grad for p in run.D.parameters())


def d_gradients(run, d_step):
    update_discriminator(run, run.G, run.D, d_step)
    return [p.grad for p in run.D.parameters()]


def test_a_lazy_penalty_counts_for_the_steps_between(experiment):
    lazy, strong, none = "{r1: {weight: 3, every: 2}}", "{r1: {weight: 6, every: 1}}", "{r1: null}"
    for d_step, like, unlike in ((0, strong, none), (1, none, strong)):
        gradients = d_gradients(experiment(f"regularizers={lazy}"), d_step)
        assert same(gradients, d_gradients(experiment(f"regularizers={like}"), d_step))
        assert not same(gradients, d_gradients(experiment(f"regularizers={unlike}"), d_step))


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("constant", lambda t: 1),
        ("linear", lambda t: 1 - t),
        ("cosine", lambda t: math.cos(math.pi * t / 2) ** 2),
    ],
)
def test_learning_rates_follow_their_schedule(experiment, schedule, factor):
    run = experiment(f"optimizer.schedule={schedule}", "train.steps=8", "optimizer.generator.lr=0.5")
    for step in (0, 2, 7):
        run.step = step
        training_step(run, run.G, run.D)
        run.step = step
        assert run.optimizer_G.param_groups[0]["lr"] == pytest.approx(0.5 * factor(run.step / 8))
        assert run.optimizer_D.param_groups[0]["lr"] == pytest.approx(2e-4 * factor(run.step / 8))


def test_batch_statistics_do_not_mix_real_and_fake(experiment):
    run = experiment("discriminator.activation_norm=batch")
    x_real, x_fake = torch.rand(2, 6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    alone = run.D(x_real)
    assert torch.equal(discriminate(run.D, Batch(x_real, None, 5 * x_fake, None))[0], alone)


def test_one_pass_over_both_gives_the_logits_of_two(experiment):
    run = experiment()
    x_real, x_fake = torch.rand(2, 6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    together = discriminate(run.D, Batch(x_real, None, x_fake, None))
    torch.testing.assert_close(together, (run.D(x_real), run.D(x_fake)))


def test_latents_are_normal_and_differ_by_purpose(experiment):
    run = experiment()
    z, y = run.inputs.latents(5000, "D", 3)
    assert y is None
    assert z.shape == (5000, 8)
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02
    assert torch.equal(run.inputs.latents(5000, "D", 3)[0], z)
    for purpose in (("G", 3), ("D", 4)):
        assert not torch.equal(run.inputs.latents(5000, *purpose)[0], z)


def test_the_best_value_of_another_metric_is_forgotten(tmp_path, tiny_run):
    folder = tiny_run(tmp_path / "run", "eval.metrics=[confident70]")  # 0, which no KL is below
    resume(folder, "train.steps=6", "eval.metrics=[kl70]")
    scores = {line["step"]: line["metrics/kl70"] for line in numbers(folder) if "metrics/kl70" in line}
    assert load(folder / "checkpoints" / "best.pt")["step"] == min(scores, key=scores.get)


def test_a_finished_run_can_be_asked_for_other_metrics(tmp_path, tiny_run):
    folder = tiny_run(tmp_path / "run", "eval.metrics=[modes70]")
    resume(folder, "eval.metrics=[kl70, modes70]")


def test_every_line_has_its_counters(tmp_path, tiny_run):
    for line in numbers(tiny_run(tmp_path / "run")):
        assert line["d_steps"] == 2 * line["step"]
        assert line["images"] == 8 * line["d_steps"]


def test_numbers_are_logged_when_due_and_at_the_end(tmp_path, tiny_run):
    folder = tiny_run(tmp_path / "run", "train.steps=5", "log.every=2", "lipschitz.every=3", "eval.every=4")
    steps = {
        tag: [line["step"] for line in numbers(folder) if tag in line]
        for tag in ("loss/D", "lipschitz/D/product", "metrics/kl70")
    }
    assert steps == {"loss/D": [2, 4, 5], "lipschitz/D/product": [3, 5], "metrics/kl70": [4, 5]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch.compile's own, of several kinds
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("normalization", ["none", "spectral", "conv_norm"])
def test_a_compiled_run_equals_the_eager_one(tmp_path, tiny_run, normalization):
    chosen = f"discriminator.normalization={normalization}"
    eager, compiled = (
        numbers(tiny_run(tmp_path / flag, chosen, f"train.compile={flag}")) for flag in ("false", "true")
    )
    # Losses and not weights: Adam turns the rounding of a bias before a batch norm, whose gradient is 0, into steps.
    for tag in ("loss/D", "loss/G", "logits/real", "logits/fake"):
        assert [line[tag] for line in compiled] == pytest.approx([line[tag] for line in eager], rel=1e-3, abs=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_is_compiled_after_the_first_step(tmp_path, tiny_run):
    graphs = []
    for steps in (1, 4):
        torch._dynamo.reset()
        counters.clear()
        tiny_run(tmp_path / str(steps), "train.compile=true", f"train.steps={steps}")
        graphs.append((counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())))
    assert graphs[0] == graphs[1]
    assert graphs[0][0] > 0


@pytest.mark.parametrize("option", ["train.amp=bf16", "train.channels_last=false"])
def test_other_number_formats_and_layouts_train_alike(tmp_path, tiny_run, option):
    plain, other = (
        numbers(tiny_run(tmp_path / name, "train.steps=2", *extra)) for name, extra in (("a", ()), ("b", (option,)))
    )
    assert other[0]["loss/D"] == pytest.approx(plain[0]["loss/D"], rel=0.02)
