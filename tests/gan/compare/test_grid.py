import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gan.compare.__main__ import main
from gan.compare.arms import build_arms, build_cells, parse_axis
from gan.compare.folder import GridFolder, read_json
from gan.compare.grid import Resources, get_gpu, run_cells
from gan.compare.outcome import outcome_after
from gan.compare.results import ended, read_table
from gan.run.logging import read_lines
from train_gan import main as train

ROOT = Path(__file__).parents[3]
GRID = ("--vary", "discriminator.normalization=none,conv_norm", "--seeds", "0,1", "--jobs", "2", "--device", "cpu")
CELLS = ("none-seed0", "conv_norm-seed0", "none-seed1", "conv_norm-seed1")
COSTS = ("seconds_per_step", "peak_memory_mib")


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Signals of the test process stay as they are; paths are relative to the repository."""
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    monkeypatch.chdir(ROOT)


def numbers(out: Path) -> list[dict]:
    """The rows of results.csv without what no two runs share."""
    return [{k: v for k, v in row.items() if k not in COSTS} for row in read_table(out / "results.csv")]


def logged(run: Path) -> list[dict]:
    """The numbers that a run has logged, but for its speed."""
    lines = read_lines(run / "metrics.jsonl")
    return [{tag: value for tag, value in line.items() if not tag.startswith("speed/")} for line in lines]


def sessions(out: Path) -> dict[str, int]:
    """How often each cell has been started."""
    return {log.stem: log.read_text().count("$ python train_gan.py") for log in (out / "logs").glob("*.log")}


def processes_of(out: Path) -> list[str]:
    """The command lines of living processes that name the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(out) in line:
            found.append(line)
    return found


def wait_for(condition, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_grid_is_ordinary_runs_and_their_numbers(grid):
    rows = read_table(grid / "results.csv")
    assert [row["cell"] for row in rows] == list(CELLS)
    assert {row["status"] for row in rows} == {"finished"}
    assert rows[1]["discriminator.normalization"] == rows[1]["arm"] == "conv_norm"
    for row in rows:
        run = grid / "cells" / row["cell"]
        assert {path.name for path in run.iterdir()} >= {"config.yaml", "metrics.jsonl", "generator.safetensors"}
        last = read_lines(run / "metrics.jsonl")[-1]
        assert last["step"] == row["step"] == 30
        assert {tag: value for tag, value in row.items() if tag.startswith(("metrics/", "lipschitz/"))} == {
            tag: pytest.approx(value, rel=1e-5)
            for tag, value in last.items()
            if tag.startswith(("metrics/", "lipschitz/"))
        }
        assert 100 < row["peak_memory_mib"] < 10_000
        assert 0 < row["seconds_per_step"] < 5
        assert [point["step"] for point in read_table(grid / "curves" / f"{row['cell']}.csv")] == [10, 20, 30]


def test_a_grid_asked_for_again_trains_nothing_and_a_larger_one_adds_cells(grid, small_config, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(grid, out)
    assert main([str(small_config), *GRID, "--out", str(out)]) == 0
    assert sessions(out) == sessions(grid)
    assert numbers(out) == numbers(grid)
    (out / "cells" / "quick-seed7").mkdir()
    (out / "cells" / "quick-seed7" / ".config.yaml.x.tmp").touch()  # as a kill can leave it
    assert main([str(small_config), "--arm", "quick:lipschitz.iterations=1", "--seeds", "7", "--out", str(out)]) == 0
    assert sessions(out) == sessions(grid) | {"quick-seed7": 1}
    assert [row["cell"] for row in read_table(out / "results.csv")] == [*CELLS, "quick-seed7"]
    assert numbers(out)[0] | {"hardware": ""} == numbers(grid)[0] | {"hardware": ""}
    assert len(read_json(out / "grid.json")["runs"]) == 2, "a command that had nothing to do is not told"


def test_killed_and_asked_for_again_nothing_is_done_twice_and_the_numbers_are_the_same(grid, small_config, tmp_path):
    killed = grid.with_name("killed")
    finished = {path.parent.name for path in killed.glob("cells/*/generator.safetensors")}
    begun = sessions(killed)
    assert len(finished) < len(begun) == 2
    assert sessions(grid) == {cell: 2 if cell in set(begun) - finished else 1 for cell in CELLS}
    for cell in CELLS:
        choice, seed = cell.split("-seed")
        whole = tmp_path / cell
        overrides = [f"discriminator.normalization={choice}", f"seed={seed}"]
        assert train(["--config", str(small_config), "--out", str(whole), "--device", "cpu", *overrides]) == 0
        assert logged(grid / "cells" / cell) == logged(whole)


def test_the_cells_of_a_killed_comparison_die_with_it(killed_grid):
    assert not processes_of(killed_grid)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_comparison_and_its_cells(number, small_config, tmp_path):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("this test run ignores the signal, as one in the background does Ctrl-C, and its children do too")
    out = tmp_path / "out"
    line = [sys.executable, "-m", "gan.compare", small_config, *GRID, "--out", out, "train.steps=100000"]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list(out.glob("cells/*/checkpoints/step_*.pt"))) >= 2)
    assert len(processes_of(out)) == 3
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == "interrupted; the same command goes on from here"
    assert not processes_of(out)
    assert read_json(out / "logs" / "none-seed0.json")["status"] == "interrupted"


@pytest.mark.slow
def test_a_failed_cell_is_recorded_and_the_rest_goes_on(small_config, tmp_path, classifier):
    folder = GridFolder(tmp_path)
    cells = build_cells(small_config, ["train.steps=1"], build_arms([parse_axis("train.batch_size=100000,8")], []), [0])
    told = []
    run_cells(cells, folder, Resources(small_config, "cpu", 1, 1), lambda cell, o: told.append((cell.name, o.status)))
    first, second = (cell.name for cell in cells)
    assert told == [(first, "running"), (first, "failed"), (second, "running"), (second, "finished")]
    assert "exit code 2: error: train.batch_size=100000 is larger" in read_json(folder.record(first))["reason"]
    assert set(ended(folder, cells)) == {second}, "a failed cell is tried again"


