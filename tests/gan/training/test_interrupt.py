import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gan.evaluation import evaluator
from gan.run.checkpoint import load
from gan.run.logging import read_metrics
from gan.runtime.interrupt import Interrupt
from gan.training import loop, step
from tests.conftest import TINY
from tests.gan.runs import numbers, same
from train_gan import main

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def ctrl_c_works():
    """A test run in a shell's background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="module")
def two_batches():
    """An evaluation of the tiny config's 70 images takes two batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gan.evaluation.features.BATCH_SIZE", 35)
        yield


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, classifier, two_batches):
    """The run that no signal disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.yaml").write_text(TINY)
    assert main(["--config", str(folder / "tiny.yaml"), "--device", "cpu", "--out", str(folder / "run")]) == 0
    return folder / "run"


def signalled(patch, number, owner, name, call):
    """Let this process send itself a signal at the n-th call of a function."""
    original, calls = getattr(owner, name), itertools.count()

    def function(*arguments):
        if next(calls) == call:
            signal.raise_signal(number)
        return original(*arguments)

    patch.setattr(owner, name, function)


def assert_same_ends(a, b):
    assert numbers(a) == numbers(b)
    for name in ("checkpoints/step_00000004.pt", "checkpoints/best.pt"):
        assert same(load(a / name), load(b / name)), name
    for name in ("generator.safetensors", "samples/step_00000004.png", "samples/step_00000002.png"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


MOMENTS = {
    "between D steps": (step, "draw_batch", 1, 1),
    "at the end of a step": (step, "update_generator", 2, 3),
    "while the networks are measured": (loop, "lipschitz_numbers", 0, 2),
    "between batches of an evaluation": (evaluator, "to_uint8", 0, 2),
    "in the last step": (step, "update_generator", 3, 4),
    "while a checkpoint is written": (torch, "save", 0, 2),
}


@pytest.mark.parametrize(("owner", "name", "call", "stopped_at"), MOMENTS.values(), ids=MOMENTS)
def test_a_signal_ends_a_run_with_a_checkpoint_and_its_code(
    tmp_path, tiny_config, whole_run, capfd, monkeypatch, owner, name, call, stopped_at
):
    number, code = (signal.SIGINT, 130) if stopped_at == 1 else (signal.SIGTERM, 143)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    out = tmp_path / "signalled"
    with monkeypatch.context() as patch:
        signalled(patch, number, owner, name, call)
        assert main(["--config", str(tiny_config), "--device", "cpu", "--out", str(out)]) == code
    said = capfd.readouterr().err
    assert f"{signal.Signals(number).name}: finishing the step and writing a checkpoint" in said
    assert said.endswith(f"interrupted at step {stopped_at}, with a checkpoint; --resume continues from here\n")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert load(out / "checkpoints" / f"step_{stopped_at:08d}.pt")["step"] == stopped_at
    last = numbers(out)[-1]
    assert last["step"] == stopped_at
    assert not any(tag.startswith("metrics/") for tag in last)
    assert main(["--out", str(out), "--device", "cpu", "--resume"]) == 0
    assert_same_ends(whole_run, out)


def start(*command: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


LONG_STEP = """\
import sys, time
from pathlib import Path
from gan.runtime.interrupt import Interrupt
with Interrupt():
    Path(sys.argv[1]).touch()
    time.sleep(60)
    time.sleep(60)
"""


def test_a_second_ctrl_c_ends_the_process_at_once(tmp_path):
    process = start("-c", LONG_STEP, tmp_path / "ready")
    wait_for((tmp_path / "ready").exists, process)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert "Ctrl-C ends at once" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested is None


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["step", "evaluation"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_default_run_ends_within_ten_seconds_of_a_signal(tmp_path, moment, number, code):
    out = tmp_path / "run"
    process = start("train_gan.py", "--device", "cpu", "--out", out, "log.every=1", "eval.every=2", "lipschitz.every=4")
    steps = 2 if moment == "evaluation" else 3  # the evaluation of step 2 comes after its first log entry
    wait_for(lambda: len(read_metrics(out)) >= steps, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)  # the promise
    assert process.returncode == code, errors
    assert list((out / "checkpoints").glob("step_*.pt"))
