"""Memory that stays with the process: glibc's allocator gives every block above 32 MiB back to the system at once.

A training step frees and takes the same maps again and again, and each time the system hands out pages that have to be
zeroed and mapped: about a third of a CPU's time in SNGAN-ResNet 32.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of mallopt(3)
KEPT = 2**31 - 1  # bytes at the heap's end that are not given back, the most that mallopt takes
GROWTH = 64 * 2**20  # bytes by which the heap grows at least


def keep_freed_memory() -> bool:
    """Let malloc keep what it has freed for the next step; return whether that could be had (glibc on Linux)."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl and others have a mallopt that does nothing, or none
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEPT), (M_TOP_PAD, GROWTH))
    for parameter, value in settings:
        libc.mallopt(parameter, value)
    return True
