"""What a command does before it imports the libraries, which takes seconds. This module imports none of them."""

import os
import signal
from types import FrameType
from typing import NoReturn

EXIT_CODE = 130
typed_command: str | None = None
"""What the user typed to start a command, such as `convnorm-gan sample`; None if the command was started by itself"""


def exit_when_interrupted() -> None:
    """Let Ctrl-C end the process with one line, until `raise_when_interrupted`. Python would print a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_when_interrupted() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    try:
        os.write(2, b"\ninterrupted\n")
    finally:
        os._exit(EXIT_CODE)
