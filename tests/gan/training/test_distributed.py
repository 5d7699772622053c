"""Runs with several processes, as torchrun starts them, compared with runs in a single process."""

import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from gan.config import Config
from gan.data import ImageData, Sampler, SamplerOptions
from gan.data import stream as stream_module
from gan.objectives.ada import AdaConfig, AdaptiveAugmentation
from gan.objectives.augment import augment
from gan.run.recorder import open_recorder
from gan.runtime import distributed, rng
from gan.runtime.distributed import local_shard
from gan.runtime.interrupt import Interrupt
from gan.training import loop
from gan.training.inputs import Inputs, UpdateInputs
from tests.gan.runs import Killed, assert_same_runs, load_newest, read_files, read_numbers, same
from train_gan import main

ROOT = Path(__file__).parents[3]
slow = pytest.mark.slow

# One process of a job. It may fail in a given step of the first attempt, and it saves its last state for the test. Rank
# 1 has other initial weights than rank 0, as it may happen on another machine.
PROCESS = """
import os, signal, sys, torch
import train_gan
from gan.training import loop
from gan.runtime.errors import UserError

torch.set_num_threads(1)
failure, failing_rank, failing_step, folder, *arguments = sys.argv[1:]
rank = os.environ["RANK"]
training_step, train, build = loop.training_step, train_gan.train, train_gan.build_experiment

def fail():
    if failure == "user error":
        raise UserError("the disk is full")
    if failure == "signal":
        return signal.raise_signal(signal.SIGTERM)
    if failure == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise KeyError("unexpected")

def step_or_fail(experiment, *networks):
    is_first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if failure != "none" and failing_rank in (rank, "all") and experiment.step == int(failing_step) and is_first:
        fail()
    return training_step(experiment, *networks)

def build_differently(*arguments):
    experiment = build(*arguments)
    for network, _ in experiment.networks.values() if rank == "1" else ():
        for tensor in network.state_dict().values():
            tensor.add_(1)
    return experiment

def train_and_save_state(experiment, *others):
    train(experiment, *others)
    torch.save(experiment.state_dict(), f"{folder}/state-{rank}.pt")

loop.training_step, train_gan.train, train_gan.build_experiment = step_or_fail, train_and_save_state, build_differently
sys.exit(train_gan.main(arguments))
"""

# A large eps, so that Adam does not amplify gradients that are 0 except for rounding, as for a bias before batch norm.
ADAM = "{eps: 1e-3, lr: 5e-5}"
LARGE_EPS = (f"optimizer={{generator: {ADAM}, discriminator: {ADAM}}}",)
# Without sync_batch_norm, batch statistics differ between the processes.
NO_BATCH_NORM = ("generator.activation_norm=layer",)
ALL_RANDOM_OPTIONS = (
    "data={conditional: true, horizontal_flip: true, dequantize: true}",
    "train.augment=[ada, color, translation, cutout]",
    "train.ada={p: 0.3, kimg: 0.5, every: 2}",
    "regularizers={r1: {weight: 0.1}, gradient_penalty: {every: 2}, dragan: {every: 3}, srip: {every: 2}}",
    "regularizers={lecam: {start: 3}, bcr: {every: 2}, zcr: {}}",
)
RECIPES = {
    "all random options": (*NO_BATCH_NORM, *LARGE_EPS, *ALL_RANDOM_OPTIONS),
    "relativistic, streamed": (
        *(*NO_BATCH_NORM, *LARGE_EPS),
        *("loss=relativistic", "data.device_budget_gb=0", "train.first=generator", "train.generator_batch_size=4"),
    ),
    "spectral": (
        *NO_BATCH_NORM,
        *("discriminator.normalization=spectral", "generator.normalization=spectral", "train.channels_last=true"),
    ),
    "running average": (*NO_BATCH_NORM, "discriminator.normalization={name: conv_norm, running_average: true}"),
    "synced batch norm": (
        *LARGE_EPS,
        *("train.sync_batch_norm=true", "discriminator.activation_norm=batch", "data.conditional=true"),
    ),
}
RARELY = [f"{key}=100" for key in ("eval.every", "checkpoint.every", "lipschitz.every", "lipschitz.audit_every")]


@pytest.fixture
def get_arguments(tmp_path, tiny_config):
    """Return a function that returns the arguments of PROCESS for a run of the tiny config."""

    def get(out: Path, *arguments: str, failure=("none", "-", "-")) -> list[str]:
        states = tmp_path / f"states-{out.name}"
        states.mkdir(exist_ok=True)
        config = [] if "--resume" in arguments else ["--config", tiny_config]
        return [str(part) for part in (*failure, states, "--out", out, "--device", "cpu", *arguments, *config)]

    return get


