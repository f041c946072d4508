"""Finding the saturation point: the highest rate at which the objectives hold. Nothing here sends; it is told what came of a trial.

The rate doubles until a trial fails, then the interval between the best rate that held and the least that failed is halved until it
is as narrow as wanted. A rate has failed only after two trials: on a shared machine one may fail by bad luck.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

TRIALS = 2  # in which a rate must fail
FACTOR = 2.0
PRECISION = 0.05
MOST_RATES = 24


class Outcome(Enum):
    """What came of a trial."""

    HELD = "held"
    """All objectives were met."""
    FAILED = "failed"
    """One was not."""
    UNSENT = "unsent"
    """The generator could not keep the schedule, so nothing is known."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where the saturation point is.

    Attributes:
        rate: the highest rate that held, in requests a second; 0 where none did.
        failed: the least rate that did not; inf where none failed.
        is_limited: whether it was the generator that could do no more.
    """

    rate: float
    failed: float
    is_limited: bool


def find_max(start: float, attempt: Callable[[float], Outcome], precision: float = PRECISION) -> Found:
    """Return the highest rate that holds.

    Args:
        start: the rate of the first trial.
        attempt: runs a trial at a rate.
        precision: the width of the last interval, as a share of the rate.
    """
    best, worst, is_limited = 0.0, math.inf, False
    rate = start
    for _ in range(MOST_RATES):
        outcome = attempt(rate)
        for _ in range(TRIALS - 1):
            if outcome is Outcome.HELD:
                break
            outcome = attempt(rate)
        if outcome is Outcome.HELD:
            best = rate
        else:
            worst, is_limited = rate, outcome is Outcome.UNSENT
        if math.isinf(worst):
            rate *= FACTOR
        elif not best:
            rate /= 2.0 * FACTOR
        elif worst - best <= precision * worst:
            break
        else:
            rate = math.sqrt(best * worst)
        if rate < start * 1e-3:
            break
    return Found(best, worst, is_limited)
