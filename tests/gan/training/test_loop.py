import json
import math
import shutil

import pytest
import torch

from gan.objectives.regularizers import Batch
from gan.run.checkpoint import load
from gan.run.logging import read_metrics
from gan.run.recorder import Recorder
from gan.runtime import signed
from gan.runtime.interrupt import Interrupt
from gan.training import loop
from gan.training.lipschitz import lipschitz_numbers
from gan.training.step import (
    discriminate,
    due_penalties,
    prepare_step,
    training_step,
    update_discriminator,
    update_generator,
)
from gan.training.warnings import TrainingWarnings
from tests.event_files import read_steps
from tests.gan.runs import Killed, assert_same_runs, load_newest, read_numbers, resume, same

pytestmark = pytest.mark.usefixtures("short_slope_search")


@pytest.fixture
def kill_after(monkeypatch):
    """Return a function that makes the next run fail after the given step, before the next one."""

    def patch(step):
        original = loop.training_step

        def training_step(experiment, G, D):
            if experiment.step == step:
                monkeypatch.setattr(loop, "training_step", original)
                raise Killed
            return original(experiment, G, D)

        monkeypatch.setattr(loop, "training_step", training_step)

    return patch


def update_D(experiment, step=0):
    """Do the first update of D in a step."""
    experiment.step = step
    prepare_step(experiment)
    inputs, penalties = experiment.step_inputs.discriminator[0], due_penalties(experiment)[0]
    return update_discriminator(experiment, experiment.G, experiment.D, inputs, penalties)


def update_G(experiment):
    """Do the update of G in the first step."""
    prepare_step(experiment)
    return update_generator(experiment, experiment.G, experiment.D, experiment.step_inputs.generator)


RECIPES = {
    "conv_norm": ["discriminator.normalization=conv_norm"],
    "conv_norm running average": ["discriminator.normalization={name: conv_norm, running_average: true}"],
    "spectral": ["discriminator.normalization=spectral", "generator.normalization=spectral"],
    "none": ["discriminator.normalization=none", "discriminator.activation_norm=batch", "optimizer.schedule=cosine"],
    "schedules": [
        "discriminator.normalization=none",
        "optimizer.generator.lr={start: 1e-3, end: 0}",
        "optimizer.discriminator.betas=[0.0, {start: 0.9, end: 0.99, kimg: 0.05}]",
        "regularizers.r1={weight: {start: 1, end: 0.1}, every: 1}",
        "train.ema_halflife_kimg={start: 0, end: 1, schedule: linear, kimg: 0.05}",
        "train.augment=[ada]",
        "train.ada={p: {start: 0, end: 0.5}, target: null, cutout: 1}",
    ],
    "all random options": [
        "loss=relativistic",
        "train.first=generator",
        "train.augment=[ada, color, translation, cutout]",
        "train.ada={p: 0.3, kimg: 0.5, every: 2}",
        "data={horizontal_flip: true, dequantize: true}",
        "regularizers={gradient_penalty: {every: 2}, dragan: {}, srip: {}, spectral_reg: {}}",
        "regularizers={lecam: {start: 3}, bcr: {every: 2}, zcr: {}}",
    ],
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(overrides, id=name, marks=() if name in ("conv_norm", "all random options") else pytest.mark.slow)
        for name, overrides in RECIPES.items()
    ],
)
def recipe(request) -> list[str]:
    """Return the overrides of a recipe."""
    return request.param


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, short_slope_search, tiny_run, recipe):
    """Return the folder of a finished run with a recipe. Tests must not change it."""
    return tiny_run(tmp_path_factory.mktemp("uninterrupted") / "run", *recipe)


@pytest.fixture(scope="module")
def longer_run(tmp_path_factory, short_slope_search, tiny_run):
    """Return the folder of a finished run of 6 steps instead of 4. Tests must not change it."""
    return tiny_run(tmp_path_factory.mktemp("longer") / "run", "train.steps=6")


def test_resume_after_kill_is_bit_equal(tmp_path, tiny_run, uninterrupted, kill_after, recipe):
    kill_after(3)
    with pytest.raises(Killed):
        tiny_run(tmp_path / "killed", *recipe)
    assert load_newest(tmp_path / "killed")["step"] == 2
    assert read_numbers(tmp_path / "killed")[-1]["step"] == 3
    resume(tmp_path / "killed")
    assert_same_runs(uninterrupted, tmp_path / "killed")


def test_resume_before_first_checkpoint_starts_again(
    tmp_path, tiny_run, finished_run, kill_after, event_files_in_order
):
    kill_after(1)
    with pytest.raises(Killed):
        tiny_run(tmp_path / "killed")
    resume(tmp_path / "killed")
    assert_same_runs(finished_run, tmp_path / "killed")
    assert read_steps(tmp_path / "killed", "2_loss/D") == [1, 2, 3, 4]


