import json
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from gan.compare.__main__ import get_launcher, main, parse
from gan.compare.arms import build_arms, build_cells
from gan.compare.csv_files import read_table
from gan.compare.folder import GridFolder, read_record
from gan.compare.local_launcher import Resources
from gan.run.lock import hold_lock
from gan.run.logging import read_metrics
from gan.runtime.errors import Stopped
from train_gan import main as train

ROOT = Path(__file__).parents[3]
COMMANDS = Path(__file__).with_name("fake_slurm.py")
OVERRIDES = ["train.steps=60", "eval.metrics=[]", "lipschitz.audit_every=60"]
LONG = ["train.steps=300", "eval.metrics=[]", "lipschitz.audit_every=300"]
JOB = """
import sys
sys.path.insert(0, sys.argv[1])
from comparison import fork_cells
from submitit.core.submission import process_job
fork_cells()
process_job(sys.argv[2])
"""


@pytest.fixture(autouse=True)
def repository(monkeypatch):
    """Run in the root of the repository, and keep the signal handlers of the test process."""
    monkeypatch.setattr("gan.compare.__main__.set_signal_handlers", lambda: None)
    monkeypatch.chdir(ROOT)


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Commands that submit job 7, which does nothing. Returns their folder, whose file `state` is the job's state."""
    pytest.importorskip("submitit")
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "state").write_text("PENDING")
    scripts = {
        "sbatch": f"cat $1 >> {folder}/submitted; echo Submitted batch job 7",
        "sacct": f"echo 'JobID|State|NodeList'; echo \"7|$(cat {folder}/state)|node1\"",
        "srun": "exit 1",
        "scontrol": "exit 1",
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr("gan.compare.slurm_launcher.SACCT_S", 0)
    monkeypatch.setattr("gan.compare.slurm_launcher.POLL_S", 0.01)
    return folder


def get_error(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def get_logged_values(run: Path) -> list[dict]:
    lines = read_metrics(run)
    return [{tag: value for tag, value in line.items() if not tag.startswith("speed/")} for line in lines]


def check_bit_equal(run: Path, whole: Path, small_config: Path, *overrides: str) -> None:
    """Compare a run with one that was not interrupted."""
    assert train(["--config", str(small_config), "--out", str(whole), "--device", "cpu", *overrides]) == 0
    assert get_logged_values(run) == get_logged_values(whole)
    name = "generator.safetensors"
    assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_options_of_jobs(slurm, small_config):
    from gan.compare.slurm_launcher import complete_parameters
    from gan.compare.slurm_options import create_executor

    words = ["partition=gpu", "timeout_min=240", "mem_gb=1.5", "gpus_per_node=1", "account=007", "cpus_per_task=4"]
    words += ["setup=module load cuda", "srun_args=[-v, --mpi=none]", "additional_parameters={nice: 5}", "gres=gpu:a:1"]
    options = parse([str(small_config), "--launcher", "slurm", "--jobs", "3", "--slurm", *words])
    launch, resources = get_launcher(options, 5)
    assert (resources.jobs, resources.threads) == (3, 4)
    folder = GridFolder(slurm.parent / "out")
    executor = create_executor(folder.job_folder, complete_parameters(launch.keywords["parameters"], folder, resources))
    executor.submit_array([partial(print), partial(print)])
    lines = (slurm / "submitted").read_text().splitlines()
    for option in ("partition=gpu", "time=240", "mem=1536MB", "gpus-per-node=1", "account=007", "cpus-per-task=4"):
        assert f"#SBATCH --{option}" in lines
    for option in ("nice=5", "gres=gpu:a:1", "requeue", "array=0-1%2", "job-name=out", "signal=USR2@90"):
        assert f"#SBATCH --{option}" in lines
    assert "module load cuda" in lines
    assert "-v --mpi=none" in lines[-1]
    assert executor.folder == folder.job_folder


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gpus=1", "--slurm gpus: unknown; known are account, additional_parameters, comment, "),
        ("nodes=2", "--slurm nodes: unknown"),
        ("time=4:00:00", "--slurm time: unknown"),
        ("timeout_min=4:00:00", "--slurm timeout_min=4:00:00: expected a whole number, at least 1"),
        ("signal_delay_s=0", "--slurm signal_delay_s=0: expected a whole number, at least 1"),
        ("mem_gb=16G", "--slurm mem_gb=16G: expected a number, at least 0.001"),
        ("mem_gb=0", "--slurm mem_gb=0: expected a number, at least 0.001"),
        ("mem_gb=-1", "--slurm mem_gb=-1: expected a number"),
        ("mem_gb=.inf", "--slurm mem_gb=.inf: expected a number"),
        ("cpus_per_task=four", "--slurm cpus_per_task=four: expected a whole number, at least 1"),
        ("cpus_per_task=0", "--slurm cpus_per_task=0: expected a whole number, at least 1"),
        ("cpus_per_task=-1", "--slurm cpus_per_task=-1: expected a whole number, at least 1"),
        ("cpus_per_task=true", "--slurm cpus_per_task=true: expected a whole number, at least 1"),
        ("cpus_per_gpu=0", "--slurm cpus_per_gpu=0: expected a whole number, at least 1"),
        ("gpus_per_node=-1", "--slurm gpus_per_node=-1: expected a whole number, at least 0"),
        ("additional_parameters=nice", "expected a mapping"),
        ("setup=[", "--slurm setup"),
        ("partition=", "--slurm partition=: expected KEY=VALUE"),
        ("configs/x.yaml", "expected KEY=VALUE; CONFIG and its overrides come before --slurm"),
    ],
)
def test_invalid_option_is_a_one_line_error(slurm, small_config, tmp_path, capsys, word, message):
    out = tmp_path / "out"
    line = get_error(capsys, small_config, "--out", out, "--launcher", "slurm", "--slurm", word)
    assert message in line
    assert line.count("\n") == 1
    assert not out.exists()
    assert not (slurm / "submitted").exists()


