"""What all commands share: options whose mistakes are one line, and exit code 2 for what the user can mend."""

import argparse
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from gan.errors import UserError
from gan.files import WriteError


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the options as every other error is said."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message} (see --help)")


def exit_code(command: Callable[[], None]) -> int:
    """Run a command; return 0, or 2 after an error that the user can mend. Errors and warnings take one line each."""
    usual = warnings.formatwarning

    def in_one_line(message: Warning | str, category: type[Warning], *where: Any) -> str:
        return f"warning: {message}\n" if category is UserWarning else usual(message, category, *where)

    warnings.formatwarning = in_one_line
    try:
        command()
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    finally:
        warnings.formatwarning = usual
    return 0


def message_of(error: Exception) -> str | None:
    """Return what to tell the user in one line; None for an error that is none of the user's."""
    if isinstance(error, UserError | WriteError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:  # a name that is too long, no permission
        return str(UserError(f"{error.filename}: {error.strerror}"))
    # PyTorch raises a bare RuntimeError where malloc fails.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        reason = str(error).partition("\n")[0] or type(error).__name__
        return f"out of memory; take smaller networks, batches or images ({reason})"
    return None
