"""The process of one cell: run a training script and measure its peak memory.

    python -m gan.compare.cell FOLDER CELL SCRIPT ARGUMENTS_OF_SCRIPT...

The standard input is a pipe from the comparison. It is closed when the comparison ends, even if that is killed, and
then this process ends too, as after SIGTERM: with a checkpoint.
"""

import os
import resource
import runpy
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import torch

from gan.compare.folder import GridFolder, read_record
from gan.run.lock import check_lock, hold_lock
from gan.runtime.errors import UserError
from gan.runtime.files import write_json
from gan.runtime.provenance import hardware

ROOT = Path(__file__).parents[2]
LOCK_TIMEOUT_S = 120
EXIT_TIMEOUT_S = 600  # from the end of the comparison to that of a cell which does not finish its step


def main(arguments: list[str]) -> None:
    """Run the script. Write the peak memory to the cell's record, even if the script fails."""
    folder, cell, script = GridFolder(Path(arguments[0])), arguments[1], str(ROOT / arguments[2])
    record_file = folder.record_file(cell)
    threading.Thread(target=exit_with_parent, daemon=True).start()
    sys.argv = [script, *arguments[3:]]
    lock = folder.cell_lock_file(cell)
    with hold_lock(lock, LOCK_TIMEOUT_S):  # an earlier process of this cell may not have ended yet
        try:
            runpy.run_path(script, run_name="__main__")
        finally:
            with suppress(OSError, UserError):  # which would hide the error of the script
                check_lock(lock.parent, lock.name)
                record = read_record(record_file)
                peaks = {name: max(value, record.get(name) or 0) for name, value in get_peak_memory().items()}
                write_json(record_file, record | peaks | {"hardware": hardware()})


def exit_with_parent() -> None:
    """Wait until the comparison's end of the pipe is closed, then end this process, with a checkpoint if it can."""
    os.read(0, 1)  # not sys.stdin: a thread that waits for it would block the interpreter's shutdown
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(EXIT_TIMEOUT_S)  # this thread does not keep a process alive that ends
    os._exit(128 + signal.SIGTERM)


def get_peak_memory() -> dict[str, float]:
    """Return the peak resident memory of this process and the peak GPU memory allocated by PyTorch, in MiB."""
    unit = 1 if sys.platform == "darwin" else 2**10  # getrusage counts bytes on macOS and KiB on Linux
    peaks = {"peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return peaks


if __name__ == "__main__":
    main(sys.argv[1:])
