"""Python processes that start within milliseconds, because they are forks of a process that has imported the toolkit.

A new interpreter needs several seconds of CPU time to import PyTorch. Here a server imports the toolkit once, and every
process is a fork of the server. The test process itself must not be forked: after a backward pass, autograd does not
work in a fork.
"""

import multiprocessing
import os
import runpy
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch.distributed as dist

PRELOADED = [
    *("train_gan", "train_classifier", "gan.compare.report.write"),
    *(
        "sklearn.datasets",
        "torch._dynamo",
        "torch.utils.tensorboard",
        "torchvision",
    ),  # which the toolkit imports when it needs them
]
MAIN = Path(__file__).with_name("forked.py")
TIMEOUT_S = 600  # on a busy machine


class Process:
    """A Python process whose standard output and error are written to files.

    Args:
        process: the process.
        command: its command line, without the interpreter.
        output: folder of its output.
    """

    def __init__(self, process: multiprocessing.Process, command: list[str], output: Path):
        self._process = process
        self._command = command
        self._output = output

    @property
    def stdout(self) -> str:
        """What the process has written to its standard output until now."""
        return (self._output / "stdout").read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """What the process has written to its standard error until now."""
        return (self._output / "stderr").read_text(encoding="utf-8")

    def is_alive(self) -> bool:
        """Return whether the process has not ended."""
        return self._process.is_alive()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill the process with SIGKILL and wait until it has ended."""
        self._process.kill()
        self.wait()

    def wait_for(self, condition: Callable[[], object], interval_s: float = 0.005) -> None:
        """Wait until a condition holds. Fails if the process ends before."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert self.is_alive() or condition(), f"the process ended too early: {self.stderr}"
            assert time.monotonic() < deadline, "timeout"
            time.sleep(interval_s)

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait until the process has ended, and return its exit code and its output."""
        self._process.join(TIMEOUT_S)
        assert not self.is_alive(), f"timeout: {self.stderr}"
        return subprocess.CompletedProcess(self._command, self._process.exitcode, self.stdout, self.stderr)


class PythonServer:
    """Starts Python processes as forks of one server process.

    Args:
        folder: folder for the output of the processes.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._processes: list[Process] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setenv("PYTHONUTF8", "1")
            self.run("-c", "")  # the first process starts the server

    def start(self, *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Process:
        """Start `python ARGUMENTS...`. The first argument is -c, -m or the path of a script.

        The environment variables and the working folder are by default those of the test process. All modules that the
        toolkit imports have already been imported.
        """
        output = Path(tempfile.mkdtemp(dir=self._folder))
        for name in ("stdout", "stderr"):
            (output / name).touch()
        command = [str(argument) for argument in arguments]
        environment = dict(os.environ if env is None else env)
        options = {"command": command, "output": output, "environment": environment, "cwd": cwd or Path.cwd()}
        process = self._context.Process(target=runpy.run_path, args=(str(MAIN), {"OPTIONS": options}))
        process.start()
        self._processes.append(Process(process, command, output))
        return self._processes[-1]

    def run(
        self, *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Start a process as `start` does, wait until it has ended, and return its exit code and its output."""
        return self.start(*arguments, env=env, cwd=cwd).wait()

    def run_job(self, *arguments: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
        """Start the processes of a job with the variables of torchrun, and wait until they have ended."""
        store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        common = {
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(store.port),
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "TORCHELASTIC_RUN_ID": "test",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        started = [
            self.start(*arguments, env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(processes)
        ]
        done = [process.wait() for process in started]
        code = next((process.returncode for process in done if process.returncode), 0)
        output, errors = ("".join(getattr(process, name) for process in done) for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess([], code, output, errors)

    def close(self) -> None:
        """Kill the processes that a failed test has left running."""
        for process in self._processes:
            if process.is_alive():
                process.kill()
