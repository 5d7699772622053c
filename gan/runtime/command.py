"""What all commands share: errors in one line, and an exit code for each outcome."""

import argparse
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

from gan.runtime.distributed import claim_first_failure, launched_world_size
from gan.runtime.errors import Stopped, UserError
from gan.runtime.files import WriteError
from gan.runtime.text import printable


class Parser(argparse.ArgumentParser):
    """Argument parser that raises UserError for invalid options."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message} (see --help)")


def png_path(text: str) -> Path:
    """Return the path of an image to write; for use as the `type` of an option."""
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text}: images are written as PNG; the name must end in .png")
    return path


def exit_code(command: Callable[[], None], distributed: bool = False) -> int:
    """Run a command and return its exit code.

    0 after success, 2 after user errors, 130 after Ctrl-C, and the code of a run that stopped itself. User errors and
    warnings are printed in one line each. Other exceptions propagate. When several processes fail, only the first
    prints its error. A command that is not `distributed` refuses to run in several processes.
    """
    with short_messages():
        try:
            if not distributed and launched_world_size() > 1:
                count = launched_world_size()
                raise UserError(f"this command must run in a single process, not in {count}; start it without torchrun")
            command()
            sys.stdout.flush()
        except Stopped as stop:
            if claim_first_failure():
                print(stop, file=sys.stderr)
            return stop.code
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            return 130
        except Exception as error:
            if isinstance(error, BrokenPipeError):
                sys.stdout = None  # otherwise Python tries to flush it at exit
            message = get_user_message(error)
            is_first = claim_first_failure()
            if message is None and is_first:
                raise
            if message is not None and is_first:
                print("\n".join(f"error: {line}" for line in message.splitlines()), file=sys.stderr)
            return 1 if message is None else 2
    return 0


@contextmanager
def short_messages() -> Iterator[None]:
    """Print warnings in one line, and no traceback for errors in threads of TensorBoard.

    TensorBoard's writer raises the error of its thread again at its next call.
    """
    format_warning, excepthook = warnings.formatwarning, threading.excepthook

    def format_in_one_line(message: Warning | str, category: type[Warning], *location: Any) -> str:
        if category is not UserWarning:
            return format_warning(message, category, *location)
        return f"warning: {printable(message)}\n"

    def skip_tensorboard(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            excepthook(args)

    warnings.formatwarning, threading.excepthook = format_in_one_line, skip_tensorboard
    try:
        yield
    finally:
        warnings.formatwarning, threading.excepthook = format_warning, excepthook


def get_user_message(error: Exception) -> str | None:
    """Return the message for an error that the user can fix, a line for each error; None for any other error."""
    if isinstance(error, UserError | WriteError):
        return str(error)
    if isinstance(error, BrokenPipeError):
        return "the program that reads the output has exited; write the output to a file instead"
    if isinstance(error, OSError) and error.filename is not None:  # no permission, or a name that is too long
        return str(UserError(f"{error.filename}: {error.strerror}"))
    # PyTorch raises a bare RuntimeError when malloc fails.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        reason = str(error).partition("\n")[0] or type(error).__name__
        return f"out of memory; use smaller networks, batches or images ({reason})"
    return None
