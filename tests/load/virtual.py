"""Time that passes only when nothing is left to do, and a server that is a function of it: so a minute of load takes no time."""

from __future__ import annotations

import asyncio
import itertools
import struct

from gradwire_load.arrivals import Arrivals, Step
from gradwire_load.encoding import Encoded
from gradwire_load.generator import Generator, Share
from gradwire_load.tally import Tally
from gradwire_load.transport import CallError


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer as soon as there is nothing to do."""

    def __init__(self):
        super().__init__()
        self.seconds = 1000.0

    def time(self):
        return self.seconds

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.seconds = max(self.seconds, self._scheduled[0].when())
        super()._run_once()


class VirtualClock:
    """The clock of a VirtualLoop; it can be made to lose time, as a process that is not scheduled does."""

    def __init__(self, pauses=()):
        self.loop = asyncio.get_running_loop()
        self.pauses = list(pauses)

    def now(self):
        return self.loop.time()

    async def wait_until(self, due_s):
        await asyncio.sleep(max(0.0, due_s - self.now()))
        if self.pauses and self.now() >= self.pauses[0][0]:
            self.loop.seconds += self.pauses.pop(0)[1]


class DelayedEcho:
    """Answers each request after the next of given delays, however many wait."""

    def __init__(self, delays, reason=None):
        self.delays = itertools.cycle(delays)
        self.reason = reason
        self.asked = 0
        self.most = self.under_way = 0

    async def ask(self, request, timeout_s):
        self.asked += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(next(self.delays))
        self.under_way -= 1
        if self.reason:
            raise CallError(self.reason, "what the server said")
        return request.data


class Queue:
    """A server that takes one request after the other, and stops once for a while."""

    def __init__(self, service_s, stall_at_s, stall_s):
        self.service_s, self.stall_at_s, self.stall_s = service_s, stall_at_s, stall_s
        self.free_s = 0.0

    async def ask(self, request, timeout_s):
        now = asyncio.get_running_loop().time()
        begin = max(now, self.free_s)
        if self.stall_at_s <= begin < self.stall_at_s + self.stall_s:
            begin = self.stall_at_s + self.stall_s
        self.free_s = begin + self.service_s
        await asyncio.sleep(self.free_s - now)
        return request.data


def encoded(text=b"x"):
    return Encoded(text, None, text, ())


def share(operations=1, variants=1, **given):
    requests = tuple(tuple(encoded(struct.pack("<ii", number, place)) for place in range(variants)) for number in range(operations))
    settings = {"timeout_s": 10.0, "check": 0.0, "seed": 1, "in_flight_max": 10_000, "weights": (1.0,) * operations}
    return Share(number=0, of=1, operations=requests, **(settings | given))


def steady(kind, level, seconds):
    return Arrivals(kind, (Step(seconds, level),))


def send(transport, arrivals, *, of=None, pauses=(), late_s=5e-3, began_s=1001.0):
    """The tally of a load that was sent in virtual time, and its batch."""

    async def run():
        clock = VirtualClock(pauses)
        generator = Generator(of or share(), transport, clock)
        await generator.run(arrivals, began_s)
        return generator.take()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        batch = runner.run(run())
    count = len((of or share()).operations)
    tally = Tally(count, began_s, began_s + arrivals.duration_s, late_s=late_s, is_closed=arrivals.is_closed)
    tally.add(batch)
    return tally, batch