def kill_before_evaluation(patch, step):
    def evaluate(experiment, *others):
        if experiment.step == step:
            raise Killed
        original(experiment, *others)

    original = loop.evaluate
    patch.setattr(loop, "evaluate", evaluate)


def kill_before_metrics_are_logged(patch, step):
    """The sample grid and the best checkpoint are already written then."""

    def log(self, counters, numbers):
        if counters["step"] == step and "metrics/kl70" in numbers:
            raise Killed
        original(self, counters, numbers)

    original = Recorder.log
    patch.setattr(Recorder, "log", log)


@pytest.mark.parametrize(
    ("kill", "step"),
    [
        pytest.param(kill_before_evaluation, 2, id="before the first evaluation"),
        pytest.param(kill_before_evaluation, 4, id="before the last evaluation", marks=pytest.mark.slow),
        pytest.param(kill_before_metrics_are_logged, 2, id="after the first evaluation", marks=pytest.mark.slow),
        pytest.param(kill_before_metrics_are_logged, 4, id="after the last evaluation"),
    ],
)
def test_resume_repeats_missing_evaluation(tmp_path, tiny_run, finished_run, monkeypatch, kill, step):
    with monkeypatch.context() as patch:
        kill(patch, step)
        with pytest.raises(Killed):
            tiny_run(tmp_path / "killed")
    assert load_newest(tmp_path / "killed")["step"] == step
    last = read_numbers(tmp_path / "killed")[-1]
    assert last["step"] == step
    assert "loss/D" in last
    assert "metrics/kl70" not in last
    resume(tmp_path / "killed")
    assert_same_runs(finished_run, tmp_path / "killed")


def test_resume_without_metrics_repeats_missing_samples_only(tmp_path, tiny_run):
    folder = tiny_run(tmp_path / "run", "eval.metrics=[]")
    samples = folder / "samples" / "step_00000004.png"
    before = samples.read_bytes()
    samples.unlink()
    resume(folder)
    assert samples.read_bytes() == before
    written = samples.stat().st_mtime_ns
    resume(folder)
    assert samples.stat().st_mtime_ns == written


def test_resume_of_run_folder_from_previous_version(copied_run, longer_run, monkeypatch):
    """Checkpoints had the keys `best`, `best_by` and `measured`, and the log had a single line for each step."""
    folder = copied_run
    scores = [line["metrics/fd_digits70_test"] for line in read_metrics(folder)[1::2]]
    for path in (folder / "checkpoints").iterdir():
        state = load(path) | {"best": min(scores), "best_by": "fd_digits70_test", "measured": None}
        with path.open("wb") as file:
            signed.save(state, file)
    log = folder / "metrics.jsonl"
    assert len(log.read_text().splitlines()) == 6  # 4 with losses, 2 with metrics
    log.write_text("".join(json.dumps(line) + "\n" for line in read_metrics(folder)))

    original, evaluated = loop.evaluate, []

    def evaluate(experiment, *others):
        evaluated.append(experiment.step)
        original(experiment, *others)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    resume(folder, "train.steps=6")
    assert evaluated == [6]
    assert read_numbers(folder) == read_numbers(longer_run)
    assert same(load_newest(folder), load_newest(longer_run))
    best = [load(run / "checkpoints" / "best.pt")["step"] for run in (folder, longer_run)]
    assert best[0] == best[1]


def test_resume_skips_damaged_checkpoint(tmp_path, tiny_run, capsys):
    folder = tiny_run(tmp_path / "damaged", "checkpoint.keep=2", "checkpoint.every=1")
    undamaged = shutil.copytree(folder, tmp_path / "undamaged")
    path = folder / "checkpoints" / "step_00000004.pt"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=rf"continuing from step_00000003.pt: cannot read the checkpoint {path}: "):
        resume(folder)
    assert f"{folder}: step 3 of 4 on cpu in fp32\n" in capsys.readouterr().out
    assert_same_runs(undamaged, folder)


def test_resume_keeps_the_lines_around_a_damaged_one(copied_run, longer_run):
    log = copied_run / "metrics.jsonl"
    first, second, *others = log.read_bytes().splitlines(keepends=True)
    damaged = b"".join([b"\xef\xbb\xbf", first, b"\n", second[7:], *others])
    log.write_bytes(damaged)
    with pytest.warns(UserWarning, match=rf"^{log}: 1 line is damaged; .*; kept as metrics.jsonl.damaged$"):
        resume(copied_run, "train.steps=6")
    assert [line["step"] for line in read_numbers(copied_run)] == [1, 2, 3, 4, 5, 6]
    assert [read_numbers(copied_run)[i] for i in (0, 2, 3, 4, 5)] == [
        read_numbers(longer_run)[i] for i in (0, 2, 3, 4, 5)
    ]
    assert (copied_run / "metrics.jsonl.damaged").read_bytes() == damaged


