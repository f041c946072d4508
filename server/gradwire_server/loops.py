"""Which event loop runs, and how other threads leave it the interpreter. Nothing else may live here."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

TURN_S = 1e-3
"""So long, at most, a thread keeps the interpreter while another one wants it; Python's own 5 ms are many answers."""


def make_runner() -> asyncio.Runner:
    """Return what runs the event loop of a process that serves, whose threads take short turns from now on."""
    sys.setswitchinterval(TURN_S)
    return asyncio.Runner(loop_factory=_loop_factory())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where it is installed; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
