"""A comparison whose cells are forks of its own process: python comparison.py ARGUMENTS_OF_GAN_COMPARE..."""

import multiprocessing
import os
import runpy
import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from typing import IO

from gan.compare import local_launcher
from gan.compare.__main__ import main
from gan.evaluation import lipschitz


class ForkedCell:
    """The process of a cell, with the methods of `subprocess.Popen` that the launcher calls."""

    _ends: tuple[int, ...] = ()  # this process's ends of the pipes to all cells

    def __init__(
        self, command: list[str], *, stdin: int, stdout: IO, stderr: int, env: dict[str, str], start_new_session: bool
    ):
        assert (*command[:2], stdin, stderr) == (sys.executable, "-m", subprocess.PIPE, subprocess.STDOUT)
        assert start_new_session
        reading, self._writing = os.pipe()
        ForkedCell._ends += (self._writing,)
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=self._run, args=(command[2:], reading, stdout, env))
        self._process.start()
        os.close(reading)

    def _run(self, arguments: list[str], stdin: int, stdout: IO, environment: dict[str, str]) -> None:
        os.setsid()
        for end in ForkedCell._ends:
            os.close(end)
        for descriptor, file in enumerate((stdin, stdout.fileno(), stdout.fileno())):
            os.dup2(file, descriptor)
        os.environ.update(environment)
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> None:
        self._process.join(timeout)
        if self._process.is_alive():
            raise subprocess.TimeoutExpired("", timeout)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def communicate(self) -> None:
        os.close(self._writing)
        ForkedCell._ends = tuple(end for end in ForkedCell._ends if end != self._writing)


def fork_cells() -> None:
    """Let the launcher start forks of this process, with the fixture `short_slope_search`."""
    lipschitz.steepest_slope = partial(lipschitz.steepest_slope, steps=1)
    local_launcher.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": ForkedCell})


if __name__ == "__main__":
    fork_cells()
    sys.exit(main())