def test_resume_with_more_steps_is_bit_equal(copied_run, longer_run):
    resume(copied_run, "train.steps=6")
    assert_same_runs(longer_run, copied_run)


def test_resume_of_finished_run_changes_nothing(copied_run):
    def read_state():
        return read_numbers(copied_run), (copied_run / "config.yaml").read_bytes(), load_newest(copied_run)

    before = read_state()
    resume(copied_run)
    assert same(read_state(), before)


def test_seeds_differ(build):
    def read_state(seed):
        experiment = build(f"seed={seed}")
        latents, _ = experiment.inputs.latents(8, "D", 0)
        return [clone_parameters(experiment.G), clone_parameters(experiment.D), latents]

    assert same(read_state(0), read_state(0))
    for a, b in zip(read_state(0), read_state(1), strict=True):
        assert not same(a, b)


def test_intervals_do_not_affect_training(tmp_path, tiny_run, uninterrupted, recipe):
    keys = ("log.every", "eval.every", "lipschitz.every", "lipschitz.audit_every", "checkpoint.every")
    rarely = tiny_run(tmp_path / "run", *recipe, *(f"{key}=1000" for key in keys))
    states = load_newest(uninterrupted), load_newest(rarely)
    for name in ("G", "D", "G_ema", "optimizer_G", "optimizer_D"):
        assert same(states[0][name], states[1][name]), name


def test_measuring_changes_neither_networks_nor_global_random_state(build, recipe):
    experiment = build(*recipe)
    update_D(experiment)
    update_G(experiment)

    def read_state():
        networks = (experiment.G, experiment.D, experiment.ema.network)
        modes = [module.training for network in networks for module in network.modules()]
        gradients = [None if p.grad is None else p.grad.clone() for network in networks for p in network.parameters()]
        weights = [{name: t.clone() for name, t in network.state_dict().items()} for network in networks]
        return [torch.get_rng_state(), modes, gradients, weights]

    before = read_state()
    warnings = TrainingWarnings(experiment.config.loss, experiment.inputs.sampler.images)
    loop.evaluate(experiment, None, Interrupt(), warnings)
    loop.fixed_samples(experiment.ema.network, experiment.inputs)
    lipschitz_numbers(experiment)
    assert same(before, read_state())


def test_updates_do_not_use_global_random_state(build, recipe):
    experiment = build(*recipe)
    before = torch.get_rng_state()
    update_D(experiment)
    update_G(experiment)
    assert torch.equal(before, torch.get_rng_state())


def clone_parameters(network):
    return [p.detach().clone() for p in network.parameters()]


def clone_gradients(network):
    return [p.grad.clone() for p in network.parameters()]


def test_each_update_changes_one_network(build):
    experiment = build()
    G, D = clone_parameters(experiment.G), clone_parameters(experiment.D)
    update_D(experiment)
    assert same(G, clone_parameters(experiment.G))
    assert not same(D, clone_parameters(experiment.D))
    D, gradients = clone_parameters(experiment.D), clone_gradients(experiment.D)
    update_G(experiment)
    assert not same(G, clone_parameters(experiment.G))
    assert same(D, clone_parameters(experiment.D))
    assert same(gradients, clone_gradients(experiment.D))
    assert all(p.requires_grad for p in experiment.D.parameters())


def test_lazy_penalty_counts_for_skipped_steps(build):
    def compute_gradients(regularizers, d_step):
        experiment = build(f"regularizers={regularizers}", "train.n_critic=1")
        update_D(experiment, d_step)
        return clone_gradients(experiment.D)

    lazy, strong, none = "{r1: {weight: 3, every: 2}}", "{r1: {weight: 6, every: 1}}", "{r1: null}"
    for d_step, equal, different in ((0, strong, none), (1, none, strong)):
        gradients = compute_gradients(lazy, d_step)
        assert same(gradients, compute_gradients(equal, d_step))
        assert not same(gradients, compute_gradients(different, d_step))


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("constant", lambda t: 1),
        ("linear", lambda t: 1 - t),
        ("cosine", lambda t: math.cos(math.pi * t / 2) ** 2),
    ],
)
def test_learning_rate_schedule(build, schedule, factor):
    experiment = build(f"optimizer.schedule={schedule}", "train.steps=8", "optimizer.generator.lr=0.5")
    for step in (0, 2, 7):
        experiment.step = step
        training_step(experiment, experiment.G, experiment.D)
        assert experiment.optimizer_G.param_groups[0]["lr"] == pytest.approx(0.5 * factor(step / 8))
        assert experiment.optimizer_D.param_groups[0]["lr"] == pytest.approx(2e-4 * factor(step / 8))


