"""The main program of the processes that `tests.processes` starts, which passes it `OPTIONS`."""

import os
import runpy
import sys
from pathlib import Path

import torch

from gan.training import loop


def main(command: list[str], output: Path, environment: dict[str, str], cwd: Path) -> None:
    """Run a program, a module or a script as `python COMMAND...` does, with its output in files."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(output / name, os.O_WRONLY)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    torch.set_num_threads(1)
    loop.NUM_SAMPLES = 16  # as in the test process
    script_folder = "" if command[0] in ("-c", "-m") else str(Path(command[0]).resolve().parent)
    sys.path[:0] = [script_folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if command[0] == "-c":
        sys.argv = ["-c", *command[2:]]
        exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})
    elif command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")


main(**OPTIONS)  # noqa: F821 (runpy.run_path defines it)
