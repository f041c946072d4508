"""The loop that sends: one process's share of a load. It measures and keeps numbers; what they mean is for the tally.

Latency runs from the time at which a request was due, not from when it was sent: a request that had to wait for a slow generator or
a full connection has waited all the same (otherwise a stall would hide the requests that it kept from being sent).
"""

from __future__ import annotations

import asyncio
import itertools
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gradwire_load.arrivals import Arrivals
from gradwire_load.clock import Clock
from gradwire_load.encoding import Encoded
from gradwire_load.transport import CallError, Transport

OK = "OK"
COLUMNS = 5  # due, sent, done, operation, outcome
SAMPLE_BYTES = 64 * 2**20  # of answers that wait to be checked
SAMPLE_TEXTS = 3  # texts kept of each reason


@dataclass(frozen=True, slots=True)
class Share:
    """What one process sends.

    Attributes:
        number: which process it is, from 0.
        of: how many there are.
        operations: the variants of each operation.
        weights: how often each operation is chosen.
        timeout_s: the deadline of a request.
        check: the share of answers that is kept to be checked.
        seed: of all that is random.
        in_flight_max: how many requests may be under way.
    """

    number: int
    of: int
    operations: tuple[tuple[Encoded, ...], ...]
    weights: tuple[float, ...]
    timeout_s: float
    check: float
    seed: int
    in_flight_max: int


class Answer(NamedTuple):
    """An answer that is to be checked.

    Attributes:
        operation: the operation it belongs to.
        variant: which variant of that.
        data: its bytes.
        due_s: when the request was due.
    """

    operation: int
    variant: int
    data: bytes
    due_s: float


@dataclass(slots=True)
class Batch:
    """What happened since the batch before.

    Attributes:
        rows: for each request that ended, `COLUMNS` numbers: when it was due, sent and done, in seconds of the clock; its
            operation; its outcome, a position in `outcomes`.
        outcomes: `OK`, then the reasons of errors.
        texts: what the server said, a few for each reason.
        answers: those to be checked.
        in_flight: requests under way.
        held: how many requests had to wait because too many were under way.
        until_s: the time of the batch.
        cpu_s: seconds of processor time that the process has taken since it began.
    """

    rows: array[float] = field(default_factory=lambda: array("d"))
    outcomes: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    in_flight: int = 0
    held: int = 0
    until_s: float = 0.0
    cpu_s: float = 0.0


class Generator:
    """Sends a share of a load.

    Args:
        share: what it sends.
        transport: what carries it.
        clock: the time.
    """

    def __init__(self, share: Share, transport: Transport, clock: Clock) -> None:
        self._share = share
        self._transport = transport
        self._clock = clock
        self._outcomes: dict[str, int] = {OK: 0}
        self._batch = Batch()
        self._sample_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._stopped = False
        self._random = random.Random(f"{share.seed}/{share.number}")  # noqa: S311  # no secret
        self._turns = itertools.cycle(_deal(share.weights, self._random))
        self._variants = [itertools.cycle(enumerate(variants)) for variants in share.operations]
        self._unseen = {(number, place) for number, item in enumerate(share.operations) for place in range(len(item))}

    async def run(self, arrivals: Arrivals, began_s: float) -> None:
        """Send, and wait for all answers.

        Args:
            arrivals: when.
            began_s: the time on the clock from which they count.
        """
        self._stopped = False
        await (self._run_closed if arrivals.is_closed else self._run_open)(arrivals, began_s)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """Send no more."""
        self._stopped = True
        self._room.set()

    def take(self) -> Batch:
        """Return what happened since this was last called."""
        batch, self._batch, self._sample_bytes = self._batch, Batch(), 0
        batch.outcomes = list(self._outcomes)
        batch.in_flight = len(self._tasks)
        batch.until_s = self._clock.now()
        return batch

    async def _run_open(self, arrivals: Arrivals, began_s: float) -> None:
        clock, share, tasks = self._clock, self._share, self._tasks
        create = asyncio.get_running_loop().create_task
        for second in arrivals.times(share.number, share.of, share.seed):
            due_s = began_s + second
            if clock.now() < due_s:
                await clock.wait_until(due_s)
            if len(tasks) >= share.in_flight_max:
                self._batch.held += 1
                await self._wait_for_room()
            if self._stopped:
                return
            task = create(self._send(due_s))
            tasks.add(task)
            task.add_done_callback(self._forget)

    async def _wait_for_room(self) -> None:
        while len(self._tasks) >= self._share.in_flight_max and not self._stopped:
            self._room.clear()
            await self._room.wait()

    async def _run_closed(self, arrivals: Arrivals, began_s: float) -> None:
        most = max(step.level for step in arrivals.steps)
        callers = range(self._share.number, round(most), self._share.of)
        for caller in callers:
            task = asyncio.get_running_loop().create_task(self._call_repeatedly(caller, arrivals, began_s))
            self._tasks.add(task)
            task.add_done_callback(self._forget)

    async def _call_repeatedly(self, caller: int, arrivals: Arrivals, began_s: float) -> None:
        """Send one request after the other while the level asks for this caller, counted from 0."""
        edges = list(itertools.accumulate((step.for_s for step in arrivals.steps), initial=0.0))
        for start_s, (length_s, level) in zip(edges, arrivals.steps, strict=False):
            if caller < round(level):
                await asyncio.sleep(max(0.0, began_s + start_s - self._clock.now()))
                while not self._stopped and (now_s := self._clock.now()) < began_s + start_s + length_s:
                    await self._send(now_s)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.set()
        if not task.cancelled():
            task.result()

    async def _send(self, due_s: float) -> None:
        """Send the next request and keep what came of it."""
        operation = next(self._turns)
        variant, request = next(self._variants[operation])
        sent_s = self._clock.now()
        try:
            answer = await self._transport.ask(request, self._share.timeout_s)
        except CallError as error:
            outcome = self._outcomes.setdefault(error.reason, len(self._outcomes))
            texts = self._batch.texts.setdefault(error.reason, [])
            if len(texts) < SAMPLE_TEXTS:
                texts.append(error.text)
            self._batch.rows.extend((due_s, sent_s, self._clock.now(), operation, outcome))
            return
        self._batch.rows.extend((due_s, sent_s, self._clock.now(), operation, 0))
        if self._share.check and (self._unseen or self._random.random() < self._share.check):
            self._keep(Answer(operation, variant, answer, due_s))

    def _keep(self, answer: Answer) -> None:
        """Keep an answer to be checked, one of each variant at least, unless too many bytes wait already."""
        place = answer[:2]
        if self._unseen and place not in self._unseen and self._random.random() >= self._share.check:
            return
        if self._sample_bytes and self._sample_bytes + len(answer.data) > SAMPLE_BYTES:
            return
        self._unseen.discard(place)
        self._sample_bytes += len(answer.data)
        self._batch.answers.append(answer)


def _deal(weights: Sequence[float], draw: random.Random, count: int = 4096) -> list[int]:
    """Return operations in random order, each as often as its weight says, to a rounding, and at least once."""
    total = sum(weights)
    hand = [number for number, weight in enumerate(weights) for _ in range(max(1, round(weight / total * count)))]
    draw.shuffle(hand)
    return hand