def test_batch_norm_does_not_mix_real_and_fake(build):
    D = build("discriminator.normalization=none", "discriminator.activation_norm=batch").D
    x_real, x_fake = torch.rand(2, 6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = D(x_real)
    assert torch.equal(discriminate(D, Batch(x_real, None, 5 * x_fake, None))[0], expected)


def test_one_forward_pass_equals_two(build):
    D = build("discriminator.normalization=conv_norm").D
    x_real, x_fake = torch.rand(2, 6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(discriminate(D, Batch(x_real, None, x_fake, None)), (D(x_real), D(x_fake)))


def test_latents_are_normal_and_differ_by_purpose(build):
    inputs = build().inputs
    z, y = inputs.latents(5000, "D", 3)
    assert y is None
    assert z.shape == (5000, 8)
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02
    assert torch.equal(inputs.latents(5000, "D", 3)[0], z)
    for purpose in (("G", 3), ("D", 4)):
        assert not torch.equal(inputs.latents(5000, *purpose)[0], z)


def test_best_checkpoint_after_change_of_metric(tmp_path, tiny_run):
    folder = tiny_run(tmp_path / "run", "eval.metrics=[confident70]")  # its value is 0, and no KL is smaller
    resume(folder, "train.steps=6", "eval.metrics=[kl70]")
    scores = {line["step"]: line["metrics/kl70"] for line in read_numbers(folder) if "metrics/kl70" in line}
    assert load(folder / "checkpoints" / "best.pt")["step"] == min(scores, key=scores.get)


def test_resume_of_finished_run_with_other_metrics(copied_run):
    assert "metrics/kl60" not in read_numbers(copied_run)[-1]
    resume(copied_run, "eval.metrics=[kl60, modes70]")
    last = read_numbers(copied_run)[-1]
    assert {"metrics/kl60", "metrics/modes70"} <= last.keys()


def test_every_log_entry_has_counters(finished_run):
    for line in read_numbers(finished_run):
        assert line["d_steps"] == 2 * line["step"]
        assert line["images"] == 8 * line["d_steps"]


def test_numbers_are_logged_at_their_intervals_and_at_the_end(tmp_path, tiny_run):
    folder = tiny_run(tmp_path / "run", "train.steps=5", "log.every=2", "lipschitz.every=3", "eval.every=4")
    steps = {
        tag: [line["step"] for line in read_numbers(folder) if tag in line]
        for tag in ("loss/D", "lipschitz/D/product", "metrics/kl70")
    }
    assert steps == {"loss/D": [2, 4, 5], "lipschitz/D/product": [3, 5], "metrics/kl70": [4, 5]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch.compile warns about several things
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("normalization", ["none", "spectral", "conv_norm"])
def test_compiled_run_is_close_to_eager_run(tmp_path, tiny_run, normalization):
    option = f"discriminator.normalization={normalization}"
    eager, compiled = (
        read_numbers(tiny_run(tmp_path / flag, option, f"train.compile={flag}")) for flag in ("false", "true")
    )
    # Weights are not compared. The gradient of a bias before batch norm is 0 except for rounding, and Adam normalizes
    # it to steps of full size.
    for tag in ("loss/D", "loss/G", "logits/real", "logits/fake"):
        assert [line[tag] for line in compiled] == pytest.approx([line[tag] for line in eager], rel=1e-3, abs=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_is_compiled_after_first_step(tmp_path, tiny_run, monkeypatch):
    compile_network, step = torch.compile, loop.training_step
    graphs, counts = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def training_step(*arguments):
        losses = step(*arguments)
        counts.append(len(graphs))
        return losses

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", lambda *args, **options: compile_network(*args, backend=backend, **options))
    monkeypatch.setattr(loop, "training_step", training_step)
    tiny_run(tmp_path / "run", "discriminator.normalization=conv_norm", "train.compile=true")
    assert counts[0] > 0
    assert counts == [counts[0]] * 4
    assert len(graphs) == counts[0]


@pytest.mark.parametrize("option", ["train.precision=bf16", "train.precision=fp16", "train.channels_last=false"])
def test_number_and_memory_formats_hardly_affect_losses(tmp_path, tiny_run, finished_run, option):
    default, changed = (
        read_numbers(run) for run in (finished_run, tiny_run(tmp_path / "run", "train.steps=1", option))
    )
    assert changed[0]["loss/D"] == pytest.approx(default[0]["loss/D"], rel=0.02)
