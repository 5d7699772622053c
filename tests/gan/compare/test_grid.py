import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gan.compare import results
from gan.compare.__main__ import get_launcher, main, parse
from gan.compare.arms import build_arms, build_cells, parse_axis
from gan.compare.csv_files import read_table
from gan.compare.folder import GridFolder, read_record
from gan.compare.local_launcher import Resources, build_arguments, get_gpu, run_cells, start_process
from gan.compare.results import find_completed
from gan.compare.status import Status, save_final_status, save_status
from gan.run.cli import TrainingParser
from gan.run.lock import locked
from gan.run.logging import read_metrics
from gan.runtime.temporary import name_temporary
from train_gan import main as train

ROOT = Path(__file__).parents[3]
GRID = ("--vary", "discriminator.normalization=none,conv_norm", "--seeds", "0,1", "--jobs", "2", "--device", "cpu")
CELLS = ("none-seed0", "conv_norm-seed0", "none-seed1", "conv_norm-seed1")
COSTS = ("seconds_per_step", "peak_memory_mib")


@pytest.fixture(autouse=True)
def repository(monkeypatch):
    """Run in the root of the repository, and keep the signal handlers of the test process."""
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    monkeypatch.chdir(ROOT)


def get_results(out: Path) -> list[dict]:
    """The rows of results.csv without the costs, which differ from run to run."""
    return [{k: v for k, v in row.items() if k not in COSTS} for row in read_table(out / "results.csv")]


def get_logged_values(run: Path) -> list[dict]:
    """The values that a run has logged, except its speed."""
    lines = read_metrics(run)
    return [{tag: value for tag, value in line.items() if not tag.startswith("speed/")} for line in lines]


def count_starts(out: Path) -> dict[str, int]:
    """How many times each cell was started."""
    return {log.stem: log.read_text().count("$ python train_gan.py") for log in (out / "logs").glob("*.log")}


def find_processes(out: Path) -> list[str]:
    """The command lines of running processes that contain the folder."""
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
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.02)


def test_results_are_the_last_values_of_the_runs(grid):
    rows = read_table(grid / "results.csv")
    assert [row["cell"] for row in rows] == list(CELLS)
    assert {row["status"] for row in rows} == {"finished"}
    assert rows[1]["discriminator.normalization"] == rows[1]["arm"] == "conv_norm"
    for row in rows:
        run = grid / "cells" / row["cell"]
        assert {path.name for path in run.iterdir()} >= {"config.yaml", "metrics.jsonl", "generator.safetensors"}
        last = read_metrics(run)[-1]
        assert last["step"] == row["step"] == 15
        assert {tag: value for tag, value in row.items() if tag.startswith(("metrics/", "lipschitz/"))} == {
            tag: pytest.approx(value, rel=1e-5)
            for tag, value in last.items()
            if tag.startswith(("metrics/", "lipschitz/"))
        }
        assert 100 < row["peak_memory_mib"] < 10_000
        assert 0 < row["seconds_per_step"] < 5
        assert [point["step"] for point in read_table(grid / "curves" / f"{row['cell']}.csv")] == [5, 10, 15]


