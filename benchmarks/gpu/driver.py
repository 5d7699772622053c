"""Runs stages as processes of their own, so that none can take another down or outlast its share of the time."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import END, append

MIN_SECONDS = 15.0
"""A stage that would have less time is not started"""
GRACE_SECONDS = 2.0
"""Time between the request to end and the end of a process that ignores it"""


@dataclass(frozen=True)
class Stage:
    """A part of the check.

    `command` returns the command line of its process, given the seconds that it may take. A stage that is ended after
    `seconds` keeps what it has written. Stages that run `alone` are timed, and wait for all others.
    """

    command: Callable[[float], list[str]]
    seconds: float
    alone: bool


class _Running:
    """The process of a stage, with everything that it starts in a session of its own."""

    def __init__(self, name: str, stage: Stage, log: Path, end: float):
        self.name, self.started = name, time.monotonic()
        self.until = min(self.started + stage.seconds, end)
        with log.open("ab") as output:
            command = stage.command(self.until - self.started)
            self.process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    def is_done(self) -> bool:
        return self.process.poll() is not None or time.monotonic() > self.until

    def finish(self, results: Path, get_facts: Callable[[], dict[str, Any]]) -> None:
        """End the process if it still runs, and write how it ended, with the facts."""
        late = self.process.poll() is None
        if late:
            self._signal(signal.SIGTERM)  # torchrun passes it on to processes in other sessions
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE_SECONDS)
        self._signal(signal.SIGKILL)  # also what the process may have left behind
        code = self.process.wait()
        outcome = "out of time" if late else "complete" if code == 0 else f"failed, exit code {code}"
        seconds = round(time.monotonic() - self.started, 1)
        append(results, self.name, END, {"ended": outcome, "seconds": seconds} | get_facts())

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def run_stages(
    stages: dict[str, Stage],
    results: Path,
    log: Path,
    seconds: float,
    after: Callable[[], None] = lambda: None,
    get_facts: Callable[[], dict[str, Any]] = dict,
) -> None:
    """Run the stages by name for at most `seconds`: first those that may share the device, then the others in order.

    `after` is called after each stage. What `get_facts` returns is written with how a stage ended. Processes are ended
    when this returns or raises.
    """
    end = time.monotonic() + seconds
    shared = {name: stage for name, stage in stages.items() if not stage.alone}
    alone = [{name: stage} for name, stage in stages.items() if stage.alone]
    for group in ([shared] if shared else []) + alone:
        if end - time.monotonic() < min(MIN_SECONDS, seconds / 2):
            for name in group:
                append(results, name, END, {"ended": "not started, no time was left", "seconds": 0})
            continue
        running = [_Running(name, stage, log, end) for name, stage in group.items()]
        try:
            while running:
                time.sleep(0.05)
                for part in [part for part in running if part.is_done()]:
                    running.remove(part)
                    part.finish(results, get_facts)
                    after()
        finally:
            for part in running:  # interrupted
                part.finish(results, get_facts)
    after()
