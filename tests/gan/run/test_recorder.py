import json
import os
from pathlib import Path

import pytest

from gan.config import Config, TrainConfig
from gan.run.logging import read_metrics
from gan.run.options import LogConfig
from gan.run.recorder import Throughput, is_due, open_recorder

CONFIG = Config(train=TrainConfig(steps=10), log=LogConfig(to=()))


@pytest.fixture
def recorder(tmp_path):
    with open_recorder(tmp_path, CONFIG, 0, "D", {"loss/D": "D"}) as recorder:
        yield recorder


@pytest.mark.parametrize(
    ("every", "steps"),
    [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7]), (7, [7]), (100, [7])],
)
def test_actions_are_due_every_few_steps_and_after_the_last(every, steps):
    assert [step for step in range(1, 8) if is_due(every, step, last_step=7)] == steps


@pytest.mark.parametrize(("higher_is_better", "best"), [(True, [1, 2, 5]), (False, [1, 3])])
def test_best_value_is_compared_with_all_logged_values(recorder, higher_is_better, best):
    found = []
    for step, value in enumerate([2.0, 3.0, 1.0, 3.0, 4.0, 2.0], start=1):
        if recorder.is_best("metrics/x", value, higher_is_better):
            found.append(step)
        recorder.log({"step": step}, {"metrics/x": value, "metrics/y": 100.0})
    assert found == best


def test_nan_is_never_the_best_value(recorder):
    assert not recorder.is_best("metrics/x", float("nan"), higher_is_better=True)
    recorder.log({"step": 1}, {"metrics/x": float("nan")})
    assert recorder.is_best("metrics/x", 1.0, higher_is_better=True)


def test_numbers_of_one_step_may_be_logged_in_two_lines(recorder, tmp_path):
    recorder.log({"step": 1}, {"loss/D": 0.5})
    assert not recorder.has_logged(1, "metrics/x")
    recorder.log({"step": 1}, {"metrics/x": 2.0})
    assert recorder.has_logged(1, "metrics/x")
    assert not recorder.has_logged(2, "metrics/x")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss/D": 0.5}, {"step": 1, "metrics/x": 2.0}]
    assert read_metrics(tmp_path) == [{"step": 1, "loss/D": 0.5, "metrics/x": 2.0}]


def test_rewind_drops_later_entries(recorder, tmp_path):
    for step in (1, 2, 3):
        recorder.log({"step": step}, {"loss/D": float(step)})
    recorder.rewind(2)
    recorder.log({"step": 3}, {"loss/D": 30.0})
    assert [line["loss/D"] for line in read_metrics(tmp_path)] == [1.0, 2.0, 30.0]


def test_log_is_on_the_disk_before_a_checkpoint(recorder, monkeypatch):
    synced, fsync = [], os.fsync

    def record(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    recorder.log({"step": 1}, {"loss/D": 1.0})
    monkeypatch.setattr("os.fsync", record)
    recorder.save({"step": 1})
    assert synced[0] == "metrics.jsonl"
    assert "step_00000001.pt" in synced[1]


def test_progress_shows_the_chosen_numbers(recorder, capsys):
    recorder.log({"step": 4}, {"loss/D": 0.25, "loss/G": 3.0})
    assert capsys.readouterr().out.startswith("step 4/10  D 0.25  ")
    recorder.log({"step": 5}, {"loss/G": 3.0})
    assert capsys.readouterr().out == ""


def test_throughput_counts_from_the_last_restart(monkeypatch):
    now = 10.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    throughput = Throughput(100)
    now = 12.0
    assert throughput.images_per_second(300) == 100
    throughput.restart(300)
    now = 13.0
    assert throughput.images_per_second(310) == 10
