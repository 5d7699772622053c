"""Signals that ask a run to end: it finishes its step, writes a checkpoint and ends with a code that says so."""

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from gan.runtime.distributed import broadcast_object, world_size
from gan.runtime.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Stopped):
    """SIGTERM or Ctrl-C ended the run; the exit code is a shell's for the signal, 143 or 130."""

    def __init__(self, number: int, message: str = "interrupted"):
        super().__init__(message, 128 + number)


class Interrupt:
    """A context in which SIGTERM and Ctrl-C only leave a note; a Ctrl-C after that ends the process at once.

    A signal that the process was started to ignore, as one in a shell's background ignores Ctrl-C, stays ignored.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "Interrupt":
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> int | None:
        """The signal that has asked the run to end. All processes of a run must ask; the first one's answer counts."""
        return broadcast_object(self._number)

    def check(self) -> None:
        """Raise Interrupted when a signal has come, for use where a run of one process can stop halfway."""
        if world_size() == 1 and self._number is not None:
            raise Interrupted(self._number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        first, self._number = self._number is None, number
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # of the system: Python's waits for the step to end
        if first:  # said last, so that what it says is true by then
            name = signal.Signals(number).name
            # Not print, which cannot be called from within itself.
            os.write(2, f"\n{name}: finishing the step and writing a checkpoint; Ctrl-C ends at once\n".encode())
