"""Errors that the user can mend: shown as one line on stderr, with exit code 2 and no traceback."""

MAX_LENGTH = 2000  # characters of a message, which may quote input of any length


class UserError(Exception):
    """Bad input. The message is one line that says what is wrong, where, and what to do."""

    def __init__(self, message: str):
        line = " ".join(message.splitlines()).encode("utf-8", "backslashreplace").decode()  # a path may be no text
        half = MAX_LENGTH // 2
        super().__init__(line if len(line) <= MAX_LENGTH else f"{line[:half]} ... {line[-half:]}")
