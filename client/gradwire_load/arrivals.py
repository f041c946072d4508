"""When requests are sent. Nothing here waits or sends.

An open loop sends on a schedule, whether or not earlier requests were answered: times u_k = 1, 2, 3, ... on a clock that ticks once
an expected request (evenly, or with exponential gaps) are mapped to seconds by the inverse of the expected count up to a time,
which is piecewise linear. A closed loop keeps a number of requests under way.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

KINDS = ("poisson", "uniform", "closed")
BLOCK = 4096  # times made at once


class Step(NamedTuple):
    """A time with one level.

    Attributes:
        for_s: how long it lasts, in seconds.
        level: requests a second; in a closed loop, requests under way.
    """

    for_s: float
    level: float


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When requests are sent.

    Attributes:
        kind: `poisson`, `uniform` or `closed`.
        steps: the levels, one after the other.
    """

    kind: str
    steps: tuple[Step, ...]

    @property
    def is_closed(self) -> bool:
        """Whether a number of requests is kept under way, instead of a rate."""
        return self.kind == "closed"

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last."""
        return sum(step.for_s for step in self.steps)

    @property
    def mean_level(self) -> float:
        """The level, averaged over time."""
        return sum(step.for_s * step.level for step in self.steps) / self.duration_s

    def level_at(self, second: float) -> float:
        """Return the level at a time, in seconds from the start; 0 after the end."""
        ends = list(itertools.accumulate(step.for_s for step in self.steps))
        place = bisect.bisect_right(ends, second)
        return self.steps[place].level if place < len(ends) else 0.0

    def expected(self, start_s: float, stop_s: float) -> float:
        """Return how many requests are expected to be sent between two times; only of an open loop."""
        knots, counts = self._curve()
        first, last = np.interp([start_s, stop_s], knots, counts)
        return float(last - first)

    def with_warmup(self, seconds: float) -> Arrivals:
        """Return arrivals that begin so much earlier, at their first level."""
        steps = (Step(seconds, self.steps[0].level), *self.steps) if seconds > 0 else self.steps
        return Arrivals(self.kind, steps)

    def times(self, number: int = 0, of: int = 1, seed: int = 0) -> Iterator[float]:
        """Yield the times of one of several processes that share an open loop, in seconds from the start.

        Args:
            number: which process, from 0.
            of: how many there are.
            seed: of the gaps; each process draws its own.
        """
        knots, counts = self._curve()
        draw = np.random.default_rng([seed, number])
        last = 0.0
        for block in itertools.count():
            if self.kind == "poisson":
                ticks = last + np.cumsum(draw.exponential(size=BLOCK)) * of
                last = float(ticks[-1])
            else:
                ticks = number + 0.5 + of * np.arange(block * BLOCK, (block + 1) * BLOCK, dtype=np.float64)
            inside = ticks[ticks < counts[-1]]
            yield from np.interp(inside, counts, knots).tolist()
            if inside.size < BLOCK:
                return

    def _curve(self) -> tuple[list[float], list[float]]:
        """Return times, and the expected number of requests up to each."""
        knots = [0.0, *itertools.accumulate(step.for_s for step in self.steps)]
        counts = [0.0, *itertools.accumulate(step.for_s * step.level for step in self.steps)]
        return knots, counts
