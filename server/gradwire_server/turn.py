"""How long what is answered at once keeps the event loop from others. Nothing else may live here."""

from __future__ import annotations

import asyncio

_MOST_S = 2e-3


class Turn:
    """How long answers that were computed here have kept the event loop since that last was too long.

    Attributes:
        is_over: whether others are to have their turn first.
    """

    def __init__(self) -> None:
        self._spent_s = 0.0
        self.is_over = False

    async def come(self) -> None:
        """Return when it is not over any more."""
        while self.is_over:  # noqa: ASYNC110  # an event would have all come back at once
            await asyncio.sleep(0)

    def spend(self, seconds: float) -> None:
        """Take note of some seconds."""
        self._spent_s += seconds
        if self._spent_s > _MOST_S and not self.is_over:
            self.is_over = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._spent_s, self.is_over = 0.0, False
