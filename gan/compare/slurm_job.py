"""A cell as a job of Slurm, in the process that submitit starts on a node."""

# pyright: reportMissingImports=false
# (submitit is an optional dependency.)

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission

from gan.compare.arms import Cell
from gan.compare.folder import GridFolder
from gan.compare.local_launcher import POLL_S, Resources, start_process, stop_processes
from gan.compare.status import INTERRUPTED_CODES
from gan.runtime.files import write_json

ANNOUNCEMENTS = (signal.SIGUSR1, signal.SIGUSR2)  # of the end of a job


class CellJob:
    """Trains a cell, or resumes it, and saves the exit code of its process.

    Slurm announces the end of a job by a signal, because its time is over or it is preempted. submitit then calls
    `checkpoint`, and puts the job back into the queue.

    Args:
        cell: the cell.
        folder: the comparison.
        resources: the resources of the cell.
        stop_s: time for the cell to write its checkpoint.
    """

    def __init__(self, cell: Cell, folder: GridFolder, resources: Resources, stop_s: float):
        self._cell = replace(cell, config=None)  # which may have a type of a module that cannot be imported here
        self._folder = folder
        self._resources = resources
        self._stop_s = stop_s
        self._process: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Train the cell."""
        (handle,) = filter(callable, map(signal.getsignal, ANNOUNCEMENTS))  # submitit handles one of them
        announced: list[int] = []

        def wait_until(is_over: Callable[[], bool]) -> None:
            while not is_over():
                time.sleep(POLL_S)
                if announced:
                    handle(announced[0], None)  # ends this process

        for number in ANNOUNCEMENTS:
            # Handled only between two calls of `poll`, within which the process could not be waited for.
            signal.signal(number, lambda number, _: announced.append(number))
        process = self._process = start_process(self._cell, self._folder, self._resources)
        try:
            wait_until(lambda: process.poll() is not None)
            exit_code = process.poll()
            if exit_code in INTERRUPTED_CODES:
                # The cell has received a signal of Slurm before this process, or SIGTERM, which comes before the
                # announcement and before a job is cancelled or killed. The job must not end as if it had been
                # completed.
                deadline = time.monotonic() + self._stop_s
                wait_until(lambda: time.monotonic() >= deadline)
        finally:
            if process.poll() is None:
                stop_processes([process])
        write_json(get_exit_code_file(self._folder, JobEnvironment().job_id), exit_code)

    def checkpoint(self) -> DelayedSubmission:
        """Stop the cell, which writes a checkpoint, and return what the job does when it runs again."""
        if self._process is not None:
            stop_processes([self._process], self._stop_s)
        return DelayedSubmission(CellJob(self._cell, self._folder, self._resources, self._stop_s))


def get_exit_code_file(folder: GridFolder, job_id: str) -> Path:
    """Return the JSON file with the exit code of the cell of a job that has ended."""
    return folder.job_folder / f"{job_id}.json"
