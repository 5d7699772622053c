#!/usr/bin/env python3
"""Stand-ins for the commands of Slurm: sbatch, srun, sacct, scontrol and scancel, depending on the name of this file.

The folder of the commands contains a file with the state of each job. A process for each array, the "controller", runs
its jobs, while the folder contains no file `hold`. As in Slurm, signals reach all processes of a job, and the job is
over when all have ended.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

FOLDER = Path(sys.argv[0]).parent
POLL_S = 0.05
KILL_S = 30  # between SIGTERM and SIGKILL, as by default


def get_state(job: str) -> str:
    return (FOLDER / f"{job}.state").read_text()


def set_state(job: str, state: str) -> None:
    temporary = FOLDER / f".{job}.{os.getpid()}"
    temporary.write_text(state)
    temporary.rename(FOLDER / f"{job}.state")


def find_jobs(name: str) -> list[str]:
    """The jobs of an array, or the job with this name."""
    found = sorted(path.stem for path in FOLDER.glob("*.state"))
    return [job for job in found if name in (job, job.partition("_")[0])]


def find_processes(job: str) -> list[int]:
    """The processes of a job are known from their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"FAKE_SLURM_JOB={job}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def send(job: str, number: int) -> None:
    for process in find_processes(job):
        with suppress(ProcessLookupError):
            os.kill(process, number)


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    array = 100 + sum(1 for _ in FOLDER.glob("*.script"))
    (FOLDER / f"{array}.script").write_text(text)
    found = re.search(r"^#SBATCH --array=0-(\d+)%(\d+)$", text, re.MULTILINE)
    jobs = [f"{array}_{i}" for i in range(int(found[1]) + 1)] if found else [str(array)]
    for job in jobs:
        set_state(job, "PENDING")
    command = [sys.executable, str(FOLDER / "controller"), str(array), found[2] if found else "1", *jobs]
    null = subprocess.DEVNULL
    subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
    print(f"Submitted batch job {array}")


def controller(array: str, parallelism: str, *jobs: str) -> None:
    running: dict[str, subprocess.Popen] = {}
    while FOLDER.exists() and (running or any(get_state(job) == "PENDING" for job in jobs)):
        for job in [] if (FOLDER / "hold").exists() else jobs:
            if job not in running and get_state(job) == "PENDING" and len(running) < int(parallelism):
                array_id, _, task = job.partition("_")
                names = {"SLURM_ARRAY_JOB_ID": array_id, "SLURM_ARRAY_TASK_ID": task} if task else {}
                names |= {"SLURM_JOB_ID": array_id, "SLURM_NTASKS": "1", "SLURM_CPUS_PER_TASK": "1"}
                environment = os.environ | names | {"FAKE_SLURM_JOB": job}
                set_state(job, "RUNNING")
                running[job] = subprocess.Popen(["bash", FOLDER / f"{array}.script"], env=environment)
        for job, process in list(running.items()):
            if process.poll() is not None and not find_processes(job):
                del running[job]
                if (state := get_state(job)) in ("RUNNING", "REQUEUED"):
                    ending = "COMPLETED" if process.returncode == 0 else "FAILED"
                    set_state(job, "PENDING" if state == "REQUEUED" else ending)
        time.sleep(POLL_S)


def srun(*arguments: str) -> None:
    job = os.environ["FAKE_SLURM_JOB"]
    files, words = {}, list(arguments)
    while words[0].startswith("--"):
        option = words.pop(0)
        if option in ("--output", "--error"):
            array, _, task = job.partition("_")
            path = words.pop(0).replace("%A", array).replace("%a", task).replace("%j", job).replace("%t", "0")
            files[option] = open(path, "ab")  # noqa: SIM115
    done = subprocess.run(words, stdout=files["--output"], stderr=files["--error"], check=False)
    sys.exit(done.returncode)


def sacct(*arguments: str) -> None:
    if "--noheader" in arguments:
        return
    print("JobID|State|NodeList")
    for option, array in pairwise(arguments):
        for job in find_jobs(array) if option == "-j" else []:
            print(f"{job}|{get_state(job)}|node1\n{job}.batch|{get_state(job)}|node1")


def scontrol(command: str, job: str) -> None:
    assert (command, get_state(job)) == ("requeue", "RUNNING")
    set_state(job, "REQUEUED")


def scancel(job: str, option: str = "", name: str = "") -> None:
    if option:
        send(job, signal.Signals[f"SIG{name.removeprefix('SIG')}"])
        return
    jobs = find_jobs(job)
    for job in jobs:
        set_state(job, "CANCELLED by 0")
        send(job, signal.SIGTERM)
    deadline = time.monotonic() + KILL_S
    while time.monotonic() < deadline and any(map(find_processes, jobs)):
        time.sleep(POLL_S)
    for job in jobs:
        send(job, signal.SIGKILL)


if __name__ == "__main__":
    {function.__name__: function for function in (sbatch, controller, srun, sacct, scontrol, scancel)}[
        Path(sys.argv[0]).name
    ](*sys.argv[1:])
