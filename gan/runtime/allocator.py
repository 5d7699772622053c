"""Settings of glibc's allocator, which by default returns each freed block above 32 MiB to the operating system.

A training step allocates and frees the same feature maps again and again. If their pages are returned, the operating
system must map and clear them each time. This takes about a third of the CPU time of SNGAN-ResNet at 32x32.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # parameters of mallopt(3)
KEPT_BYTES = 2**31 - 1  # free memory at the end of the heap that is kept; the largest value that mallopt accepts
GROWTH_BYTES = 64 * 2**20  # the heap grows by at least this much


def keep_freed_memory() -> bool:
    """Let malloc keep freed memory for later allocations. Return whether this is supported (glibc on Linux)."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # other C libraries have no mallopt, or one without effect
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEPT_BYTES), (M_TOP_PAD, GROWTH_BYTES))
    for parameter, value in settings:
        libc.mallopt(parameter, value)
    return True
