"""The pages of LLVM's code, which a process needs while it compiles. Nothing else may live here.

LLVM is 80 MB of machine code, most of which one compilation maps, and keeps mapped for good. The file holds the same: what is
given back comes again from the cache of files once it is run.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

LIBRARY = "libllvmlite"
_MAPS = Path("/proc/self/maps")
_DONT_NEED = 4  # of madvise(2)


def give_back_code() -> bool:
    """Give the pages of LLVM's code back to the system; tell whether it can. Other threads may run it meanwhile."""
    if sys.platform != "linux":
        return False
    ranges = _code_of(LIBRARY)
    advise = ctypes.CDLL(None).madvise
    return all(advise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _DONT_NEED) == 0 for start, stop in ranges)


def _code_of(library: str) -> list[tuple[int, int]]:
    """Return the ranges of memory into which this process maps the code of a library, which nothing writes to."""
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for addresses, access, *_, path in (line.split(maxsplit=5) for line in lines if library in line):
        if access == "r-xp" and library in Path(path).name:
            start, stop = (int(part, 16) for part in addresses.split("-"))
            found.append((start, stop))
    return found
