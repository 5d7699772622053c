"""Errors that the user can mend: shown as one line on stderr, with exit code 2 and no traceback."""


class UserError(Exception):
    """Bad input. The message is one line that says what is wrong, where, and what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))
