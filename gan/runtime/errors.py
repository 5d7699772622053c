"""Errors that end a command without a traceback: a line of each on stderr, and an exit code."""

from collections.abc import Callable

from gan.runtime.text import printable

MAX_LENGTH = 2000  # in characters; a message may quote input of any length


class UserError(Exception):
    """One or several user errors (exit code 2). Each is one line that says what is wrong, where, and what to do."""

    def __init__(self, *messages: str):
        self.lines = [to_line(message) for message in messages]
        super().__init__("\n".join(self.lines))


def collect_errors(check: Callable[[], object]) -> list[str]:
    """Call a function, and return the lines of its UserError, or none."""
    try:
        check()
    except UserError as error:
        return error.lines
    return []


class Stopped(Exception):
    """A run that stopped before its last step and can be resumed. The message is one line with reason and remedy."""

    def __init__(self, message: str, code: int):
        super().__init__(to_line(message))
        self.code = code


def to_line(message: str) -> str:
    """Return a message as one line of limited length, in which characters that are not printable are escaped."""
    line = printable(" ".join(message.splitlines()))  # it may contain a file name
    half = MAX_LENGTH // 2
    return line if len(line) <= MAX_LENGTH else f"{line[:half]} ... {line[-half:]}"
