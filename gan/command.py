"""What all commands share: options whose mistakes are one line, and an exit code for each kind of end."""

import argparse
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from gan.distributed import fails_first
from gan.errors import Stopped, UserError
from gan.files import WriteError


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the options as every other error is said."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message} (see --help)")


def exit_code(command: Callable[[], None]) -> int:
    """Run a command; return 0, 2 after an error that the user can mend, 130 after a Ctrl-C, or what a run that stopped
    itself says. Errors and warnings take one line each.

    Of several processes that fail, all at once or one after the other's end, the first shows its error.
    """
    usual = warnings.formatwarning

    def in_one_line(message: Warning | str, category: type[Warning], *where: Any) -> str:
        return f"warning: {message}\n" if category is UserWarning else usual(message, category, *where)

    warnings.formatwarning = in_one_line
    try:
        command()
    except Stopped as stop:
        if fails_first():
            print(stop, file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except Exception as error:
        message = str(error) if isinstance(error, UserError | WriteError) else _out_of_memory(error)
        first = fails_first()
        if message is None and first:
            raise
        if message is not None and first:
            print(f"error: {message}", file=sys.stderr)
        return 1 if message is None else 2
    finally:
        warnings.formatwarning = usual
    return 0


def _out_of_memory(error: Exception) -> str | None:
    """Return what to say when memory, of the machine or of a GPU, did not suffice; None for another error."""
    # PyTorch raises a bare RuntimeError where malloc fails.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        reason = str(error).partition("\n")[0] or type(error).__name__
        return f"out of memory; take smaller networks, batches or images ({reason})"
    return None
