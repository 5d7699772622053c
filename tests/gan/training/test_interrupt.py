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
from gan.runtime.interrupt import SIGNALS, Interrupt
from gan.training import loop, step
from tests.conftest import TINY
from tests.gan.runs import assert_same_runs, read_numbers, resume
from train_gan import main

pytestmark = pytest.mark.usefixtures("short_slope_search")

ROOT = Path(__file__).parents[3]
OPTIONS = ("--device", "cpu", "lipschitz.audit_every=4")


@pytest.fixture(autouse=True)
def default_signals():
    """Do not ignore signals, as processes in the background of a shell ignore Ctrl-C, and those of nohup SIGHUP."""
    handlers = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="module")
def two_batches(finished_run):
    """Divide an evaluation of the tiny config, which has 70 images, into two batches.

    `finished_run` has stored the statistics of the real images in the cache. Batches of another size would change them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gan.evaluation.features.BATCH_SIZE", 35)
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, two_batches, short_slope_search):
    """Return the folder of a run without signals."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "tiny.yaml").write_text(TINY)
    assert main(["--config", str(folder / "tiny.yaml"), *OPTIONS, "--out", str(folder / "run")]) == 0
    return folder / "run"


def raise_signal_in_call(patch, signal_number, owner, name, call):
    """Make this process send itself a signal in call number `call` of a function, counted from 0."""
    original, calls = getattr(owner, name), itertools.count()

    def function(*arguments):
        if next(calls) == call:
            signal.raise_signal(signal_number)
        return original(*arguments)

    patch.setattr(owner, name, function)


MOMENTS = {
    "between updates of D": (signal.SIGINT, step, "draw_batch", 1, 1),
    "at the end of a step": (signal.SIGTERM, step, "update_generator", 2, 3),
    "while Lipschitz numbers are computed": (signal.SIGHUP, loop, "lipschitz_numbers", 0, 2),
    "between batches of an evaluation": (signal.SIGUSR1, evaluator, "to_uint8", 0, 2),
    "in the last step": (signal.SIGUSR2, step, "update_generator", 3, 4),
    "while a checkpoint is written": (signal.SIGXCPU, torch, "save", 0, 2),
}


@pytest.mark.parametrize(("number", "owner", "name", "call", "stopped_at"), MOMENTS.values(), ids=MOMENTS)
def test_signal_stops_run_with_checkpoint_and_exit_code(
    tmp_path, tiny_config, uninterrupted, capfd, monkeypatch, number, owner, name, call, stopped_at
):
    code = 128 + number
    handlers = list(map(signal.getsignal, SIGNALS))
    out = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        raise_signal_in_call(patch, number, owner, name, call)
        assert main(["--config", str(tiny_config), *OPTIONS, "--out", str(out)]) == code
    err = capfd.readouterr().err
    assert f"{signal.Signals(number).name}: finishing the step and writing a checkpoint" in err
    assert err.endswith(f"interrupted at step {stopped_at}, with a checkpoint; --resume continues from here\n")
    assert list(map(signal.getsignal, SIGNALS)) == handlers
    assert load(out / "checkpoints" / f"step_{stopped_at:08d}.pt")["step"] == stopped_at
    last = read_numbers(out)[-1]
    assert last["step"] == stopped_at
    assert not any(tag.startswith("metrics/") for tag in last)
    resume(out)
    assert_same_runs(uninterrupted, out)


# Trains a config without a console, as after Ctrl-C in `train_gan.py 2>&1 | tee log`, and receives signals in step 3.
PROGRAM_WITHOUT_CONSOLE = """\
import os, signal, sys
import gan.training.step, train_gan
numbers, arguments = map(int, sys.argv[1].split()), sys.argv[2:]
reading, writing = os.pipe()
signal.signal(signal.SIGINT, signal.default_int_handler)
update_generator = gan.training.step.update_generator
def lose_console_and_update(experiment, *networks):
    if experiment.step == 2:
        os.close(reading)
        for number in numbers: signal.raise_signal(number)
    return update_generator(experiment, *networks)
gan.training.step.update_generator = lose_console_and_update
os.dup2(writing, 1), os.dup2(writing, 2)
sys.exit(train_gan.main(arguments))
"""


@pytest.mark.parametrize("numbers", [(signal.SIGINT,), (signal.SIGHUP, signal.SIGTERM)])
def test_signal_stops_run_without_console(tmp_path, tiny_config, python, numbers):
    out, text = tmp_path / "run", " ".join(str(int(number)) for number in numbers)
    done = python.run("-c", PROGRAM_WITHOUT_CONSOLE, text, "--config", tiny_config, *OPTIONS, "--out", out)
    assert done.returncode == 128 + numbers[-1]
    assert load(out / "checkpoints" / "step_00000003.pt")["step"] == 3


LONG_STEP = """\
import signal, sys, time
from pathlib import Path
from gan.runtime.interrupt import SIGNALS, Interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
with Interrupt():
    Path(sys.argv[1]).touch()
    time.sleep(60)
    time.sleep(60)
"""


def test_second_ctrl_c_kills_process(tmp_path, python):
    process = python.start("-c", LONG_STEP, tmp_path / "ready")
    process.wait_for((tmp_path / "ready").exists)
    process.send_signal(signal.SIGINT)
    process.wait_for(lambda: process.stderr.endswith("\n") and process.stderr != "\n")
    assert process.stderr.startswith("\n")
    assert process.stderr.endswith("Ctrl-C ends at once\n")
    assert process.is_alive()
    process.send_signal(signal.SIGINT)
    assert process.wait().returncode == -signal.SIGINT


def test_handler_of_c_code_is_no_error(monkeypatch):
    monkeypatch.setattr("signal.signal", lambda number, handler: {}[number] if handler is None else None)
    with Interrupt():
        pass


def test_ignored_ctrl_c_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.get_signal() is None


def start_interpreter(*command: object) -> subprocess.Popen:
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
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["step", "evaluation"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_default_run_ends_within_ten_seconds_of_signal(tmp_path, moment, number, code):
    out = tmp_path / "run"
    process = start_interpreter(
        "train_gan.py", "--device", "cpu", "--out", out, "log.every=1", "eval.every=2", "lipschitz.every=4"
    )
    steps = 2 if moment == "evaluation" else 3  # step 2 is logged before it is evaluated
    wait_for(lambda: len(read_metrics(out)) >= steps, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == code, errors
    assert list((out / "checkpoints").glob("step_*.pt"))
