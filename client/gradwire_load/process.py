"""A generator in a process of its own: it takes orders from a pipe, and reports what happened twice a second.

    orders: Run, Stop, None (the end)        reports: Ready, Batch, Done

The pipe is read and written by threads, so that the loop that sends never waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from gradwire_load.arrivals import Arrivals
from gradwire_load.clock import make_clock
from gradwire_load.generator import Generator, Share
from gradwire_load.transport import Connections, Route

REPORT_S = 0.5


@dataclass(frozen=True, slots=True)
class Run:
    """An order to send.

    Attributes:
        arrivals: when.
        began_s: the time on the monotonic clock from which they count.
    """

    arrivals: Arrivals
    began_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """An order to send no more."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A report: the process takes orders."""


@dataclass(frozen=True, slots=True)
class Done:
    """A report: everything that an order sent has ended."""


def main(pipe: Connection[Any, Any], route: Route, share: Share) -> None:
    """Send as ordered until told to end, or until nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it decides what an interrupt means
    with asyncio.Runner(loop_factory=_loop_factory()) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(_serve(pipe, route, share))


async def _serve(pipe: Connection[Any, Any], route: Route, share: Share) -> None:
    reports: queue.SimpleQueue[Any] = queue.SimpleQueue()
    orders: asyncio.Queue[Run | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    clock, connections = make_clock(), Connections(route)
    generator = Generator(share, connections, clock)

    def take(order: Any) -> None:
        if not isinstance(order, Run):
            generator.stop()
        if not isinstance(order, Stop):
            orders.put_nowait(order)

    threads = [
        threading.Thread(target=_read, args=(pipe, lambda order: loop.call_soon_threadsafe(take, order)), daemon=True),
        threading.Thread(target=_write, args=(pipe, reports), daemon=True),
    ]
    for thread in threads:
        thread.start()
    reports.put(Ready())
    gc.freeze()  # what is here stays; collections look at what is new
    try:
        while (order := await orders.get()) is not None:
            await _run(generator, order, reports)
    finally:
        reports.put(None)
        await asyncio.to_thread(threads[1].join)
        await connections.close()
        clock.close()


async def _run(generator: Generator, order: Run, reports: queue.SimpleQueue[Any]) -> None:
    reporting = asyncio.get_running_loop().create_task(_report(generator, reports))
    try:
        await generator.run(order.arrivals, order.began_s)
    finally:
        reporting.cancel()
    reports.put(_take(generator))
    reports.put(Done())


async def _report(generator: Generator, reports: queue.SimpleQueue[Any]) -> None:
    while True:
        await asyncio.sleep(REPORT_S)
        reports.put(_take(generator))


def _take(generator: Generator) -> Any:
    batch = generator.take()
    batch.cpu_s = time.process_time()
    return batch


def _read(pipe: Connection[Any, Any], take: Callable[[Any], Any]) -> None:
    order: Any = True
    while order is not None:
        try:
            order = pipe.recv()
        except (EOFError, OSError):  # whoever gave orders is gone
            order = None
        with contextlib.suppress(RuntimeError):  # the loop is closed
            take(order)


def _write(pipe: Connection[Any, Any], reports: queue.SimpleQueue[Any]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while (report := reports.get()) is not None:
            pipe.send(report)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where it is installed; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
