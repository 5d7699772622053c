"""Ends of a command that need no traceback: one line on stderr, and an exit code."""

MAX_LENGTH = 2000  # characters of a message, which may quote input of any length


class UserError(Exception):
    """Bad input, exit code 2. The message is one line that says what is wrong, where, and what to do."""

    def __init__(self, message: str):
        line = " ".join(message.splitlines()).encode("utf-8", "backslashreplace").decode()  # a path may be no text
        half = MAX_LENGTH // 2
        super().__init__(line if len(line) <= MAX_LENGTH else f"{line[:half]} ... {line[-half:]}")


class Stopped(Exception):
    """A run that ended before its last step, in good order. The message is one line that says why and what to do."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code
