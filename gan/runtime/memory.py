"""The memory of the machine, for a check before a computation that would end because there is too little."""

import math
import os
from contextlib import suppress
from pathlib import Path

from gan.runtime.errors import UserError

CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def get_total_memory() -> float:
    """Return the bytes of memory of the machine or of the container; infinity if they are unknown."""
    total = math.inf
    with suppress(AttributeError, OSError, ValueError):  # no POSIX system
        total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # no such limit, or the text "max"
        total = min(total, int(CONTAINER_LIMIT.read_text()))
    return total


def require_memory(size: float, purpose: str, remedy: str) -> None:
    """Raise UserError if this number of bytes exceeds the memory."""
    if size > (total := get_total_memory()):
        raise UserError(f"{purpose} need {size / 1e9:.1f} GB of memory, but there are {total / 1e9:.1f} GB; {remedy}")
