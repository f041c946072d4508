"""How much may wait before what comes is refused: much, as long as that is the end of it, and little in a flood.

Callers who wait for answers before they ask again make queues that end by themselves, however long. A flood does not end: all that
is admitted would wait as long as may be. So once as much work was refused within a second as is done in one, a task may wait a
quarter as long as it takes, or a moment, until none had to be refused for a while. So few are enough, for the next comes before a
worker has long been idle. Those who are refused are told to come again when there is room for as many as they are.
No I/O. Nothing else may live here.
"""

from __future__ import annotations

import math
import random

_WAIT_SHARE = 0.25
_LEAST_WAIT_S = 0.005
_CALM_S = 1.0
_MEMORY_S = 1.0  # of what was refused
_FLOOD_SHARE = 1.0  # of what is done in that time
_MOST_OF_ONE = 0.5
_LEAST_RETRY_S = 0.02
_LAST_RETRY_S = 2.0

_between = random.Random().uniform  # noqa: S311  # so that not all come again at once


class Pressure:
    """Whether more comes than is done.

    Args:
        max_wait_s: seconds of work that may wait for a worker as long as it does not.
        worker_count: how many work.
    """

    def __init__(self, max_wait_s: float, worker_count: int) -> None:
        self._max_wait_s = max_wait_s
        self._worker_count = worker_count
        self._refused_s = 0.0  # of work, a moment ago more than long ago
        self._flood_s = 0.0  # the same, but of each task no more than half of what is done meanwhile: one makes no flood
        self._last_s = -math.inf
        self._is_flood = False

    def is_high(self, now_s: float) -> bool:
        """Tell whether far more comes than is done."""
        return self._is_flood and now_s - self._last_s < _CALM_S

    def spared_count(self, now_s: float) -> int:
        """Return how many may wait whatever they are predicted to take: one for each worker, and one for all in a flood."""
        return 1 if self.is_high(now_s) else self._worker_count

    def allowed_s(self, task_s: float, now_s: float) -> float:
        """Return the seconds of work that may wait for each worker before a task that takes so long."""
        if not self.is_high(now_s):
            return self._max_wait_s
        return min(self._max_wait_s, max(_LEAST_WAIT_S, _WAIT_SHARE * task_s))

    def refuse(self, task_s: float, now_s: float) -> bool:
        """Take note that a task is refused; tell whether from now on little may wait where much might."""
        was_high = self.is_high(now_s)
        left = math.exp((self._last_s - now_s) / _MEMORY_S)
        self._refused_s = self._refused_s * left + task_s
        self._flood_s = self._flood_s * left + min(task_s, _MOST_OF_ONE * _MEMORY_S)
        self._last_s = now_s
        self._is_flood = was_high or self._flood_s >= _FLOOD_SHARE * _MEMORY_S * self._worker_count
        return self._is_flood and not was_high

    def retry_s(self, soonest_s: float) -> float:
        """Return after how many seconds one who is refused may come again, if there is no room sooner than in so many."""
        spread_s = min(self._refused_s / self._worker_count, _LAST_RETRY_S)
        return max(soonest_s, _LEAST_RETRY_S, spread_s * _between(0.5, 1.5))
