"""What all commands share: options whose mistakes are one line, and exit code 2 for what the user can mend."""

import argparse
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from gan.distributed import fails_first
from gan.errors import UserError


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the options as every other error is said."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message} (see --help)")


def exit_code(command: Callable[[], None]) -> int:
    """Run a command; return 0, or 2 after an error that the user can mend. Errors and warnings take one line each.

    Of several processes that fail, all at once or one after the other's end, the first shows its error.
    """
    usual = warnings.formatwarning

    def in_one_line(message: Warning | str, category: type[Warning], *where: Any) -> str:
        return f"warning: {message}\n" if category is UserWarning else usual(message, category, *where)

    warnings.formatwarning = in_one_line
    try:
        command()
    except UserError as error:
        if fails_first():
            print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception:
        if fails_first():
            raise
        return 1
    finally:
        warnings.formatwarning = usual
    return 0
