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

MOST_ARENAS = 2
"""Among so many heaps a process of a server shares its threads out: each heap keeps freed memory by itself."""

VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(TRIM_THRESHOLD_BYTES),
    "MALLOC_TOP_PAD_": str(TOP_PAD_BYTES),
    "MALLOC_ARENA_MAX": str(MOST_ARENAS),
}
"""What has a process that is started with them in its environment keep freed memory, from its first allocation on."""

# The numbers of the parameters of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory(*, in_few_arenas: bool = False) -> bool:
    """Have the process keep freed memory for arrays to come; tell whether its C library can.

    It is the whole process that keeps it: `TRIM_THRESHOLD_BYTES` at most in each of its arenas.

    Args:
        in_few_arenas: whether threads that start from now on share `MOST_ARENAS`.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library than glibc
        return False
    settings = [(_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES), (_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES), (_TOP_PAD, TOP_PAD_BYTES)]
    settings += [(_ARENA_MAX, MOST_ARENAS)] if in_few_arenas else []
    return all(mallopt(parameter, value) for parameter, value in settings)


def give_freed_memory_back() -> bool:
    """Have the C library give the freed memory of all its heaps back, whatever is in use behind it; tell whether it did."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):  # another C library than glibc
        return False