@pytest.fixture
def job(tmp_path, get_arguments, cache):
    """Return a function that trains the tiny config in two processes and returns the completed process of torchrun."""
    script = tmp_path / "process.py"
    script.write_text(PROCESS)

    def train(out: Path, *arguments: str, failure=("none", "-", "-"), restarts=0) -> subprocess.CompletedProcess:
        environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [*(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")]
        command += [f"--max-restarts={restarts}"]
        command += [str(script), *get_arguments(out, *arguments, failure=failure)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    return train


@pytest.fixture
def fast_job(python, get_arguments):
    """Return a function like that of `job` that starts the two processes itself, with the variables of torchrun."""

    def train(out: Path, *arguments: str) -> subprocess.CompletedProcess:
        return python.run_job("-c", PROCESS, *get_arguments(out, *arguments))

    return train


def load_states(out: Path) -> list[dict]:
    """Return the last states of both processes of a job."""
    return [torch.load(out.parent / f"states-{out.name}" / f"state-{rank}.pt") for rank in (0, 1)]


def assert_same_states(a: dict, b: dict):
    assert same(a, b)


def assert_close_numbers(folder: Path, expected: Path):
    lines, expected_lines = read_numbers(folder), read_numbers(expected)
    assert len(lines) == len(expected_lines)
    for line, expected_line in zip(lines, expected_lines, strict=True):
        slope, expected_slope = (numbers.pop("lipschitz/D/slope", 0) for numbers in (line, expected_line))
        assert slope == pytest.approx(expected_slope, rel=0.05)  # rounding affects where gradient ascent ends
        assert line == pytest.approx(expected_line, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("launcher", "recipe", "steps"),
    [("fast_job", "all random options", 6), *(pytest.param("job", recipe, 20, marks=slow) for recipe in RECIPES)],
)
def test_two_processes_equal_one(tmp_path, tiny_run, request, launcher, recipe, steps):
    job = request.getfixturevalue(launcher)
    intervals = (f"eval.every={steps // 2}", f"lipschitz.every={steps // 2}", f"lipschitz.audit_every={steps}")
    arguments = (f"train.steps={steps}", *intervals, *RECIPES[recipe])
    one = tiny_run(tmp_path / "one", *arguments)
    done = job(tmp_path / "two", *arguments)
    assert done.returncode == 0, done.stderr
    assert_close_numbers(tmp_path / "two", one)
    assert_same_states(*load_states(tmp_path / "two"))
    states = [load_newest(tmp_path / name) for name in ("two", "one")]
    for name in ("regularizers.lecam", "ada"):
        torch.testing.assert_close(*(state.get(name, {}) for state in states), rtol=1e-3, atol=1e-4)
    # Only rank 0 writes and prints.
    names, expected = ({name for name in read_files(run) if "tfevents" not in name} for run in (tmp_path / "two", one))
    assert names == expected
    assert len(list((tmp_path / "two").glob("*tfevents*.v2"))) == 1
    assert done.stdout.count("run folder:") == 1
    assert done.stdout.count(f"step {steps}/{steps}") == 2  # losses, then metrics
    assert "warning" not in done.stderr


@slow
def test_processes_have_equal_networks_with_local_batch_norm(tmp_path, job):
    done = job(tmp_path / "run", "discriminator.activation_norm=batch", "generator.normalization=spectral")
    assert done.returncode == 0, done.stderr
    first, second = load_states(tmp_path / "run")
    assert_same_states(first, second)
    assert any(name.endswith("running_var") for name in first["G"])


@slow
def test_compiled_run_of_two_processes_is_close_to_eager_run(tmp_path, job):
    for flag in ("false", "true"):
        done = job(tmp_path / flag, *NO_BATCH_NORM, f"train.compile={flag}")
        assert done.returncode == 0, done.stderr
    for tag in ("loss/D", "loss/G"):
        eager, compiled = ([line[tag] for line in read_numbers(tmp_path / flag)] for flag in ("false", "true"))
        assert compiled == pytest.approx(eager, rel=1e-3, abs=1e-4)


@slow
@pytest.mark.parametrize(
    ("failure", "rank", "exit_code", "message"),
    [
        ("user error", "0", 2, "error: the disk is full"),
        ("crash", "1", 1, "KeyError: 'unexpected'"),
        ("kill", "1", -9, "SIGKILL"),
    ],
)
def test_failure_of_one_process_ends_the_job(tmp_path, job, failure, rank, exit_code, message):
    done = job(tmp_path / "run", "train.steps=1000", failure=(failure, rank, "3"))
    assert done.returncode != 0
    assert message in done.stderr
    assert done.stderr.index(f"exitcode  : {exit_code} ") > done.stderr.index("Root Cause")
    assert read_numbers(tmp_path / "run")[-1]["step"] == 3
    if failure != "kill":
        assert done.stderr.count(message) == 1
        assert "gloo" not in done.stderr  # the error that follows in the other process is not printed


@slow
@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("trian.steps=3", "error: command line: trian.steps=3: trian: unknown key"),
        ("train.generator_batch_size=5", "error: train.generator_batch_size=5 cannot be divided evenly"),
    ],
)
def test_error_in_both_processes_is_printed_once(tmp_path, job, argument, error):
    done = job(tmp_path / "run", argument)
    assert done.returncode != 0
    assert done.stderr.count(error) == done.stderr.count("error: ") == 1
    assert not (tmp_path / "run").exists()


@slow
def test_resume_of_failed_job_is_bit_equal(tmp_path, job):
    arguments = ("train.steps=5", "discriminator.normalization=spectral", "discriminator.activation_norm=batch")
    uninterrupted, failed = tmp_path / "uninterrupted", tmp_path / "failed"
    assert job(uninterrupted, *arguments).returncode == 0
    assert job(failed, *arguments, failure=("crash", "all", "3")).returncode != 0
    assert load_newest(failed)["step"] == 2
    assert job(failed, "--resume").returncode == 0
    assert read_numbers(failed) == read_numbers(uninterrupted)
    assert_same_states(load_states(failed)[0], load_states(uninterrupted)[0])


@slow
def test_restarted_job_continues_from_checkpoint(tmp_path, job):
    arguments = ("train.steps=5", "discriminator.normalization=spectral", "discriminator.activation_norm=batch")
    uninterrupted, restarted = tmp_path / "uninterrupted", tmp_path / "restarted"
    assert job(uninterrupted, *arguments).returncode == 0
    done = job(restarted, *arguments, failure=("kill", "1", "3"), restarts=1)
    assert done.returncode == 0, done.stderr
    assert f"{restarted}: step 2 of 5 on cpu" in done.stdout
    assert_same_runs(restarted, uninterrupted)
    assert_same_states(load_states(restarted)[0], load_states(uninterrupted)[0])


@pytest.fixture
def torchrun(monkeypatch):
    """Let this process be the only one of a job that torchrun has started, with the store of its agent."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in (("USE_AGENT_STORE", "True"), ("RUN_ID", "none"), ("RESTART_COUNT", "0")):
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(store.port)), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("train_gan.process_group", lambda device: nullcontext())
    return store  # it lives as long as this object


def kill_in_step(patch, number: int) -> None:
    training_step = loop.training_step

    def step_or_die(experiment, *networks):
        if experiment.step == number:
            raise Killed
        return training_step(experiment, *networks)

    patch.setattr(loop, "training_step", step_or_die)


@pytest.mark.usefixtures("short_slope_search")
@pytest.mark.parametrize(
    ("options", "killed_in", "continued_from"),
    [(["--out", "given"], 1, 0), ([], 3, 2)],
    ids=["given folder, no checkpoint", "numbered folder"],
)
def test_restarted_attempt_continues_run_of_first(
    tmp_path, tiny_config, finished_run, torchrun, monkeypatch, capsys, options, killed_in, continued_from
):
    monkeypatch.chdir(tmp_path)
    name = f"{tmp_path.name}-tiny"
    if not options:
        (tmp_path / "runs" / name).mkdir(parents=True)  # so that the run is not the first with its name
    folder = Path("given" if options else f"runs/{name}-2")
    arguments = ["--config", str(tiny_config), "--device", "cpu", *options]
    with monkeypatch.context() as patch:
        kill_in_step(patch, killed_in)
        with pytest.raises(Killed):
            main(arguments)
    capsys.readouterr()
    assert main(arguments) == 0
    assert f"{folder}: step {continued_from} of 4 on cpu in fp32\n" in capsys.readouterr().out
    assert_same_runs(finished_run, folder)


@pytest.mark.usefixtures("short_slope_search")
def test_restarted_attempt_starts_new_run_if_first_died_before_writing(tmp_path, tiny_config, torchrun, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--config", str(tiny_config), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr("train_gan.run_folder.write_config", Mock(side_effect=Killed))
        with pytest.raises(Killed):
            main(arguments)
    assert main(arguments) == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [f"{tmp_path.name}-tiny"]


def test_restarted_attempt_does_not_continue_run_of_another_job(tiny_config, copied_run, torchrun, monkeypatch, capsys):
    for attempt in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        assert main(["--config", str(tiny_config), "--device", "cpu", "--out", str(copied_run)]) == 2
        assert "already contains a run; add --resume to continue it" in capsys.readouterr().err


@slow
def test_signal_of_one_process_stops_all_at_next_logged_step(tmp_path, job):
    arguments = ("train.steps=8", "log.every=3", *RARELY, "discriminator.activation_norm=batch")
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    assert job(uninterrupted, *arguments).returncode == 0
    done = job(stopped, *arguments, failure=("signal", "1", "3"))
    assert "SIGTERM: training until the next step that is logged and writing a checkpoint" in done.stderr
    assert done.stderr.count("interrupted at step 6, with a checkpoint; --resume continues from here") == 1
    assert "exitcode  : 143" in done.stderr
    assert load_newest(stopped)["step"] == 6
    assert job(stopped, "--resume").returncode == 0
    assert read_numbers(stopped) == read_numbers(uninterrupted)
    assert_same_states(load_states(stopped)[0], load_states(uninterrupted)[0])


@slow
def test_resume_with_another_number_of_processes(tmp_path, tiny_run, job):
    one = tiny_run(tmp_path / "one", *NO_BATCH_NORM, "train.steps=6")
    tiny_run(tmp_path / "run", *NO_BATCH_NORM)
    assert job(tmp_path / "run", "--resume", "train.steps=6").returncode == 0
    assert_close_numbers(tmp_path / "run", one)


@pytest.fixture
def process(monkeypatch):
    """Return a context in which this process has the given rank among `world_size` processes."""

    @contextmanager
    def set_rank(rank: int, world_size: int):
        with monkeypatch.context() as patch:
            patch.setattr(dist, "is_initialized", lambda: True)
            patch.setattr(dist, "get_rank", lambda: rank)
            patch.setattr(dist, "get_world_size", lambda: world_size)
            yield

    return set_rank


@pytest.fixture
def messages(process, monkeypatch):
    """Let this process be rank 0 of two equal processes, and return the list of the sizes of its messages."""
    sizes = []

    def all_reduce(tensor, op=dist.ReduceOp.SUM):
        sizes.append(tensor.numel())
        if op == dist.ReduceOp.SUM:
            tensor *= 2

    def gather_objects(parts, value):
        sizes.append("objects")
        parts[:] = [value] * len(parts)

    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(dist, "broadcast_object_list", lambda values: sizes.append("objects"))
    monkeypatch.setattr(dist, "all_gather_object", gather_objects)
    monkeypatch.setattr(dist, "all_gather", lambda parts, value: [part.copy_(value) for part in parts])
    with process(0, 2):
        yield sizes


@pytest.mark.parametrize("accumulate", [1, 2])
def test_step_that_is_not_logged_sends_one_message_per_update(tmp_path, build, messages, monkeypatch, accumulate):
    options = ("discriminator.activation_norm=batch", f"train.accumulate={accumulate}")
    experiment = build("train.steps=6", "log.every=3", *RARELY, *options)
    training_step, first_message = loop.training_step, []

    def mark_and_step(*arguments):
        first_message.append(len(messages))
        return training_step(*arguments)

    monkeypatch.setattr(loop, "training_step", mark_and_step)
    loop.train(experiment, tmp_path, Interrupt())
    G, D = (sum(p.numel() for p in network.parameters()) for network in (experiment.G, experiment.D))
    sent = [messages[a:b] for a, b in pairwise(first_message)]
    assert [sent[k] for k in (0, 1, 3, 4)] == [[D, D, G]] * 4
    assert len(sent[2]) > 3


def test_averaged_batch_statistics_are_those_of_both_generators(build, process, monkeypatch):
    experiment = build()
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.add_(2))  # another process with larger values
    with process(0, 2):
        experiment.average_batch_statistics()
    for network in (experiment.G, experiment.ema.network):
        means = [buffer for name, buffer in network.named_buffers() if name.endswith("running_mean")]
        assert means
        assert all(torch.equal(mean, torch.ones_like(mean)) for mean in means)


def test_tensors_are_averaged_in_their_own_memory_formats(process, monkeypatch):
    images = torch.rand(2, 3, 4, 5)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    tensors = [channels_last, images.clone(), images.clone()[:, :, 1], torch.rand(3, 2).T]
    originals, strides = [t.clone() for t in tensors], [t.stride() for t in tensors]
    other = torch.rand(sum(t.numel() for t in tensors))
    sent = []

    def all_reduce(flat):
        sent.append(flat.clone())
        flat += other

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    with process(0, 2):
        distributed.all_reduce_mean(tensors)
    assert [t.stride() for t in tensors] == strides
    (flat,) = sent
    assert torch.equal(flat[:120].view(2, 4, 5, 3), images.permute(0, 2, 3, 1))  # the order of channels_last
    means = ((flat + other) / 2).split([t.numel() for t in tensors])
    assert torch.equal(tensors[0], means[0].view(2, 4, 5, 3).permute(0, 3, 1, 2))
    for tensor, original, mean in list(zip(tensors, originals, means, strict=True))[1:]:
        assert torch.equal(tensor, mean.view(original.shape))


def pixels(count: int) -> ImageData:
    random = rng.generator("cpu", 0, "pixels")
    return ImageData(torch.randint(256, (count, 1, 8, 8), generator=random).byte(), torch.arange(count), count)


@pytest.mark.parametrize("budget", [1.0, 0.0])
def test_shards_of_all_processes_form_the_batch(process, budget):
    options = SamplerOptions(horizontal_flip=True, dequantize=True)
    whole = Sampler(pixels(100), options, 0, torch.device("cpu")).batch(90, 12)
    parts = []
    for rank in range(3):
        with process(rank, 3):
            sampler = Sampler(pixels(100), replace(options, device_budget_gb=budget), 0, torch.device("cpu"))
            parts.append(sampler.batch(90, 12))
            sampler.close()
    for k in range(2):
        assert torch.equal(torch.cat([part[k] for part in parts]), whole[k])


def test_parts_of_all_processes_form_the_batch(process):
    options = SamplerOptions(horizontal_flip=True, dequantize=True)
    sampler = Sampler(pixels(100), options, 0, torch.device("cpu"))
    inputs = Inputs(sampler, 4, None, 0, torch.device("cpu"), channels_last=False)
    names = ("color", "translation", "cutout", "flip")

    def draw(num_parts):
        update = UpdateInputs(inputs, "D", 12, 12, num_parts)
        update.load(3, 90)
        for part in update.parts:
            with part.as_shard():
                x, (z, _) = part.real_images()[0], part.latents()
                yield x, z, augment(x, names, part.augmentation)

    (whole,) = draw(1)
    parts = []
    for rank in range(3):
        with process(rank, 3):
            parts += draw(2)
    for tensor, shards in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(shards), tensor)


def test_shards_are_gathered_in_advance(process, monkeypatch):
    gather, gathered = stream_module.gather, []
    monkeypatch.setattr(stream_module, "gather", lambda *a: gathered.append(a[2]) or gather(*a))
    with process(1, 2):
        sampler = Sampler(pixels(1000), SamplerOptions(device_budget_gb=0.0), 0, torch.device("cpu"))
        for k in range(10):
            sampler.batch(10 * k, 10)
        sampler.close()
    assert {len(index) for index in gathered} == {5}
    assert 10 <= len(gathered) <= 10 + 2 * stream_module.BATCHES_AHEAD  # all batches are used except those in advance


def test_augmentation_of_shards_equals_augmentation_of_batch(process):
    x = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    ada = AdaptiveAugmentation(AdaConfig(p=0.5), 3, 8, 12)

    def apply(x):
        return augment(x, ("ada", "color", "translation", "cutout"), torch.Generator().manual_seed(1), ada)

    parts = []
    for rank in range(3):
        with process(rank, 3):
            parts.append(apply(local_shard(x)))
    torch.testing.assert_close(torch.cat(parts), apply(x))


def test_only_rank_zero_has_a_recorder(process, tmp_path):
    with process(1, 2), open_recorder(tmp_path, Config(), 0, "D", {}) as recorder:
        assert recorder is None
    assert list(tmp_path.iterdir()) == []
    with open_recorder(tmp_path, Config(), 0, "D", {}) as recorder:
        assert recorder.progress is not None


def test_too_few_cuda_devices_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("TORCHELASTIC_RUN_ID", "0"), ("LOCAL_WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    context = distributed.process_group(torch.device("cuda"))
    with pytest.raises(distributed.UserError, match="2 processes for 1 CUDA devices; use --nproc_per_node=1"):
        context.__enter__()
