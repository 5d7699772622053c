"""Cells as processes on this machine: so many at a time, each on a GPU of its own where there are several."""

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
from gan.compare.outcome import INTERRUPTED, RUNNING, Outcome, keep_outcome, outcome_after
from gan.run import folder as run_folder

ROOT = Path(__file__).parents[2]
POLL_S = 0.2
GRACE_S = 10  # between asking a child to end and killing it


@dataclass(frozen=True)
class Resources:
    """What cells run on: the base config file, the script's --device, processes at a time, threads of each."""

    config: Path
    device: str
    jobs: int
    threads: int


def run_cells(
    cells: Sequence[Cell], folder: GridFolder, resources: Resources, report: Callable[[Cell, Outcome], None]
) -> None:
    """Train all cells, calling `report` when one begins and when it ends. However this ends, no child stays."""
    waiting = list(cells)
    running: dict[int, tuple[Cell, subprocess.Popen]] = {}  # by place, which is what a GPU is given to
    try:
        while waiting or running:
            for place in range(resources.jobs):
                if waiting and place not in running:
                    cell = waiting.pop(0)
                    running[place] = (cell, start(cell, folder, resources, get_gpu(place)))
                    report(cell, Outcome(RUNNING))
            for place, (cell, process) in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[place]
                    process.communicate()  # closes its input
                    report(cell, outcome_after(folder, cell, code))
            time.sleep(POLL_S)
    finally:
        stop([process for _, process in running.values()])
        for cell, _ in running.values():
            keep_outcome(folder, cell.name, Outcome(INTERRUPTED))
            report(cell, Outcome(INTERRUPTED))


def get_arguments(cell: Cell, folder: GridFolder, resources: Resources) -> list[str]:
    """Return the arguments of the training script that train a cell, or go on with it."""
    run = folder.run(cell.name)
    resume = ["--resume"] if (run / run_folder.CONFIG).exists() else []
    options = ["--config", str(resources.config), "--out", str(run), "--device", resources.device]
    return [*options, *resume, *cell.overrides]


def start(cell: Cell, folder: GridFolder, resources: Resources, gpu: str | None = None) -> subprocess.Popen:
    """Start the process of a cell; its console goes to the cell's log."""
    script, arguments = get_experiment_type(resources.config).script, get_arguments(cell, folder, resources)
    threads = {name: str(resources.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | threads | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    environment |= {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    command = [sys.executable, "-m", "gan.compare.cell", str(folder.root), cell.name, script, *arguments]
    folder.log(cell.name).parent.mkdir(parents=True, exist_ok=True)
    with folder.log(cell.name).open("ab") as log:
        log.write(f"$ python {script} {subprocess.list2cmdline(arguments)}\n".encode())
        log.flush()
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # see gan.compare.cell
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a Ctrl-C on the terminal is for the comparison alone, which ends its cells
        )


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """End processes: asked at first, then killed."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()  # closes its input


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_gpu(place: int) -> str | None:
    """Return the CUDA device of the place-th process at a time, or None where there is no choice."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
    return devices[place % len(devices)] if len(devices) > 1 else None