@pytest.mark.slow
def test_repeated_command_trains_nothing_and_new_arms_add_cells(grid, small_config, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(grid, out)
    description = json.loads((out / "grid.json").read_text())
    del description["base"]["data"]["workers"], description["base"]["metrics"]  # as if the defaults were new
    (out / "grid.json").write_text(json.dumps(description))
    monkeypatch.setattr("gan.compare.report.write.write_report", lambda *arguments: [])  # other tests check it
    assert main([str(small_config), *GRID, "--out", str(out)]) == 0
    assert count_starts(out) == count_starts(grid)
    assert get_results(out) == get_results(grid)
    (out / "cells" / "quick-seed7").mkdir()
    name_temporary(out / "cells" / "quick-seed7" / "config.yaml").touch()  # a killed process can leave this
    assert main([str(small_config), "--arm", "quick:lipschitz.iterations=1", "--seeds", "7", "--out", str(out)]) == 0
    assert count_starts(out) == count_starts(grid) | {"quick-seed7": 1}
    assert [row["cell"] for row in read_table(out / "results.csv")] == [*CELLS, "quick-seed7"]
    assert get_results(out)[0] | {"hardware": ""} == get_results(grid)[0] | {"hardware": ""}
    assert len(json.loads((out / "grid.json").read_text())["runs"]) == 2  # a command without new cells is not recorded


@pytest.mark.filterwarnings("ignore:.* damaged:UserWarning")
def test_finished_comparison_with_damaged_files_trains_nothing(grid, small_config, tmp_path, monkeypatch):
    out = shutil.copytree(grid, tmp_path / "out")
    logs = {}
    for name, text in zip(CELLS, (b"\n\xff", b"5\n{}\n", b"[" * 100_000, b"\xef\xbb\xbf"), strict=True):
        log = out / "cells" / name / "metrics.jsonl"
        log.write_bytes(text + log.read_bytes())
        logs[log] = log.read_bytes()
    for path in (out / "grid.json", out / "logs" / f"{CELLS[0]}.json", out / "curves" / f"{CELLS[1]}.csv"):
        path.write_bytes(path.read_bytes()[:100])
    monkeypatch.setattr("gan.compare.report.write.write_report", lambda *arguments: [])
    assert main([str(small_config), *GRID[:2], "--seeds", "0", "--device", "cpu", "--out", str(out)]) == 0
    assert count_starts(out) == count_starts(grid)
    assert {log: log.read_bytes() for log in logs} == logs
    assert {row["cell"]: row for row in get_results(out)} == {row["cell"]: row for row in get_results(grid)}
    assert (out / "curves" / f"{CELLS[3]}.csv").read_bytes() == (grid / "curves" / f"{CELLS[3]}.csv").read_bytes()


def find_finished(out: Path) -> set[str]:
    """The cells that have been trained to their last step."""
    return {path.parent.name for path in out.glob("cells/*/generator.safetensors")}


@pytest.mark.usefixtures("short_slope_search")
def test_resume_after_kill_is_bit_equal_and_repeats_no_finished_cell(grid, killed_grid, small_config, tmp_path):
    unfinished = count_starts(killed_grid).keys() - find_finished(killed_grid)
    assert count_starts(grid) == {cell: 2 if cell in unfinished else 1 for cell in CELLS}
    assert unfinished
    for cell in unfinished:
        choice, seed = cell.split("-seed")
        whole = tmp_path / cell
        overrides = [f"discriminator.normalization={choice}", f"seed={seed}"]
        assert train(["--config", str(small_config), "--out", str(whole), "--device", "cpu", *overrides]) == 0
        assert get_logged_values(grid / "cells" / cell) == get_logged_values(whole)


STUCK = """\
import signal, time
from gan.compare import cell
cell.EXIT_TIMEOUT_S = 0.1
signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
cell.threading.Thread(target=cell.exit_with_parent, daemon=True).start()
while True:
    time.sleep(1)
"""


@pytest.mark.slow
def test_cell_that_does_not_finish_its_step_ends_after_a_killed_comparison():
    cell = subprocess.run([sys.executable, "-c", STUCK], stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    assert (cell.returncode, cell.stdout) == (143, b"asked\n")


def test_cells_end_with_a_killed_comparison(killed_grid):
    started = count_starts(killed_grid)
    assert len(find_finished(killed_grid)) < len(started) == 2
    logs = [path.read_text() for path in (killed_grid / "logs").glob("*.log")]
    assert any("with a checkpoint; --resume continues from here" in log for log in logs)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signal_stops_the_comparison_and_its_cells(number, small_config, tmp_path):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("this process and its children ignore the signal, as background processes ignore Ctrl-C")
    out = tmp_path / "out"
    line = [sys.executable, "-m", "gan.compare", small_config, *GRID, "--out", out, "train.steps=100000"]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list(out.glob("cells/*/checkpoints/step_*.pt"))) >= 2)
    assert len(find_processes(out)) == 3
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == "interrupted; run the same command again to resume"
    assert not find_processes(out)
    assert read_record(out / "logs" / "none-seed0.json")["status"] == "interrupted"


@pytest.mark.slow
def test_failed_cell_is_recorded_and_others_are_trained(small_config, tmp_path):
    folder = GridFolder(tmp_path)
    cells = build_cells(small_config, ["train.steps=1"], build_arms([parse_axis("train.batch_size=100000,8")], []), [0])
    changes = []
    resources = Resources(small_config, "cpu", 1, 1)
    run_cells(cells, folder, resources, lambda cell, status: changes.append((cell.name, status.state)))
    first, second = (cell.name for cell in cells)
    assert changes == [(first, "running"), (first, "failed"), (second, "running"), (second, "finished")]
    assert "exit code 2: error: train.batch_size=100000 is larger" in read_record(folder.record_file(first))["reason"]
    assert set(find_completed(folder, cells)) == {second}  # the failed cell will be trained again


