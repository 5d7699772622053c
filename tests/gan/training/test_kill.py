"""Runs in their own processes that are killed with SIGKILL, compared with uninterrupted runs."""

import random
import time
from pathlib import Path

import pytest

from gan.run.logging import RunLogger, read_metrics
from tests.gan.runs import assert_same_runs, load_newest, read_numbers
from tests.processes import Process, PythonServer

INTERVALS = [
    *("eval.every=20", "lipschitz.every=10", "lipschitz.audit_every=40", "checkpoint.every=3", "checkpoint.keep=2"),
]

# Audits search for the steepest slope in one step, as with the fixture `short_slope_search`.
PROGRAM = """\
import sys
from functools import partial
import gan.evaluation.lipschitz, train_gan
gan.evaluation.lipschitz.steepest_slope = partial(gan.evaluation.lipschitz.steepest_slope, steps=1)
sys.exit(train_gan.main(sys.argv[1:]))
"""


def start(python: PythonServer, folder: Path, *arguments: str) -> Process:
    return python.start("-c", PROGRAM, "--out", folder, "--device", "cpu", *arguments)


def find_temporary_files(folder: Path) -> set[Path]:
    return set((folder / "checkpoints").glob(".*.tmp"))


def get_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def train_with_kills(
    python: PythonServer, folder: Path, arguments: list[str], kills: int, longest_s: float = 0.5
) -> int:
    """Train a run that is killed `kills` times, every second time while it writes a checkpoint.

    Each process is killed at most `longest_s` after its first steps, or at its next checkpoint after that.

    After each kill the last line of the log is appended again, completely or in part. Returns how many times the run
    was killed while it wrote a checkpoint.
    """
    chance = random.Random(0)
    log = folder / "metrics.jsonl"
    killed_in_checkpoint = 0
    for k in range(kills):
        resume = ["--resume"] if (folder / "config.yaml").exists() else []
        before = get_size(log)
        process = start(python, folder, *arguments, *resume)
        process.wait_for(lambda before=before: abs(get_size(log) - before) > 1000)  # training has begun
        time.sleep(chance.uniform(0, longest_s))
        if k % 2:
            leftovers = find_temporary_files(folder)
            process.wait_for(lambda leftovers=leftovers: find_temporary_files(folder) - leftovers, interval_s=0.0005)
        process.kill()
        assert process.wait().returncode == -9
        killed_in_checkpoint += bool(find_temporary_files(folder))
        text = log.read_text()
        last = text[text.rindex('{"step"') :]
        log.write_text(text + (last if k % 3 else last[: chance.randrange(1, len(last))]))
    assert start(python, folder, *arguments, "--resume").wait().returncode == 0
    return killed_in_checkpoint


def test_killed_run_is_bit_equal_to_uninterrupted_run(python, tmp_path, tiny_config):
    arguments = ["--config", str(tiny_config), *INTERVALS, "train.steps=40"]
    train_with_kills(python, tmp_path / "killed", arguments, kills=2, longest_s=0.1)
    assert start(python, tmp_path / "uninterrupted", *arguments).wait().returncode == 0
    assert_same_runs(tmp_path / "uninterrupted", tmp_path / "killed")
    assert load_newest(tmp_path / "killed")["step"] == 40


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["conv_norm", "spectral"])
def test_run_killed_twenty_times_is_bit_equal_to_uninterrupted_run(python, tmp_path, tiny_config, normalization):
    option = f"discriminator.normalization={normalization}"
    arguments = ["--config", str(tiny_config), *INTERVALS, "train.steps=1500", option]
    assert train_with_kills(python, tmp_path / "killed", arguments, kills=20) >= 5
    assert start(python, tmp_path / "uninterrupted", *arguments).wait().returncode == 0
    assert_same_runs(tmp_path / "uninterrupted", tmp_path / "killed")
    assert [line["step"] for line in read_numbers(tmp_path / "killed")] == list(range(1, 1501))
    assert not find_temporary_files(tmp_path / "killed")


def test_duplicate_and_incomplete_lines_are_removed_from_log(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 2}\n{"step": 3}\n{"st')
    RunLogger(tmp_path, 2, to=[]).close()
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]
