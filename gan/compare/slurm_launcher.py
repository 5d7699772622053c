"""Train cells as jobs of Slurm, through submitit: python -m gan.compare ... --launcher slurm.

The jobs do not depend on the comparison. They go on when it ends, and the next comparison in the folder waits for them.
The folder of the comparison, the config file and this repository must be on storage that all nodes share.
"""

# pyright: reportMissingImports=false
# (submitit is an optional dependency.)

import io
import logging
import os
import re
import shlex
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from submitit import SlurmJob
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmInfoWatcher

from gan.compare.arms import Cell
from gan.compare.folder import GridFolder
from gan.compare.local_launcher import ROOT, Resources
from gan.compare.slurm_job import CellJob, get_exit_code_file
from gan.compare.slurm_options import create_executor
from gan.compare.status import FAILED, INTERRUPTED, PENDING, RUNNING, Status, save_ending, save_final_status
from gan.run.lock import check_lock
from gan.runtime.damaged import read_json
from gan.runtime.errors import Stopped, UserError
from gan.runtime.files import write_json

POLL_S = 1.0
SACCT_S = 60  # longest time between two calls of sacct
SHARED_S = 15  # longest time until a file of a node is seen on this machine
JOB_ID = re.compile(r"\d+(_\d+)?", re.ASCII)
QUEUED = ("PENDING", "PREEMPTED", "REQUEUED")
INTERRUPTED_STATES = ("CANCELLED", "DEADLINE", "NODE_FAIL", "PREEMPTED", "TIMEOUT")


def run_cells(
    cells: Sequence[Cell],
    folder: GridFolder,
    resources: Resources,
    on_change: Callable[[Cell, Status], None],
    parameters: dict[str, Any],
) -> None:
    """Train all cells as jobs with these parameters, at most `jobs` at a time, or wait for the jobs that they have.

    Calls `on_change` when a cell starts, ends, or is back in the queue. Raises Stopped after Ctrl-C: the jobs go on.
    """
    SlurmJob.watcher = SlurmInfoWatcher(SACCT_S)
    by_name, states = {cell.name: cell for cell in cells}, {cell.name: PENDING for cell in cells}
    try:
        # In a thread, because Ctrl-C must not come between the submission of jobs and the storage of their IDs.
        with ThreadPoolExecutor(1) as pool:
            jobs = pool.submit(submit_jobs, cells, folder, resources, parameters).result()
        while jobs:
            for name in [name for name, job in jobs.items() if job.done() and job.state != "SUSPENDED"]:
                on_change(by_name[name], get_final_status(jobs.pop(name), folder, by_name[name]))
            for name, job in jobs.items():
                is_locked = folder.cell_lock_file(name).exists()
                if is_locked or job.state in QUEUED:  # between both, it is about to start or to end
                    state = RUNNING if is_locked else PENDING
                    if state != states[name]:
                        states[name] = state
                        on_change(by_name[name], Status(state))
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        job_ids = _shorten(job for name, job in load_jobs(folder).items() if name in by_name)
        raise Stopped(
            "\ninterrupted; the jobs go on: run the same command again to wait for them, or cancel them with "
            f"scancel {job_ids}",
            130,
        ) from None


def submit_jobs(
    cells: Sequence[Cell], folder: GridFolder, resources: Resources, parameters: dict[str, Any]
) -> dict[str, Any]:
    """Return the job of each cell, after submitting those of the cells that have none in the queue."""
    saved = load_jobs(folder)
    jobs = {cell.name: SlurmJob(folder.job_folder, saved[cell.name]) for cell in cells if cell.name in saved}
    jobs = {name: job for name, job in jobs.items() if not job.done()}
    if jobs:
        print(
            f"waiting for {len(jobs)} cells in the queue of Slurm: {_shorten(saved[name] for name in jobs)}", flush=True
        )
    if new := [cell for cell in cells if cell.name not in jobs]:
        check_lock(folder.root)
        stop_s = parameters["signal_delay_s"] * 2 / 3  # then the job is put back into the queue
        calls = [CellJob(cell, folder, resources, stop_s) for cell in new]
        executor = create_executor(folder.job_folder, complete_parameters(parameters, folder, resources))
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints the message of sbatch, too
                submitted = executor.submit_array(calls)
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"--launcher slurm: no job was submitted ({error})") from None
        jobs |= {cell.name: job for cell, job in zip(new, submitted, strict=True)}
        write_json(get_jobs_file(folder), saved | {name: job.job_id for name, job in jobs.items()})
        print(f"submitted {len(new)} cells to Slurm: {_shorten(job.job_id for job in submitted)}", flush=True)
    check_accounting(folder)
    return jobs


def check_accounting(folder: GridFolder) -> None:
    """Warn if Slurm does not record the states of jobs, once instead of at each call of sacct."""
    done = subprocess.run(["sacct", "--noheader", "--allocations"], capture_output=True, text=True)
    if done.returncode != 0:
        warnings.warn(
            f"sacct fails ({done.stderr.strip()}): a job that is cancelled or killed is not noticed; the same command "
            f"submits its cell again after {get_jobs_file(folder)} was removed",
            stacklevel=2,
        )
        logging.getLogger("submitit").setLevel(logging.ERROR)


def complete_parameters(parameters: dict[str, Any], folder: GridFolder, resources: Resources) -> dict[str, Any]:
    """Return the parameters of the jobs with those that the comparison sets."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    setup = [f"export PYTHONPATH={shlex.quote(paths)}", "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"]
    return {
        "name": folder.root.resolve().name,
        "cpus_per_task": resources.threads,
        **parameters,
        "array_parallelism": resources.jobs,
        "setup": [*setup, *parameters.get("setup", [])],
        "additional_parameters": {"requeue": True, **parameters.get("additional_parameters", {})},
    }


def get_jobs_file(folder: GridFolder) -> Path:
    """Return the file with the ID of the last job of each cell."""
    return folder.job_folder / "jobs.json"


def load_jobs(folder: GridFolder) -> dict[str, str]:
    """Return the ID of the last job of each cell, such as 17_0 for the first one of the array 17."""
    return read_json(get_jobs_file(folder), _has_jobs, {})


def get_final_status(job: Any, folder: GridFolder, cell: Cell) -> Status:
    """Return and save the status of a cell whose job is over.

    Its exit code comes from a file of CellJob. The result of submitit is a pickle, which could run code of whoever has
    written it, and is never read.
    """
    state, has_result = job.state, job.paths.result_pickle.exists()
    exit_code_file = get_exit_code_file(folder, job.job_id)
    deadline = time.monotonic() + SHARED_S
    while state == "COMPLETED" and not (has_result or exit_code_file.exists()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    exit_code = read_json(exit_code_file, _is_exit_code, None)
    if exit_code is not None:
        return save_final_status(folder, cell, exit_code)
    if has_result or state == "COMPLETED":  # submitit has failed, in which case it has said why
        state = f"error, see {job.paths.stderr}"
    return save_ending(
        folder,
        cell,
        INTERRUPTED if state.startswith(INTERRUPTED_STATES) else FAILED,
        f"Slurm job {job.job_id}, {state}",
    )


def _has_jobs(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(job, str) and JOB_ID.fullmatch(job) for job in value.values())


def _is_exit_code(value: Any) -> bool:
    return type(value) is int and -signal.NSIG < value < 256


def _shorten(job_ids: Iterable[str]) -> str:
    """Return the IDs with an array in the place of its jobs."""
    return " ".join(dict.fromkeys(job_id.partition("_")[0] for job_id in job_ids))
