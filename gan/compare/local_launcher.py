"""Train cells as processes on this machine, at most `jobs` at a time. With several GPUs, each process uses one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gan.compare.arms import Cell
from gan.compare.experiment_types import get_experiment_type
from gan.compare.folder import GridFolder
from gan.compare.status import INTERRUPTED, RUNNING, Status, save_final_status, save_status
from gan.run import folder as run_folder
from gan.run.lock import check_lock

ROOT = Path(__file__).parents[2]
POLL_S = 0.2
TERMINATION_S = 10  # time between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Resources:
    """The config file of all cells, --device of the script, concurrent processes, and CPU threads per process."""

    config: Path
    device: str
    jobs: int
    threads: int


def run_cells(
    cells: Sequence[Cell], folder: GridFolder, resources: Resources, on_change: Callable[[Cell, Status], None]
) -> None:
    """Train all cells. Call `on_change` when a cell ends and when one starts.

    The next cell trains already while `on_change` is called. No process is left running when this function returns or
    raises.
    """
    waiting = list(cells)
    running: dict[int, tuple[Cell, subprocess.Popen]] = {}  # by slot; each slot has a GPU
    ended: list[tuple[Cell, int]] = []  # with their exit codes
    try:
        while waiting or running or ended:
            started = []
            for slot in range(resources.jobs):
                if waiting and slot not in running:
                    cell = waiting.pop(0)
                    running[slot] = (cell, start_process(cell, folder, resources, get_gpu(slot)))
                    started.append(cell)
            for cell, exit_code in ended:
                on_change(cell, save_final_status(folder, cell, exit_code))
            for cell in started:
                on_change(cell, Status(RUNNING))
            ended = []
            for slot, (cell, process) in list(running.items()):
                exit_code = process.poll()
                if exit_code is not None:
                    del running[slot]
                    process.communicate()  # closes its stdin
                    ended.append((cell, exit_code))
            if not ended:
                time.sleep(POLL_S)
    finally:
        stop_processes([process for _, process in running.values()])
        for cell, _ in running.values():
            save_status(folder, cell.name, Status(INTERRUPTED))
            on_change(cell, Status(INTERRUPTED))


def build_arguments(cell: Cell, folder: GridFolder, resources: Resources) -> list[str]:
    """Return the arguments of the training script for a cell, with --resume if its run folder has a config."""
    run = folder.run_folder(cell.name)
    resume = ["--resume"] if (run / run_folder.CONFIG).exists() else []
    # Joined, because the name of a file may begin with a hyphen.
    options = [f"--config={resources.config}", f"--out={run}", f"--device={resources.device}"]
    return [*options, *resume, *cell.overrides]


def start_process(cell: Cell, folder: GridFolder, resources: Resources, gpu: str | None = None) -> subprocess.Popen:
    """Start the process of a cell. Its output is appended to the cell's log file."""
    check_lock(folder.root)
    script, arguments = get_experiment_type(resources.config).script, build_arguments(cell, folder, resources)
    threads = {name: str(resources.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    threads["OMP_WAIT_POLICY"] = "PASSIVE"  # see train_gan.py
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | threads | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    environment |= {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    command = [sys.executable, "-m", "gan.compare.cell", str(folder.root), cell.name, script, *arguments]
    log_file = folder.log_file(cell.name)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        log.write(f"$ python {script} {subprocess.list2cmdline(arguments)}\n".encode())
        log.flush()
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # gan.compare.cell ends when this pipe is closed
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal reaches only the comparison, which then stops its cells
        )


def wait_for(process: subprocess.Popen) -> int:
    """Return the exit code of a process when it has ended. The process is stopped if an exception ends the wait."""
    try:
        while (exit_code := process.poll()) is None:  # wait() would not react when a task of Ray is cancelled
            time.sleep(POLL_S)
        return exit_code
    finally:
        if process.poll() is None:
            stop_processes([process])


def stop_processes(processes: Sequence[subprocess.Popen], timeout_s: float = TERMINATION_S) -> None:
    """Terminate processes, and kill those that do not end in time."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + timeout_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()  # closes its stdin


def count_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_gpu(slot: int) -> str | None:
    """Return the CUDA device for a slot, or None if there are fewer than two devices."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    return devices[slot % len(devices)] if len(devices) > 1 else None