@pytest.mark.parametrize("code", [143, 130, -signal.SIGTERM])
def test_an_interrupted_cell_is_no_failed_one_and_goes_on_at_the_next_run(small_config, tmp_path, code):
    folder, cells = GridFolder(tmp_path), build_cells(small_config, [], build_arms([], []), [0])
    assert outcome_after(folder, cells[0], code).status == "interrupted"
    assert read_json(folder.record(cells[0].name))["status"] == "interrupted"
    assert not ended(folder, cells)


def test_a_diverged_cell_is_told_by_the_diagnosis_in_its_folder(small_config, tmp_path, classifier):
    folder = GridFolder(tmp_path)
    axis = parse_axis("train.on_nan=stop,rollback")
    wild = [f"optimizer.{player}.lr=1000" for player in ("generator", "discriminator")]
    wild += ["loss=wasserstein", "regularizers={r1: {weight: 1000}}"]
    cells = build_cells(small_config, [*wild, "log.every=1"], build_arms([axis], []), [0])
    for cell in cells:
        arguments = ["--config", str(small_config), "--out", str(folder.run(cell.name)), "--device", "cpu"]
        code = train([*arguments, *cell.overrides])
        outcome = outcome_after(folder, cell, code)
        assert (code, outcome.status) == (3, "diverged")
        assert re.fullmatch(r".* is not finite at step \d+", outcome.reason)
        assert ended(folder, [cell]) == {cell.name: outcome}
        folder.record(cell.name).unlink()
        assert ended(folder, [cell]) == {cell.name: outcome}, "a comparison that was killed has kept no record"


def test_what_git_keeps_is_enough_to_know_which_cells_are_done(grid, small_config, tmp_path):
    out = tmp_path / "checkout"
    shutil.copytree(grid, out, ignore=shutil.ignore_patterns("cells", "logs", "events.*", ".lock"))
    arms = build_arms([parse_axis("discriminator.normalization=none,conv_norm")], [])
    cells = build_cells(small_config, [], arms, [0, 1, 2])
    assert set(ended(GridFolder(out), cells)) == set(CELLS)


def error_of(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def test_bad_arguments_start_nothing(small_config, grid, tmp_path, capsys):
    out = ("--out", tmp_path / "out")
    assert "unknown normalization 'nome'" in error_of(
        capsys, small_config, "--vary", "discriminator.normalization=none,nome", *out
    )
    assert "--jobs 0: must be at least 1" in error_of(capsys, small_config, "--jobs", 0, *out)
    assert "--baseline x: no such arm" in error_of(capsys, small_config, "--baseline", "x", *out)
    assert "name the CONFIG" in error_of(capsys, *out)
    assert "holds no comparison" in error_of(capsys, "--report", tmp_path)
    assert not (tmp_path / "out").exists()


def test_another_base_config_in_the_same_folder_is_refused(grid, small_config, capsys):
    before = {path: path.stat().st_mtime for path in grid.rglob("*")}
    line = error_of(capsys, small_config, *GRID, "--out", grid, "train.steps=40")
    assert "holds a comparison on another base (it differs in train.steps); choose another --out" in line
    line = error_of(capsys, small_config, "--arm", "none:loss=hinge,generator.width=8", "--out", grid)
    assert "holds another none-seed0" in line
    assert before == {path: path.stat().st_mtime for path in grid.rglob("*")}


def test_a_base_written_before_a_key_came_is_the_same_base(grid, small_config, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(grid, out)
    description = read_json(out / "grid.json")
    del description["base"]["data"]["workers"], description["base"]["metrics"]
    (out / "grid.json").write_text(json.dumps(description))
    assert main([str(small_config), *GRID, "--out", str(out)]) == 0
    assert sessions(out) == sessions(grid)


def test_each_of_several_gpus_gets_its_share(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [get_gpu(place) for place in range(3)] == ["3", "5", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert get_gpu(0) is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [get_gpu(place) for place in range(3)] == ["0", "1", "0"]


def test_without_an_optional_package_there_is_a_line_that_names_it(small_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gan.compare.display", None)
    with pytest.raises(ModuleNotFoundError):
        main([str(small_config), "--out", str(tmp_path / "out")])
    monkeypatch.delitem(sys.modules, "gan.compare.display")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    line = error_of(capsys, small_config, "--out", tmp_path / "out")
    assert line == "error: this needs rich: pip install -e '.[compare]'\n"


def test_two_comparisons_do_not_work_in_one_folder(grid, small_config, capsys):
    from filelock import FileLock

    with FileLock(grid / ".lock"):
        assert "is at work in" in error_of(capsys, small_config, *GRID, "--out", grid)


def test_a_cell_gets_its_threads(monkeypatch, small_config, tmp_path):
    seen = {}

    class Process:
        def __init__(self, command, **options):
            seen.update(options, command=command)

    monkeypatch.setattr("gan.compare.grid.subprocess.Popen", Process)
    from gan.compare.grid import start

    (cell,) = build_cells(small_config, [], build_arms([], []), [0])
    start(cell, GridFolder(tmp_path), Resources(small_config, "cpu", 2, 3), "1")
    assert (seen["env"]["OMP_NUM_THREADS"], seen["env"]["CUDA_VISIBLE_DEVICES"]) == ("3", "1")
    assert seen["env"]["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    assert seen["command"][-1] == "seed=0"