def test_next_cell_starts_before_the_end_of_one_is_reported(small_config, tmp_path, monkeypatch):
    """What is done at the end of a cell takes time, in which the machine must not be idle."""
    events = []
    process = SimpleNamespace(poll=lambda: 0, communicate=lambda: None)
    cells = build_cells(small_config, [], build_arms([], []), [0, 1, 2, 3])
    start = f"{run_cells.__module__}.start_process"
    monkeypatch.setattr(start, lambda cell, *_: events.append((cell.seed, "starts")) or process)
    resources = Resources(small_config, "cpu", jobs=2, threads=1)
    run_cells(cells, GridFolder(tmp_path), resources, lambda cell, status: events.append((cell.seed, status.state)))
    assert events == [
        *((0, "starts"), (1, "starts"), (0, "running"), (1, "running")),
        *((2, "starts"), (3, "starts"), (0, "failed"), (1, "failed"), (2, "running"), (3, "running")),
        *((2, "failed"), (3, "failed")),
    ]


def find_changes(out: Path, before: dict[str, int]) -> set[str]:
    """The files of a comparison, except its grid.json, that were written since, whose times are updated."""
    times = {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    changed = {path for path, time in times.items() if before.get(path) != time} - {"grid.json", ".lock", ".gitignore"}
    before.update(times)
    return changed


def test_each_end_of_a_cell_reads_and_writes_this_cell_alone(grid, small_config, tmp_path, monkeypatch):
    """Otherwise a comparison of many cells would spend its time on reading their logs again and again."""
    out, reads, ends, times = tmp_path / "out", [], {}, {}
    read_log = results.read_log
    monkeypatch.setattr(results, "read_log", lambda run: reads.append(run.name) or read_log(run))
    monkeypatch.setattr("gan.compare.report.write.write_report", lambda *arguments: [])

    def launch(cells, folder, resources, on_change):
        shutil.copytree(grid / "cells", out / "cells", dirs_exist_ok=True)  # all have begun
        for cell in cells:
            for path in folder.run_folder(cell.name).glob("events.out.tfevents.0.hparams"):
                path.unlink()
            save_status(folder, cell.name, Status("finished"))
        find_changes(out, times)
        for cell in cells:
            reads.clear()
            on_change(cell, Status("finished"))
            ends[cell.name] = (list(reads), find_changes(out, times), get_results(out))
        reads.clear()

    monkeypatch.setattr("gan.compare.local_launcher.run_cells", launch)
    assert main([str(small_config), *GRID, "--out", str(out)]) == 0
    for i, (name, (read, written, rows)) in enumerate(ends.items()):
        assert read == [name]
        assert {path for path in written if name in path} == {
            f"curves/{name}.csv",
            f"cells/{name}/events.out.tfevents.0.hparams",
            *([f"samples/{name}.png"] if name.endswith("seed0") else []),
        }
        assert {path for path in written if name not in path} <= {"results.csv", "samples/real.png"}
        assert [row["status"] for row in rows] == ["finished"] * (i + 1) + ["pending"] * (3 - i)
    assert not reads  # nor does the end of the comparison
    assert not find_changes(out, times) - {"results.csv"}
    for row, expected in zip(get_results(out), get_results(grid), strict=True):
        assert row == {key: value for key, value in expected.items() if key != "hardware"}


def test_there_are_at_most_as_many_jobs_as_cells(small_config):
    _, resources = get_launcher(parse([str(small_config), "--jobs", str(10**18)]), 4)
    assert resources.jobs == 4


def test_paths_of_a_cell_may_begin_with_a_hyphen(small_config, tmp_path):
    folder, cells = GridFolder(Path("-cmp")), build_cells(small_config, [], build_arms([], []), [0])
    arguments = build_arguments(cells[0], folder, Resources(Path("-c.yaml"), device="cpu", jobs=1, threads=1))
    options = TrainingParser("train_gan.py").parse_intermixed_args(arguments)
    assert (options.config, options.out) == (Path("-c.yaml"), folder.run_folder(cells[0].name))
    assert options.overrides == list(cells[0].overrides)


@pytest.mark.parametrize("code", [143, 130, 129, 138, -signal.SIGTERM, -signal.SIGUSR1])
def test_interrupted_cell_is_not_failed_and_not_completed(small_config, tmp_path, code):
    folder, cells = GridFolder(tmp_path), build_cells(small_config, [], build_arms([], []), [0])
    assert save_final_status(folder, cells[0], code).state == "interrupted"
    assert read_record(folder.record_file(cells[0].name))["status"] == "interrupted"
    assert not find_completed(folder, cells)


def test_diverged_cell_has_its_reason(small_config, tmp_path):
    folder = GridFolder(tmp_path)
    axis = parse_axis("train.on_nan=stop,rollback")
    overrides = [f"optimizer.{network}.lr=1000" for network in ("generator", "discriminator")]
    overrides += ["loss=wasserstein", "regularizers={r1: {weight: 1000}}"]
    cells = build_cells(small_config, [*overrides, "log.every=1"], build_arms([axis], []), [0])
    for cell in cells:
        arguments = ["--config", str(small_config), "--out", str(folder.run_folder(cell.name)), "--device", "cpu"]
        code = train([*arguments, *cell.overrides])
        status = save_final_status(folder, cell, code)
        assert (code, status.state) == (3, "diverged")
        assert re.fullmatch(r".* is not finite at step \d+", status.reason)
        assert find_completed(folder, [cell]) == {cell.name: status}
        folder.record_file(cell.name).unlink()
        assert find_completed(folder, [cell]) == {cell.name: status}  # a killed comparison has saved no record


def test_completed_cells_are_known_from_the_files_that_git_tracks(grid, small_config, tmp_path):
    out = tmp_path / "checkout"
    shutil.copytree(grid, out, ignore=shutil.ignore_patterns("cells", "logs", "events.*", ".lock"))
    arms = build_arms([parse_axis("discriminator.normalization=none,conv_norm")], [])
    cells = build_cells(small_config, [], arms, [0, 1, 2])
    assert set(find_completed(GridFolder(out), cells)) == set(CELLS)


def get_error(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def test_invalid_arguments_start_nothing(small_config, grid, tmp_path, capsys):
    out = ("--out", tmp_path / "out")
    assert "unknown normalization 'nome'" in get_error(
        capsys, small_config, "--vary", "discriminator.normalization=none,nome", *out
    )
    assert "--jobs 0: must be at least 1" in get_error(capsys, small_config, "--jobs", 0, *out)
    assert "--baseline x: no such arm" in get_error(capsys, small_config, "--baseline", "x", *out)
    assert "name either the CONFIG" in get_error(capsys, *out)
    assert "contains no comparison" in get_error(capsys, "--report", tmp_path)
    assert not (tmp_path / "out").exists()


def test_folder_with_another_base_config_is_refused(grid, small_config, capsys):
    before = {path: path.stat().st_mtime for path in grid.rglob("*")}
    line = get_error(capsys, small_config, *GRID, "--out", grid, "train.steps=40")
    assert "contains a comparison with another base config (different keys: train.steps); choose another --out" in line
    line = get_error(capsys, small_config, "--arm", "none:loss=hinge,generator.width=8", "--out", grid)
    assert "contains another cell none-seed0" in line
    assert before == {path: path.stat().st_mtime for path in grid.rglob("*")}


@pytest.mark.parametrize("seed", [1, 2], ids=["trained cell", "new cell of the arm"])
def test_cells_of_an_arm_are_not_mixed_with_those_of_an_older_default(grid, small_config, tmp_path, capsys, seed):
    out = tmp_path / "out"
    for name in ("conv_norm-seed0", "conv_norm-seed1"):
        config = (grid / "cells" / name / "config.yaml").read_text()
        assert "stride: paper" in config  # the run stores what it did not name
        (out / "cells" / name).mkdir(parents=True)
        (out / "cells" / name / "config.yaml").write_text(config.replace("stride: paper", "stride: strided"))
    shutil.copy(grid / "grid.json", out)
    line = get_error(capsys, small_config, *GRID, "--seeds", seed, "--out", out)
    assert "contains a run with another config (different keys: discriminator.normalization.stride)" in line


def test_each_slot_has_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [get_gpu(slot) for slot in range(3)] == ["3", "5", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert get_gpu(0) is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [get_gpu(slot) for slot in range(3)] == ["0", "1", "0"]


def test_missing_optional_package_is_a_user_error(small_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gan.compare.progress_table", None)
    with pytest.raises(ModuleNotFoundError):
        main([str(small_config), "--out", str(tmp_path / "out")])
    monkeypatch.delitem(sys.modules, "gan.compare.progress_table")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    line = get_error(capsys, small_config, "--out", tmp_path / "out")
    assert line == "error: rich is not installed: pip install -e '.[compare]'\n"


def test_second_comparison_in_a_folder_is_refused(grid, small_config, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(grid, out)
    with locked(out):
        assert f"{out} is in use by process {os.getpid()}" in get_error(capsys, small_config, *GRID, "--out", out)


def test_threads_and_gpu_of_a_cell(monkeypatch, small_config, tmp_path):
    options = {}

    class Process:
        def __init__(self, command, **arguments):
            options.update(arguments, command=command)

    monkeypatch.setattr("gan.compare.local_launcher.subprocess.Popen", Process)
    (cell,) = build_cells(small_config, [], build_arms([], []), [0])
    start_process(cell, GridFolder(tmp_path), Resources(small_config, "cpu", 2, 3), "1")
    assert (options["env"]["OMP_NUM_THREADS"], options["env"]["CUDA_VISIBLE_DEVICES"]) == ("3", "1")
    assert options["env"]["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    assert options["command"][-1] == "seed=0"
