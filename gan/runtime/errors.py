"""Errors that end a command without a traceback: one line on stderr, and an exit code."""

MAX_LENGTH = 2000  # in characters; a message may quote input of any length


class UserError(Exception):
    """A user error (exit code 2). The message is one line that says what is wrong, where, and what to do."""

    def __init__(self, message: str):
        # A file name in the message may contain bytes that are not UTF-8.
        line = " ".join(message.splitlines()).encode("utf-8", "backslashreplace").decode()
        half = MAX_LENGTH // 2
        super().__init__(line if len(line) <= MAX_LENGTH else f"{line[:half]} ... {line[-half:]}")


class Stopped(Exception):
    """A run that stopped before its last step and can be resumed. The message is one line with reason and remedy."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code
