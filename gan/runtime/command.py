"""What all commands share: options whose mistakes are one line, and an exit code for each kind of end."""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from gan.runtime.distributed import claim_first_failure, launched_world_size
from gan.runtime.errors import Stopped, UserError
from gan.runtime.files import WriteError


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the options as every other error is said."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message} (see --help)")


def png_path(text: str) -> Path:
    """Return the path of a picture to write: the `type` of an option."""
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text}: pictures are written as PNG; end the name in .png")
    return path


def exit_code(command: Callable[[], None], together: bool = False) -> int:
    """Run a command; return 0, 2 after an error that the user can mend, 130 after a Ctrl-C, or what a run that stopped
    itself says. Errors and warnings take one line each.

    A command that does not work `together` with the other processes that torchrun started is not one of several. Of
    several processes that fail, all at once or one after the other's end, the first shows its error.
    """
    usual = warnings.formatwarning

    def in_one_line(message: Warning | str, category: type[Warning], *where: Any) -> str:
        return f"warning: {message}\n" if category is UserWarning else usual(message, category, *where)

    warnings.formatwarning = in_one_line
    try:
        if not together and launched_world_size() > 1:
            raise UserError(f"this runs in one process, not in {launched_world_size()}; start it without torchrun")
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
            sys.stdout = None  # or Python tries to write the rest at its end
        message = get_user_message(error)
        first = claim_first_failure()
        if message is None and first:
            raise
        if message is not None and first:
            print(f"error: {message}", file=sys.stderr)
        return 1 if message is None else 2
    finally:
        warnings.formatwarning = usual
    return 0


def get_user_message(error: Exception) -> str | None:
    """Return what to tell the user in one line; None for an error that is none of the user's."""
    if isinstance(error, UserError | WriteError):
        return str(error)
    if isinstance(error, BrokenPipeError):
        return "ended, since what reads the output has ended; write it into a file, say"
    if isinstance(error, OSError) and error.filename is not None:  # a name that is too long, no permission
        return str(UserError(f"{error.filename}: {error.strerror}"))
    # PyTorch raises a bare RuntimeError where malloc fails.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        reason = str(error).partition("\n")[0] or type(error).__name__
        return f"out of memory; take smaller networks, batches or images ({reason})"
    return None
