"""A cell as a job of Slurm, in the process that submitit starts on a node."""

# pyright: reportMissingImports=false
# (submitit is an optional dependency.)

import signal
import subprocess
import time
from dataclasses import replace

from submitit.helpers import DelayedSubmission

from gan.compare.arms import Cell
from gan.compare.folder import GridFolder
from gan.compare.local_launcher import Resources, start_process, stop_processes, wait_for
from gan.compare.status import INTERRUPTED_CODES

ANNOUNCEMENTS = (signal.SIGUSR1, signal.SIGUSR2)  # of the end of a job


class CellJob:
    """Trains a cell, or resumes it, and returns the exit code of its process.

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

    def __call__(self) -> int:
        """Train the cell."""
        handler = next(filter(callable, map(signal.getsignal, ANNOUNCEMENTS)), None)
        for number in ANNOUNCEMENTS:  # submitit handles one of them
            signal.signal(number, handler)
        self._process = start_process(self._cell, self._folder, self._resources)
        exit_code = wait_for(self._process)
        if exit_code in INTERRUPTED_CODES:
            # The cell has received a signal of Slurm before this process, or SIGTERM, which comes before the
            # announcement and before a job is cancelled or killed. The job must not end as if it had been completed.
            time.sleep(self._stop_s)
        return exit_code

    def checkpoint(self) -> DelayedSubmission:
        """Stop the cell, which writes a checkpoint, and return what the job does when it runs again."""
        for number in ANNOUNCEMENTS:
            signal.signal(number, signal.SIG_IGN)
        if self._process is not None:
            stop_processes([self._process], self._stop_s)
        return DelayedSubmission(CellJob(self._cell, self._folder, self._resources, self._stop_s))
