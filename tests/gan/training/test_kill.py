"""Runs killed by SIGKILL, in processes of their own, against runs left alone."""

import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gan.run.logging import RunLogger, read_metrics
from tests.gan.runs import assert_same_runs, newest, numbers
from train_gan import main

EVERY = ["eval.every=20", "lipschitz.every=5", "lipschitz.audit_every=40", "checkpoint.every=3", "checkpoint.keep=2"]
PATIENCE = 600  # seconds; of a busy machine


@pytest.fixture(scope="module")
def processes(classifier):
    """Where processes come from that have imported the toolkit already when they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["train_gan"])
        yield context


def start(processes, folder: Path, *arguments: str) -> multiprocessing.Process:
    process = processes.Process(target=main, args=(["--out", str(folder), "--device", "cpu", *arguments],))
    process.start()
    return process


def wait_for(process: multiprocessing.Process, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.is_alive(), "it has ended before it could be killed"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.0005)


def half_written(folder: Path) -> list[Path]:
    return list((folder / "checkpoints").glob(".*.tmp"))


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def killed_and_resumed(processes, folder: Path, arguments: list[str], kills: int) -> int:
    """Train a run that is killed so many times, every other time while it writes a checkpoint, and damage the end of
    its log each time; return in how many checkpoints it was killed.
    """
    chance = random.Random(0)
    log = folder / "metrics.jsonl"
    in_checkpoints = 0
    for k in range(kills):
        resume = ["--resume"] if (folder / "config.yaml").exists() else []
        before = size(log)
        process = start(processes, folder, *arguments, *resume)
        wait_for(process, lambda before=before: abs(size(log) - before) > 1000)  # it trains
        time.sleep(chance.uniform(0, 0.5))
        if k % 2:
            left = set(half_written(folder))
            wait_for(process, lambda left=left: set(half_written(folder)) - left)
        process.kill()
        process.join()
        assert process.exitcode == -9
        in_checkpoints += bool(half_written(folder))
        text = log.read_text()
        last = text[text.rindex('{"step"') :]
        log.write_text(text + (last if k % 3 else last[: chance.randrange(1, len(last))]))  # once more, or a part of it
    process = start(processes, folder, *arguments, "--resume")
    process.join()
    return in_checkpoints


def test_a_killed_run_is_bit_equal_to_one_left_alone(processes, tmp_path, tiny_config):
    arguments = ["--config", str(tiny_config), *EVERY, "train.steps=60"]
    killed_and_resumed(processes, tmp_path / "killed", arguments, 2)
    start(processes, tmp_path / "whole", *arguments).join()
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")
    assert newest(tmp_path / "killed")["step"] == 60


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["conv_norm", "spectral"])
def test_a_run_killed_twenty_times_is_bit_equal_to_one_left_alone(processes, tmp_path, tiny_config, normalization):
    chosen = f"discriminator.normalization={normalization}"
    arguments = ["--config", str(tiny_config), *EVERY, "train.steps=1500", chosen]
    in_checkpoints = killed_and_resumed(processes, tmp_path / "killed", arguments, 20)
    assert in_checkpoints >= 5
    start(processes, tmp_path / "whole", *arguments).join()
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")
    assert [line["step"] for line in numbers(tmp_path / "killed")] == list(range(1, 1501))
    assert not half_written(tmp_path / "killed")


def test_lines_that_stand_twice_are_logged_once(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 2}\n{"step": 3}\n{"st')
    RunLogger(tmp_path, 2, to=[]).close()
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]
