"""The memory of a worker: what bounds it, and what the kernel does where nothing did. Nothing here asks for memory itself.

On Linux a process can bound its own private memory: an allocation past the bound fails, and the task that asked for it fails
with MemoryError, before the kernel must kill somebody. Elsewhere nothing is bounded.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

_IS_LINUX = sys.platform == "linux"
_MEBIBYTE = 2**20
_SMALL_BYTES = 4 * _MEBIBYTE
_SLACK_BYTES = 256 * _MEBIBYTE
_VICTIM_SCORE = "500"
_PR_SET_PDEATHSIG = 1
_DESCRIPTOR_COUNT = 65536


class MemoryBound:
    """Bounds the private memory of this process, beside what it holds already.

    Args:
        max_bytes: bytes it may take at all.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC) if _IS_LINUX else -1
        self._limit = self._held() + max_bytes if _IS_LINUX else -1
        self._set(self._limit)

    @contextlib.contextmanager
    def expecting(self, predicted_bytes: int, output_bytes: int) -> Iterator[None]:
        """Bound what a block takes by what it is predicted to: twice that, its results once encoded, and some slack.

        Little is not bounded so: the bound of the whole process will do, and to change it would take as long as the block.
        """
        if predicted_bytes < _SMALL_BYTES or not _IS_LINUX:
            yield
            return
        self._set(min(self._limit, self._held() + 2 * predicted_bytes + 3 * output_bytes + _SLACK_BYTES))
        try:
            yield
        finally:
            self._set(self._limit)

    def _held(self) -> int:
        """Return the bytes of private writable memory, as the kernel counts them."""
        return int(os.pread(self._statm, 200, 0).split()[5]) * self._page_bytes

    def _set(self, limit: int) -> None:
        if _IS_LINUX:
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def volunteer() -> None:
    """Have the kernel end this process rather than others when memory runs out."""
    if _IS_LINUX:
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_VICTIM_SCORE)


def allow_descriptors() -> None:
    """Allow this process, and those that it starts, as many file descriptors as it may have, within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _DESCRIPTOR_COUNT if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTOR_COUNT)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def end_with_parent() -> None:
    """Have the kernel end this process with the one that started it, even in the middle of a task."""
    if _IS_LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def count_kernel_kills() -> int:
    """Return how many processes the kernel has ended for lack of memory since it booted; 0 where it does not tell."""
    if _IS_LINUX:
        with contextlib.suppress(OSError), Path("/proc/vmstat").open() as lines:
            for line in lines:
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0
