"""The list of runs, from copies of one finished run."""

import json
import shutil
from pathlib import Path

import pytest

from gan.run.lock import LOCK, hold_lock
from gan.runs import describe_metric, main


@pytest.fixture
def runs(tmp_path, finished_run) -> Path:
    """A folder with a run of each status, one of them in a folder of its own, and one whose config is damaged."""
    folder = tmp_path / "runs"
    for name in ("diverged", "finished", "unreadable", "stopped", "group/training"):
        shutil.copytree(finished_run, folder / name)
    for name in ("diverged", "stopped", "group/training"):
        (folder / name / "generator.safetensors").unlink()
    entry = {"step": 2, "then": "stopped", "not_finite": ["loss/D"]}
    (folder / "diverged" / "divergence.json").write_text(json.dumps([entry]))
    (folder / "unreadable" / "config.yaml").write_text("sed: 1")
    log = folder / "stopped" / "metrics.jsonl"
    log.write_text(json.dumps({"step": 1, "images": 8, "loss/D": 1.0, "speed/images_per_s": 0.1}) + "\n")
    return folder


def test_every_run_has_its_status(runs, finished_run, capsys):
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    values = {line["step"]: line["metrics/fd_digits70_test"] for line in lines if "metrics/fd_digits70_test" in line}
    best = min(values, key=lambda step: values[step])
    metric = ["fd_digits70_test", f"{values[best]:.4g}", f"({best})", f"{values[max(values)]:.4g}"]
    with hold_lock(runs / "group" / "training" / LOCK):
        assert main([str(runs)]) == 0
    table, explanation, unreadable = capsys.readouterr().out.split("\n\n")
    assert max(map(len, explanation.splitlines())) <= 80
    rows = {words[0]: words[1:] for words in map(str.split, table.splitlines()[1:])}
    network = ["dcgan", "spectral"]
    assert rows["finished"][:-1] == [*network, "4/4", "finished", *metric]
    assert rows["diverged"][:-1] == [*network, "4/4", "diverged", *metric]
    assert rows["group/training"][:-1] == [*network, "4/4", "running", *metric]
    assert rows["stopped"] == [*network, "1/4", "interrupted", "2:40"]  # 16 images a step
    assert unreadable.startswith("unreadable: ")
    assert "sed: unknown key" in unreadable


def test_a_run_itself_can_be_listed(finished_run, capsys):
    assert main([str(finished_run)]) == 0
    assert " finished " in capsys.readouterr().out.splitlines()[1]


def test_best_value_depends_on_the_metric():
    values = [3.0, 2.0, None, 2.5]
    for name, best in (("fd_digits70_test", "2 (2)"), ("accuracy_test", "3 (1)"), ("frog", "")):
        lines = [{"step": step, f"metrics/{name}": value} for step, value in enumerate(values, start=1)]
        assert describe_metric(lines) == (name, best, "2.5")
