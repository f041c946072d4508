"""Where a sequence repeats itself: the blocks that unrolled loops leave behind.

A sequence of integers repeats with period p from s to e where each entry of [s, e - p) equals the one p further on. Periods are not
guessed: they are the distances at which equal windows come again.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire_core.types import Array

WINDOW = 8
MOST_PERIODS = 24
LONGEST_PERIOD = 2000
FEWEST_BLOCKS = 4
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd and without a pattern: 2^64 over the golden ratio


@dataclass(frozen=True)
class Repeat:
    """Blocks that are alike: `count` of `period` entries each, from `start` on."""

    start: int
    period: int
    count: int

    @property
    def stop(self) -> int:
        """The place after the last block."""
        return self.start + self.period * self.count


def find_repeats(codes: Array, fewest_saved: int) -> list[Repeat]:
    """Return repeats of a sequence that do not overlap, in order; all but one block of each are `fewest_saved` entries or more.

    Those that save most are chosen first, and others where these leave room. It takes time in proportion to the sequence.
    """
    found: list[Repeat] = []
    starts: list[int] = []
    for repeat in sorted(_candidates(codes, fewest_saved), key=lambda one: (one.period - one.stop + one.start, one.start)):
        for start, stop in list(_free(found, starts, repeat)):
            count = (stop - start) // repeat.period
            if count >= FEWEST_BLOCKS and (count - 1) * repeat.period >= fewest_saved:
                place = bisect.bisect(starts, start)
                starts.insert(place, start)
                found.insert(place, Repeat(start, repeat.period, count))
    return found


def _candidates(codes: Array, fewest_saved: int) -> Iterator[Repeat]:
    """Yield repeats, which may overlap."""
    for period in _periods(codes):
        if len(codes) <= period:
            continue
        is_equal = np.concatenate([[False], codes[:-period] == codes[period:], [False]])
        edges = np.flatnonzero(is_equal[1:] != is_equal[:-1]).reshape(-1, 2)
        lengths = edges[:, 1] - edges[:, 0]
        is_long = lengths >= max(fewest_saved, (FEWEST_BLOCKS - 1) * period)
        for start, length in zip(edges[is_long, 0].tolist(), lengths[is_long].tolist(), strict=True):
            yield Repeat(start, period, length // period + 1)


def _periods(codes: Array) -> list[int]:
    """Return the commonest distances from a window to the next that is equal."""
    count = len(codes) - WINDOW + 1
    if count < 2:
        return []
    hashes: Any = np.zeros(count, np.uint64)
    for place in range(WINDOW):
        hashes = (hashes ^ codes[place : place + count].astype(np.uint64)) * _FACTOR
        hashes ^= hashes >> np.uint64(29)
    order = np.argsort(hashes, kind="stable")
    distances = np.diff(order)[np.diff(hashes[order]) == 0]
    periods, counts = np.unique(distances[distances <= LONGEST_PERIOD], return_counts=True)
    found: list[int] = periods[np.argsort(-counts, kind="stable")[:MOST_PERIODS]].tolist()
    return found


def _free(found: list[Repeat], starts: list[int], repeat: Repeat) -> Iterator[tuple[int, int]]:
    """Yield the parts of a repeat that those found leave."""
    start = repeat.start
    place = max(bisect.bisect(starts, start) - 1, 0)
    while place < len(found) and found[place].start < repeat.stop:
        if found[place].start > start:
            yield start, found[place].start
        start = max(start, found[place].stop)
        place += 1
    if start < repeat.stop:
        yield start, repeat.stop
