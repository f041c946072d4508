"""What tasks take, as far as it is known before they run: predicted by their executable, corrected by what the like of them took.

Nothing else may live here.
"""

from __future__ import annotations

from dataclasses import dataclass

from gradwire_server.cache import RecentlyUsed
from gradwire_server.frames import Prediction

_KEYS_BYTES = 2**22
_KEY_BYTES = 400
_WEIGHT = 0.25  # of the newest measurement


@dataclass(slots=True)
class _Known:
    """What is known of tasks of one key."""

    seconds: float
    peak_bytes: int
    is_stackable: bool


class Costs:
    """Learns what tasks take, by their key."""

    def __init__(self) -> None:
        self._known: RecentlyUsed[_Known] = RecentlyUsed(_KEYS_BYTES)
        self._typical = Prediction(0.0, 0)

    def expect(self, key: bytes | None, predicted: Prediction | None) -> Prediction:
        """Return what a task will take: as the last of its key did, else as predicted, else as one that nothing is known of."""
        known = None if key is None else self._known.get(key.hex())
        if known is not None:
            return Prediction(known.seconds, known.peak_bytes, known.is_stackable)
        return predicted or self._typical

    def learn(self, key: bytes | None, predicted: Prediction | None, seconds: float) -> None:
        """Take note of how long a worker was at a task, or its share of what it was at several together.

        Args:
            key: of the task, if it has one.
            predicted: what the worker predicted; None where nothing was evaluated.
            seconds: what it took.
        """
        told = predicted or Prediction(seconds, 0)
        if key is None:
            self._typical = Prediction(_mix(self._typical.seconds, seconds), told.peak_bytes)
            return
        name = key.hex()
        known = self._known.get(name)
        before_s = seconds if known is None else known.seconds
        self._known.put(name, _Known(_mix(before_s, seconds), told.peak_bytes, told.is_stackable), _KEY_BYTES)


def _mix(before: float, now: float) -> float:
    return before + _WEIGHT * (now - before)
