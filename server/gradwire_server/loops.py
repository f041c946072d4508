"""Which event loop runs, and what keeps the interpreter from it. Nothing else may live here."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Callable, Iterator

TURN_S = 1e-3
"""After so long a thread that runs Python is asked to let another one have the interpreter; Python's own 5 ms are many answers."""


def make_runner() -> asyncio.Runner:
    """Return what runs the event loop of a process that serves, whose threads take short turns from now on."""
    sys.setswitchinterval(TURN_S)
    return asyncio.Runner(loop_factory=_loop_factory())


@contextlib.contextmanager
def leaving_alone() -> Iterator[None]:
    """Have the garbage collector walk only what is made in a block: to walk all else holds an event loop up for 20 ms each time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where it is installed; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