def test_options_of_slurm_need_its_launcher(small_config, capsys):
    assert "--slurm needs --launcher slurm" in get_error(capsys, small_config, "--slurm", "partition=gpu")


def test_machine_without_slurm_is_a_user_error(small_config, tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    line = get_error(capsys, small_config, "--launcher", "slurm", "--out", tmp_path / "out")
    assert line == (
        "error: --launcher slurm: this machine has no sbatch, srun, sacct, scontrol; start the comparison where jobs "
        "are submitted\n"
    )
    assert not (tmp_path / "out").exists()


def test_missing_submitit_is_a_user_error(small_config, monkeypatch, capsys):
    for name in ("slurm_launcher", "slurm_options", "slurm_job"):
        monkeypatch.delitem(sys.modules, f"gan.compare.{name}", raising=False)
        monkeypatch.delattr(f"gan.compare.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "submitit", None)
    line = get_error(capsys, small_config, "--launcher", "slurm")
    assert line == "error: submitit is not installed: pip install -e '.[slurm]'\n"


def test_devices_of_other_machines_are_not_required(slurm, small_config, tmp_path, monkeypatch, capsys):
    """The machine from which jobs are submitted often has no GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    sbatch = slurm / "sbatch"
    sbatch.write_text("#!/bin/sh\necho sbatch: error: invalid partition specified: x >&2; exit 1\n")
    line = get_error(capsys, small_config, "--device", "cuda", "--out", tmp_path / "out", "--launcher", "slurm")
    assert line == ("error: --launcher slurm: no job was submitted (sbatch: error: invalid partition specified: x)\n")


def test_next_comparison_waits_for_the_jobs_of_an_interrupted_one(slurm, small_config, tmp_path, capsys):
    from gan.compare.slurm_launcher import run_cells

    changes, folder = [], GridFolder(tmp_path / "out")
    folder.create()
    (cell,) = build_cells(small_config, [], build_arms([], []), [0])
    resources = Resources(small_config, "cpu", jobs=1, threads=1)
    parameters = {"signal_delay_s": 90}

    def interrupt(cell, status):
        changes.append(status.state)
        raise KeyboardInterrupt

    with hold_lock(folder.cell_lock_file(cell.name)), pytest.raises(Stopped, match="scancel 7") as stop:
        run_cells([cell], folder, resources, interrupt, parameters)
    assert stop.value.code == 130
    folder.log_file(cell.name).write_text("step 5\nSIGTERM: writing a checkpoint\n")

    def record(cell, status):
        changes.append(status.state)
        (slurm / "state").write_text("CANCELLED by 1000")

    with hold_lock(folder.cell_lock_file(cell.name)):
        run_cells([cell], folder, resources, record, parameters)
    assert changes == ["running", "running", "interrupted"]
    assert capsys.readouterr().out.splitlines()[1] == "waiting for 1 cells in the queue of Slurm: 7"
    assert read_record(folder.record_file(cell.name))["reason"] == (
        "Slurm job 7, CANCELLED by 1000: SIGTERM: writing a checkpoint"
    )
    assert (slurm / "submitted").read_text().count("#SBATCH --requeue") == 1
    changes.clear()
    (slurm / "state").write_text("OUT_OF_MEMORY")  # this job is over, and the cell is submitted again
    run_cells([cell], folder, resources, record, parameters)
    assert changes == ["failed"]
    assert (slurm / "submitted").read_text().count("#SBATCH --requeue") == 2


class Forged:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


@pytest.fixture
def submitted(slurm, small_config, tmp_path):
    """The folder of a comparison, and a function that runs its cell as job 7 and returns the entries of its record."""
    from gan.compare.slurm_launcher import run_cells

    folder = GridFolder(tmp_path / "out")
    folder.create()
    folder.job_folder.mkdir()
    (cell,) = build_cells(small_config, [], build_arms([], []), [0])

    def run() -> dict:
        run_cells([cell], folder, Resources(small_config, "cpu", 1, 1), lambda *_: None, {"signal_delay_s": 90})
        return read_record(folder.record_file(cell.name))

    return folder, run


def test_forged_result_of_a_job_is_not_unpickled(submitted, tmp_path):
    folder, run = submitted
    (folder.job_folder / "jobs.json").write_text('{"base-seed0": "7"}')
    (folder.job_folder / "7_0_result.pkl").write_bytes(pickle.dumps(Forged(tmp_path / "executed")))
    record = run()
    assert not (tmp_path / "executed").exists()
    assert record["status"] == "failed"
    assert "Slurm job 7, error, see " in record["reason"]


@pytest.mark.parametrize("text", ["true", '"0"', "1000000", "[0]", "{"])
def test_exit_code_of_a_job_is_checked(submitted, slurm, text):
    folder, run = submitted
    (slurm / "state").write_text("TIMEOUT")
    path = folder.job_folder / "7.json"
    path.write_text("3")
    assert run()["reason"] == "exit code 3: no log"
    path.write_text(text)
    with pytest.warns(UserWarning, match=r"7\.json is damaged"):
        record = run()
    assert record["status"] == "interrupted"
    assert record["reason"] == "Slurm job 7, TIMEOUT: no log"


@pytest.mark.parametrize("job_id", ["../7", "7_", "7 8", "7\n", "--help", "%A", "\u0667"])
def test_ids_of_jobs_are_checked(submitted, job_id):
    from gan.compare.slurm_launcher import load_jobs

    folder, _ = submitted
    path = folder.job_folder / "jobs.json"
    path.write_text(json.dumps({"base-seed0": "17_0", "base-seed1": "7"}))
    assert load_jobs(folder) == {"base-seed0": "17_0", "base-seed1": "7"}
    path.write_text(json.dumps({"base-seed0": job_id}))
    with pytest.warns(UserWarning, match=r"jobs\.json is damaged"):
        assert load_jobs(folder) == {}


def test_announcement_during_poll_is_handled_after_it(small_config, tmp_path, monkeypatch):
    """A process cannot be waited for within its method `poll`."""
    pytest.importorskip("submitit")
    from gan.compare import slurm_job

    class Process:
        is_polled = False

        def poll(self) -> None:
            self.is_polled = True
            signal.raise_signal(signal.SIGUSR1)
            self.is_polled = False

    process, polled = Process(), []

    def handle(*_) -> None:
        polled.append(process.is_polled)
        sys.exit(-1)

    monkeypatch.setattr(slurm_job, "start_process", lambda *_: process)
    monkeypatch.setattr(slurm_job, "stop_processes", lambda *_: None)
    (cell,) = build_cells(small_config, [], build_arms([], []), [0])
    job = slurm_job.CellJob(cell, GridFolder(tmp_path), Resources(small_config, "cpu", 1, 1), stop_s=60)
    previous = {number: signal.getsignal(number) for number in slurm_job.ANNOUNCEMENTS}
    try:
        signal.signal(signal.SIGUSR2, handle)
        with pytest.raises(SystemExit):
            job()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    assert polled == [False]


def test_failing_accounting_is_reported_once(slurm, tmp_path):
    from gan.compare.slurm_launcher import check_accounting

    (slurm / "sacct").write_text("#!/bin/sh\necho Slurm accounting storage is disabled >&2; exit 1\n")
    with pytest.warns(UserWarning, match=r"accounting storage is disabled.*is not noticed.*jobs\.json was removed"):
        check_accounting(GridFolder(tmp_path))


@pytest.fixture
def preempted(python, small_config, tmp_path):
    """Start the job of a cell, preempt it, and start it again, as Slurm does."""
    pytest.importorskip("submitit")
    from submitit.core.utils import DelayedSubmission, JobPaths

    from gan.compare.slurm_job import CellJob

    folder = GridFolder(tmp_path / "out")
    (cell,) = build_cells(small_config, OVERRIDES, build_arms([], []), [0])
    submission = DelayedSubmission(CellJob(cell, folder, Resources(small_config, "cpu", 1, 1), stop_s=60))
    submission.set_timeout(60, 3)
    paths = JobPaths(folder.job_folder, "7")
    paths.folder.mkdir(parents=True)
    submission.dump(paths.submitted_pickle)
    job = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "7"}
    start = partial(python.start, "-c", JOB, Path(__file__).parent, folder.job_folder, env=os.environ | job)
    first, run, lock = start(), folder.run_folder(cell.name), folder.cell_lock_file(cell.name)
    first.wait_for(lambda: any(run.glob("checkpoints/step_*.pt")))
    os.kill(int(lock.read_text().split()[1]), signal.SIGTERM)  # both have it, before the announcement
    first.send_signal(signal.SIGTERM)
    first.wait_for(lambda: not lock.exists())
    time.sleep(0.5)
    assert first.is_alive()  # otherwise the job would be completed
    first.send_signal(signal.SIGUSR1)
    return folder, first.wait(), start().wait(), paths


@pytest.mark.usefixtures("short_slope_search")
def test_preempted_job_goes_back_into_the_queue_and_is_bit_equal(preempted, small_config, tmp_path):
    from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

    folder, first, second, paths = preempted
    assert (first.returncode, second.returncode) == (LOCAL_REQUEUE_RETURN_CODE, 0), first.stderr + second.stderr
    assert paths.result_pickle.exists()
    assert json.loads((paths.folder / "7.json").read_text()) == 0
    (log,) = folder.root.glob("logs/*.log")
    assert log.read_text().count("$ python train_gan.py") == 2
    assert "step 0 of 60" not in log.read_text().rpartition("$ python")[2]
    check_bit_equal(folder.run_folder("base-seed0"), tmp_path / "whole", small_config, *OVERRIDES)


@pytest.mark.slow
def test_comparison_with_the_local_executor(small_config, tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit")
    monkeypatch.setattr("gan.compare.slurm_options.CLUSTER", "local")
    monkeypatch.setattr("gan.compare.slurm_options.COMMANDS", ())
    monkeypatch.setattr("gan.compare.slurm_launcher.check_accounting", lambda folder: None)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    out = tmp_path / "out"
    arguments = [small_config, "--seeds", "0,1", "--out", out, "--launcher", "slurm", "--device", "cpu"]
    assert main([*map(str, arguments), "train.steps=10", "--arm", "base", "--arm", "bad:train.batch_size=100000"]) == 1
    rows = {row["cell"]: row for row in read_table(out / "results.csv")}
    assert {name: row["status"] for name, row in rows.items()} == {
        **{f"base-seed{seed}": "finished" for seed in (0, 1)},
        **{f"bad-seed{seed}": "failed" for seed in (0, 1)},
    }
    assert "exit code 2: error: train.batch_size=100000 is larger" in rows["bad-seed0"]["reason"]
    assert "base-seed0  finished" in capsys.readouterr().out


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """The folder of the stand-ins of Slurm. All jobs are cancelled after the test."""
    pytest.importorskip("submitit")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name in ("sbatch", "srun", "sacct", "scontrol", "scancel", "controller"):
        (folder / name).symlink_to(COMMANDS)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    yield folder
    for script in folder.glob("*.script"):
        subprocess.run(["scancel", script.stem], check=True)


@pytest.mark.slow
def test_comparison_with_stand_ins_of_slurm(stand_ins, small_config, tmp_path):
    """Both jobs of an array are preempted, the comparison is killed, and one of the jobs is cancelled in the queue."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "gan.compare", small_config, "--seeds", "0,1", "--out", out, "--device", "cpu"]
    command += [*LONG, "--launcher", "slurm", "--slurm", "partition=gpu"]
    start = partial(subprocess.Popen, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait_for(condition) -> None:
        deadline = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    first = start()
    runs = [out / "cells" / f"base-seed{seed}" for seed in (0, 1)]
    for i, run in enumerate(runs):
        wait_for(lambda run=run: any(run.glob("checkpoints/step_*.pt")))
        (stand_ins / "hold").touch()
        for name in ("SIGTERM", "SIGUSR2")[i:]:  # preemption, and the end of the time
            subprocess.run(["scancel", f"100_{i}", "--signal", name], check=True)
    wait_for(lambda: all((stand_ins / f"100_{i}.state").read_text() == "PENDING" for i in (0, 1)))
    first.kill()
    first.communicate()
    with start() as second:
        wait_for(lambda: "waiting for 2 cells in the queue of Slurm: 100" in second.stdout.readline())
        subprocess.run(["scancel", "100_1"], check=True)
        (stand_ins / "hold").unlink()
        output, _ = second.communicate(timeout=300)
    assert second.returncode == 1, output
    rows = read_table(out / "results.csv")
    assert [row["status"] for row in rows] == ["finished", "interrupted"]
    assert rows[1]["reason"].startswith("Slurm job 100_1, CANCELLED by 0: interrupted at step ")
    with start() as third:
        output, _ = third.communicate(timeout=300)
    assert third.returncode == 0, output
    assert "submitted 1 cells to Slurm: 101" in output
    for seed, run in enumerate(runs):
        log = (out / "logs" / f"{run.name}.log").read_text()
        assert log.count("$ python train_gan.py") == 2
        check_bit_equal(run, tmp_path / f"whole{seed}", small_config, *LONG, f"seed={seed}")
