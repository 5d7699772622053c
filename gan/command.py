"""What all commands share: options whose mistakes are one line, and exit code 2 for what the user can mend."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from gan.errors import UserError


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the options as every other error is said."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message} (see --help)")


def exit_code(command: Callable[[], None]) -> int:
    """Run a command; return 0, or 2 after an error that the user can mend, which is shown in one line."""
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
