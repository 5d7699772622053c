"""Errors that end a command without a traceback: a line of each on stderr, and an exit code."""

import re
from collections.abc import Callable

from gan.runtime.text import printable

MAX_LENGTH = 2000  # in characters; a message may quote input of any length
OUT_OF_MEMORY = re.compile(
    "allocate memory"  # PyTorch
    "|CUDA error: out of memory"
    "|Storage size calculation overflowed"  # PyTorch, for a size of more than 64 bits
    "|could not create a (?!primitive descriptor)"  # oneDNN; without a descriptor, an operation is not supported
    "|ALLOC_FAILED"  # cuBLAS, cuDNN
    "|failed to map segment from shared object"  # an import
    "|can't start new thread"
)
"""Parts of the messages of exceptions that have no type of their own"""


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


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or the error that caused it, is a lack of memory."""
    import torch  # late, so that a command can report an error before it imports PyTorch, which takes seconds

    if isinstance(error, MemoryError | torch.OutOfMemoryError) or OUT_OF_MEMORY.search(str(error)):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and is_out_of_memory(cause)
