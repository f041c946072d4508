"""Segments between their uses. No gRPC.

To take new memory takes ten times what it takes to write to old. So a segment that was filled, and that no worker is at any
more, is kept for a while, for a tensor of the same size of the same identity: what one identity sent or was sent never stands
in memory that another's tensors come to. Nothing else may live here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from gradwire_server.mappings import KEPT_BYTES, LEAST_BYTES
from gradwire_server.segments import Segment

IDLE_BYTES: Final = KEPT_BYTES
"""The most that is kept."""

IDLE_S: Final = 10.0
"""How long it is kept without being used."""

_SLOW_BYTES = 2**24


class _Kept(NamedTuple):
    identity: str
    segment: Segment
    since_s: float


class Idle:
    """The segments that a process keeps for later; those kept longest leave first.

    Attributes:
        nbytes: how many bytes are kept.
    """

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.nbytes = 0

    def take(self, identity: str, size: int) -> Segment | None:
        """Return a segment of a size whose memory is there, and was the identity's before; None where none is kept."""
        if size < LEAST_BYTES:
            return None
        for kept in reversed(self._kept):
            if kept.segment.size == size and kept.identity == identity:
                self._kept.remove(kept)
                self.nbytes -= size
                return kept.segment
        return None

    def make(self, identity: str, size: int) -> Segment:
        """Return a segment of a size that is going to be filled.

        Raises:
            OSError: the system has no descriptor left, or allows no such size.
        """
        return self.take(identity, size) or Segment.create(size, is_marked=size >= LEAST_BYTES)

    def take_all(self, identity: str, sizes: Iterable[int]) -> list[Segment]:
        """Return segments of sizes, up to the first of which none is kept."""
        found: list[Segment] = []
        for size in sizes:
            segment = self.take(identity, size)
            if segment is None:
                break
            found.append(segment)
        return found

    def give(self, identity: str, segment: Segment) -> None:
        """Take a segment that was an identity's, and that nobody reads or writes any more; it is kept if it can be used again."""
        size = segment.size
        if not LEAST_BYTES <= size <= IDLE_BYTES or segment.written < size or not segment.mark:
            let_go(segment)
            return
        loop = asyncio.get_running_loop()
        self._kept.append(_Kept(identity, segment, loop.time()))
        self.nbytes += size
        while self.nbytes > IDLE_BYTES:
            self._free_first()
        if self._timer is None:
            self._timer = loop.call_later(IDLE_S, self._rest)

    def _rest(self) -> None:
        """Give back what has not been used for long."""
        loop = asyncio.get_running_loop()
        while self._kept and self._kept[0].since_s + IDLE_S <= loop.time():
            self._free_first()
        self._timer = loop.call_at(self._kept[0].since_s + IDLE_S, self._rest) if self._kept else None

    def _free_first(self) -> None:
        segment = self._kept.popleft().segment
        self.nbytes -= segment.size
        _in_thread(segment.free)


def let_go(segment: Segment) -> None:
    """Close a segment, be it at once or, as to free much memory takes long, in a thread."""
    if segment.size >= _SLOW_BYTES:
        _in_thread(segment.close)
    else:
        segment.close()


def abandon(segment: Segment) -> None:
    """Give the memory of a segment back that a worker may be at yet, where nobody is going to use what that worker answers."""
    if segment.size >= LEAST_BYTES:
        _in_thread(segment.free)
    else:
        segment.close()


def _in_thread(work: Callable[[], None]) -> None:
    try:
        asyncio.get_running_loop().run_in_executor(None, work)
    except RuntimeError:  # nobody has to wait
        work()
