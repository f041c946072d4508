"""Maps of segments that come again. Nothing else may live here.

To map memory takes three times what it takes to read it. So a worker keeps the maps of marked segments for a while: within a
bound of bytes, and as long as they are used. What the other side frees is freed here too (`Segment.free`).
"""

from __future__ import annotations

import mmap
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from gradwire_server.segments import Segment

LEAST_BYTES: Final = 2**20
"""Smaller segments are not worth it."""

KEPT_BYTES: Final = 2**28
"""The most that is kept mapped; the other side keeps no more either."""

KEPT_S: Final = 10.0
"""How long it is kept without being used."""


class _Kept(NamedTuple):
    map: mmap.mmap
    used_s: float


class Mappings:
    """The maps that a process keeps, by the marks of their segments; the least recently used leave first.

    Args:
        clock: tells the seconds.

    Attributes:
        nbytes: how many bytes are kept mapped.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self.nbytes = 0

    def attach(self, segment: Segment) -> None:
        """Have a segment that came use the map that there is of it, or have its map kept."""
        mark = segment.mark if LEAST_BYTES <= segment.size <= KEPT_BYTES else ""
        if not mark:
            return
        known = self._kept.get(mark)
        if known is not None and len(known.map) != segment.size:
            return
        try:
            found = segment.map(known and known.map)
        except OSError:
            return  # whoever reads it is told
        self._forget(mark)
        self._kept[mark] = _Kept(found, self._clock())
        self.nbytes += segment.size
        self.rest()

    def rest(self) -> None:
        """Let go of what is too much, or has not been used for long."""
        since_s = self._clock() - KEPT_S
        while self._kept:
            mark = next(iter(self._kept))
            if self.nbytes <= KEPT_BYTES and self._kept[mark].used_s > since_s:
                return
            self._forget(mark)

    def close(self) -> None:
        """Let go of all."""
        self._kept.clear()
        self.nbytes = 0

    def _forget(self, mark: str) -> None:
        kept = self._kept.pop(mark, None)
        if kept is not None:
            self.nbytes -= len(kept.map)
