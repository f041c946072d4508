"""A line on stderr that shows how far a map is. Nothing else may live here."""

from __future__ import annotations

import operator
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, TextIO

FIRST_AFTER_S = 0.5
NEXT_AFTER_S = 0.1
WIDTH = 20


class Progress:
    """Counts what passes and shows it, on a terminal alone.

    Args:
        arguments: what is mapped over; tells how much will pass, where it can.
        is_shown: whether to show it.
        stream: where; stderr by default.
    """

    def __init__(self, arguments: Sequence[Iterable[Any]] = (), *, is_shown: bool = True, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._is_shown = is_shown and self._stream is not None and self._stream.isatty()
        self._total = max((operator.length_hint(item, 0) for item in arguments), default=0)
        self._count = 0
        self._began_s = time.monotonic()
        self._due_s = self._began_s + FIRST_AFTER_S
        self._length = 0

    def follow(self, items: Iterator[Any]) -> Iterator[Any]:
        """Yield the items."""
        try:
            for item in items:
                self.add()
                yield item
        finally:
            self.end()

    async def follow_async(self, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield the items."""
        try:
            async for item in items:
                self.add()
                yield item
        finally:
            self.end()

    def add(self) -> None:
        """Count one more."""
        self._count += 1
        if self._is_shown and time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + NEXT_AFTER_S
            self._show()

    def end(self) -> None:
        """Show the last state and leave the line, if there is one."""
        if self._length:
            self._show()
            self._stream.write("\n")
            self._stream.flush()
            self._length = 0

    def _show(self) -> None:
        line = self.line(time.monotonic() - self._began_s)
        self._stream.write("\r" + line.ljust(self._length))
        self._stream.flush()
        self._length = len(line)

    def line(self, elapsed_s: float) -> str:
        """Return what is shown after some seconds."""
        rate = self._count / max(elapsed_s, 1e-9)
        speed = f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each" if rate else "0/s"
        if self._total < self._count or not self._total:
            return f"{self._count}  {speed}  {_clock(elapsed_s)}"
        part = self._count / self._total
        bar = ("#" * round(part * WIDTH)).ljust(WIDTH, ".")
        left = f"{_clock((self._total - self._count) / rate)} left" if self._count < self._total and rate else _clock(elapsed_s)
        return f"{self._count}/{self._total} [{bar}] {part:.0%}  {speed}  {left}"


def _clock(seconds: float) -> str:
    """Return seconds as minutes and seconds, `2:05`, or with hours, `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
