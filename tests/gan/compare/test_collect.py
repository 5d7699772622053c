"""Comparisons of runs that exist, from the cells of a finished comparison."""

import json
import shutil

import pytest

from gan.compare.__main__ import main
from gan.compare.csv_files import read_table
from gan.run.lock import LOCK, hold_lock

EARLIER = ("cell", "arm", "discriminator.normalization", "hardware", "peak_memory_mib")  # only cells have these


@pytest.fixture(autouse=True)
def keep_signal_handlers(monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *arguments: None)


@pytest.fixture
def runs(grid, tmp_path):
    """Copies of the runs: two seeds of a normalization, and one of another, which lacks its last steps."""
    names = {"conv_norm-seed0": "a", "conv_norm-seed1": "b-seed1", "none-seed1": "none"}
    for source, name in names.items():
        shutil.copytree(grid / "cells" / source, tmp_path / name)
    (tmp_path / "none" / "generator.safetensors").unlink()
    return [str(tmp_path / name) for name in names.values()]


def test_report_has_the_numbers_of_the_runs(runs, grid, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gan.compare.report.write.write_report", lambda folder, *rest: [folder.root / "report.html"])
    out = tmp_path / "out"
    before = {path: path.read_bytes() for run in runs for path in (tmp_path / run).rglob("*") if path.is_file()}
    with hold_lock(tmp_path / "none" / LOCK):
        assert main(["--runs", *runs, "--out", str(out)]) == 0
    assert {path: path.read_bytes() for run in runs for path in (tmp_path / run).rglob("*") if path.is_file()} == before
    printed = capsys.readouterr().out
    assert f"{runs[1]}: a-seed1, finished\n{runs[2]}: none-seed1, running\n" in printed
    assert f"written: {out}/report.html" in printed
    rows = {row["cell"]: row for row in read_table(out / "results.csv")}
    assert {name: (row["arm"], row["seed"], row["status"]) for name, row in rows.items()} == {
        "a-seed0": ("a", 0, "finished"),
        "a-seed1": ("a", 1, "finished"),
        "none-seed1": ("none", 1, "running"),
    }
    cells = {row["cell"]: row for row in read_table(grid / "results.csv")}
    for name, cell in (("a-seed0", "conv_norm-seed0"), ("a-seed1", "conv_norm-seed1")):
        assert rows[name].items() >= {key: cells[cell][key] for key in cells[cell] if key not in EARLIER}.items()
        assert (out / "curves" / f"{name}.csv").read_bytes() == (grid / "curves" / f"{cell}.csv").read_bytes()
    assert (out / "samples" / "a-seed0.png").read_bytes() == (grid / "samples" / "conv_norm-seed0.png").read_bytes()
    assert (out / "samples" / "real.png").read_bytes() == (grid / "samples" / "real.png").read_bytes()
    description = json.loads((out / "grid.json").read_text())
    assert description["baseline"] == "none"
    assert "--runs" in description["runs"][0]["command"]
    assert main(["--report", str(out), "--baseline", "a"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}", "{0}/../a", "--out", "new"], "have the same config and seed; name one of them"),
        (["{0}", "{2}", "--out", "{grid}"], "is not empty; choose a new folder"),
        (["{0}", "{2}", "--out", "new", "--arm", "a"], "--vary and --arm need a CONFIG"),
        (
            ["{0}", "{moved}", "--out", "new"],
            "in another way (different: data.root)",
        ),
        (["{0}", "{2}"], "name a new folder for the report with --out"),
        (["{0}", "gone", "--out", "new"], "gone contains no run"),
        (["{0}", "{0}/config.yaml", "--out", "new"], "; give the folder of a run, such as {0}\n"),
        (["{0}", "{grid}", "--out", "new"], "; give the folder of a run, such as {grid}/cells/conv_norm-seed0\n"),
        (["{0}", "{unlogged}", "--out", "new"], "unlogged has no numbers in metrics.jsonl: nothing has been logged"),
        (["{0}", "{cut}", "--out", "new"], "cut has no numbers in metrics.jsonl: nothing has been logged"),
        (["{0}", "{2}", "--out", "new", "--baseline", "x"], "--baseline x: no such arm (arms: a  none)"),
        (["{0}", "{other}", "--out", "new"], "are evaluated in another way (different: eval.metrics)"),
        (["{0}", "{classifier}", "--out", "new"], "is not a run of train_gan.py as"),
    ],
)
def test_runs_that_cannot_be_compared(arguments, message, runs, grid, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    other = shutil.copytree(runs[2], tmp_path / "other")
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("fd_digits70_test, modes70", "modes70"))
    moved = shutil.copytree(runs[2], tmp_path / "moved")
    (moved / "config.yaml").write_text(config.replace("root: data", "root: data2"))
    (tmp_path / "classifier").mkdir()
    (tmp_path / "classifier" / "config.yaml").write_text("classifier: {width: 4}")
    for name, text in (("unlogged", ""), ("cut", '{"step": 1, "lo')):
        (shutil.copytree(runs[2], tmp_path / name) / "metrics.jsonl").write_text(text)
    names = ("other", "moved", "classifier", "unlogged", "cut")
    places = {"grid": grid, **{name: tmp_path / name for name in names}}
    assert main(["--runs", *(text.format(*runs, **places) for text in arguments)]) == 2
    err = capsys.readouterr().err
    assert message.format(*runs, **places) in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()
