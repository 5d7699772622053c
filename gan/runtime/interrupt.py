"""Signals that ask a training run to stop: it finishes the step and writes a checkpoint before the process exits.

Several processes first train until the next step that logs, saves or evaluates: only there they exchange the signal.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn

from gan.runtime.distributed import max_over_processes, wait_for_rank_zero, world_size
from gan.runtime.errors import Stopped

# Ctrl-C and a lost terminal, the end of a job of a batch system and its warnings before it, a limit of CPU time.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


class Interrupted(Stopped):
    """A signal stopped the run. The exit code is 128 plus the signal: 143 for SIGTERM, 130 for Ctrl-C."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message, 128 + signal_number)


def stop_interrupted(signal_number: int, step: int) -> NoReturn:
    """Raise Interrupted for a run in which rank 0 has saved a checkpoint of `step`."""
    wait_for_rank_zero()  # the first process that ends prints the message, and torchrun then stops the others
    message = f"interrupted at step {step}, with a checkpoint; --resume continues from here"
    raise Interrupted(signal_number, message)


class Interrupt:
    """Context manager that records the `SIGNALS` and never raises; Ctrl-C after any of them kills the process.

    A signal that the process ignores, like Ctrl-C in a background process of a shell, stays ignored.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._previous_handlers: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "Interrupt":
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous_handlers[number] = signal.signal(number, self._record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            if handler is not None:  # one of C code cannot be restored
                signal.signal(number, handler)

    def get_signal(self) -> int | None:
        """Return the signal that a process has received, or None. Collective: all processes must call this."""
        return max_over_processes(self._signal or 0) or None

    def check(self) -> None:
        """Raise Interrupted after a signal, in a run with a single process.

        Several processes must not leave an evaluation at different points.
        """
        if world_size() == 1 and self._signal is not None:
            raise Interrupted(self._signal, "interrupted during an evaluation; --resume repeats it")

    def _record(self, number: int, frame: FrameType | None) -> None:
        is_first, self._signal = self._signal is None, number
        if signal.SIGINT in self._previous_handlers:
            # The default of the system; the handler of Python would wait for the end of the step.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if is_first:  # printed last, so that it is true when it is read
            name = signal.Signals(number).name
            finishing = "finishing the step" if world_size() == 1 else "training until the next step that is logged"
            # print() is not reentrant, so a signal handler must not call it.
            with suppress(OSError):  # the console may have ended by the same signal
                os.write(2, f"\n{name}: {finishing} and writing a checkpoint; Ctrl-C ends at once\n".encode())
