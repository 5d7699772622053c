"""The process of one cell: a training script, ended when the comparison that started it is gone, and measured.

    python -m gan.compare.cell FOLDER CELL SCRIPT ARGUMENTS_OF_SCRIPT...

Its standard input is a pipe of which the comparison holds the other end: however that one dies, the pipe closes.
"""

import os
import resource
import runpy
import sys
import threading
from pathlib import Path

import torch
from filelock import FileLock

from gan.compare.folder import GridFolder, read_json, write_json
from gan.runtime.provenance import hardware

ROOT = Path(__file__).parents[2]
LOCK_S = 120
ENDED = 143  # the exit code of a process that SIGTERM ends


def main(arguments: list[str]) -> None:
    """Train, and write the peak memory to the record, whatever came of it."""
    folder, cell, script = GridFolder(Path(arguments[0])), arguments[1], str(ROOT / arguments[2])
    record = folder.record(cell)
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.argv = [script, *arguments[3:]]
    try:
        # No two processes write into one run: one whose end has not been noticed yet is waited for.
        with FileLock(record.with_suffix(".lock"), timeout=LOCK_S):
            runpy.run_path(script, run_name="__main__")
    finally:
        before = read_json(record)
        peaks = {name: max(value, before.get(name) or 0) for name, value in peak_memory().items()}
        write_json(record, before | peaks | {"hardware": hardware()})


def end_with_parent() -> None:
    """Wait until the pipe from the comparison closes, and end this process."""
    os.read(0, 1)  # not sys.stdin, whose lock a waiting thread would hold while Python ends
    os._exit(ENDED)


def peak_memory() -> dict[str, float]:
    """Return the largest resident set of this process so far, and of GPU memory what PyTorch took at most, in MiB."""
    unit = 1 if sys.platform == "darwin" else 2**10  # getrusage counts bytes there, KiB elsewhere
    peaks = {"peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return peaks


if __name__ == "__main__":
    main(sys.argv[1:])
