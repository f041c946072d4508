"""How the C library keeps freed memory. Nothing else may live here.

By default glibc gives the memory of large arrays back to the system when they are freed, and asks for it again at the next call:
each of its pages is then cleared and mapped anew, which takes longer than most arithmetic on it. Raised thresholds keep it.
"""

from __future__ import annotations

import ctypes
import sys

MMAP_THRESHOLD_BYTES = 512 * 2**20
"""Larger arrays are mapped and given back by themselves."""

TRIM_THRESHOLD_BYTES = 512 * 2**20
"""So much freed memory is kept at most, at the end of the heap."""

TOP_PAD_BYTES = 16 * 2**20
"""So much more is asked for at a time."""

VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(TRIM_THRESHOLD_BYTES),
    "MALLOC_TOP_PAD_": str(TOP_PAD_BYTES),
}
"""What has a process that is started with them in its environment keep freed memory, from its first allocation on."""

# The numbers of the parameters of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Have the process keep freed memory for arrays to come; tell whether its C library can.

    It is the whole process that keeps it: `TRIM_THRESHOLD_BYTES` at most.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library than glibc
        return False
    settings = ((_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES), (_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES), (_TOP_PAD, TOP_PAD_BYTES))
    return all(mallopt(parameter, value) for parameter, value in settings)
