"""The clock of a generator: what time it is, and how it waits for a time more precisely than an event loop does.

Event loops wait in whole milliseconds. A timer of the kernel is a file that becomes readable at its time, to some microseconds.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from typing import Protocol

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC if hasattr(os, "O_CLOEXEC") else 0
_NEAR_S = 20e-6  # not worth a wait


class Clock(Protocol):
    """What a generator asks of time."""

    def now(self) -> float:
        """Return the time, in seconds."""

    async def wait_until(self, due_s: float) -> None:
        """Wait until a time; return at once if it has passed."""


class LoopClock:
    """The clock of the running event loop, and its timers."""

    def now(self) -> float:
        """Return the time, in seconds."""
        return time.monotonic()

    async def wait_until(self, due_s: float) -> None:
        """Wait until a time, to a millisecond."""
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    def close(self) -> None:
        """Do nothing."""


class _Moment(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Moment), ("value", _Moment))


class TimerClock(LoopClock):
    """The monotonic clock, and a timer of the Linux kernel; one coroutine may wait at a time.

    Raises:
        OSError: the system has no such timers.
    """

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(None, use_errno=True)
            self._set, create = library.timerfd_settime, library.timerfd_create
        except (AttributeError, TypeError) as error:
            raise OSError("clock: needed timers of Linux, got a system without; use another clock") from error
        self._file: int = create(_CLOCK_MONOTONIC, _FLAGS)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._due: asyncio.Future[None] | None = None
        asyncio.get_running_loop().add_reader(self._file, self._ring)

    async def wait_until(self, due_s: float) -> None:
        """Wait until a time, to some microseconds."""
        if due_s - time.monotonic() < _NEAR_S:
            await asyncio.sleep(0)
            return
        whole = int(due_s)
        setting = _Setting(value=_Moment(whole, int((due_s - whole) * 1e9)))
        self._set(self._file, _ABSOLUTE, ctypes.byref(setting), None)
        self._due = asyncio.get_running_loop().create_future()
        try:
            await self._due
        finally:
            self._due = None

    def close(self) -> None:
        """Give the timer back."""
        asyncio.get_running_loop().remove_reader(self._file)
        os.close(self._file)

    def _ring(self) -> None:
        os.read(self._file, 8)
        if self._due is not None and not self._due.done():
            self._due.set_result(None)


def make_clock() -> LoopClock:
    """Return the most precise clock that this system has; only within a running event loop."""
    try:
        return TimerClock()
    except OSError:
        return LoopClock()
