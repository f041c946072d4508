"""The tasks that wait for a worker, and in which order they get one. No I/O.

The order is that of when each should be done by: its arrival, and some times the seconds that it is predicted to take. So a short
task goes ahead of a long one that came a little earlier, and no task waits forever: once it has waited so many times what it takes,
none that comes later is ahead of it. Tasks of one key stay in order, whatever they are predicted to take by then, and go together.
Nothing else may live here.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gradwire_server.frames import Frame, Prediction

PATIENCE = 2.0
"""How many times what it takes a task may wait before it is ahead of all that come."""
LONG_S = 0.1
"""A task that is predicted to take longer is a long one."""

_FORGOTTEN_COUNT = 64

_number = itertools.count()


@dataclass(eq=False, slots=True)
class Waiting:
    """A task until it is answered.

    Attributes:
        task: what the worker is asked.
        key: what tasks that can be evaluated together have in common, if it is known.
        expected: what it is expected to take.
        arrived_s: when it came, in the time of the event loop.
        answer: what it is answered.
        ended_count: how many workers it has ended.
        lost_count: how many of its workers were ended by something else.
        is_alone: whether it must be evaluated alone.
        is_brief: whether it takes hardly longer than to ask a worker.
        due_s: when it should be done by.
    """

    task: Frame
    key: bytes | None
    expected: Prediction
    arrived_s: float
    answer: asyncio.Future[Frame]
    ended_count: int = 0
    lost_count: int = 0
    is_alone: bool = False
    is_brief: bool = False
    due_s: float = field(init=False)
    number: int = field(init=False)

    def __post_init__(self) -> None:
        self.due_s = self.arrived_s + PATIENCE * self.expected.seconds
        self.number = next(_number)

    @property
    def is_long(self) -> bool:
        """Whether it is predicted to take long."""
        return self.expected.seconds > LONG_S

    def __lt__(self, other: Waiting) -> bool:
        return (self.due_s, self.number) < (other.due_s, other.number)


class WaitingTasks:
    """The tasks that wait, the first one first."""

    def __init__(self) -> None:
        self._short: list[Waiting] = []
        self._long: list[Waiting] = []
        self._alike: dict[bytes, deque[Waiting]] = {}
        self._present: set[Waiting] = set()
        self._due: dict[bytes, list[float]] = {}  # by key: when the last should be done by, and how many wait

    def __len__(self) -> int:
        return len(self._present)

    @property
    def may_have_long(self) -> bool:
        """Whether there may be long tasks among them."""
        return bool(self._long)

    def put(self, item: Waiting) -> None:
        """Have a task wait."""
        heapq.heappush(self._long if item.is_long else self._short, item)
        self._present.add(item)
        if item.key is None:
            return
        due = self._due.setdefault(item.key, [item.due_s, 0])
        due[:] = max(due[0], item.due_s), due[1] + 1
        if not item.is_alone:
            self._alike.setdefault(item.key, deque()).append(item)

    def queue_up(self, item: Waiting) -> None:
        """Have a task that does not wait yet be due no earlier than those of its key that do."""
        due = None if item.key is None else self._due.get(item.key)
        if due is not None:
            item.due_s = max(item.due_s, due[0])

    def discard(self, item: Waiting) -> None:
        """Forget a task, if it waits."""
        if item in self._present:
            self._take(item)

    def seconds_before(self, due_s: float) -> float:
        """Return the predicted seconds of what waits and should be done by then."""
        return sum(item.expected.seconds for item in self._present if item.due_s <= due_s)

    def beyond(self, spared_count: int, allowed_s: Callable[[Waiting], float]) -> list[Waiting]:
        """Return the tasks before which more predicted seconds wait than they may have there, all of these left out.

        Args:
            spared_count: how many may wait in any case; tasks that a worker was at already may, too.
            allowed_s: tells how many seconds may wait before a task.
        """
        found: list[Waiting] = []
        before_s = 0.0
        for place, item in enumerate(sorted(self._present)):
            if place - len(found) < spared_count or before_s <= allowed_s(item) or item.ended_count + item.lost_count:
                before_s += item.expected.seconds
            else:
                found.append(item)
        return found

    def pop(self, *, may_be_long: bool) -> Waiting | None:
        """Return the first task, or the first that is not a long one; None if there is none."""
        short, long = self._first(self._short), self._first(self._long) if may_be_long else None
        if short is None or (long is not None and long < short):
            found, heap = long, self._long
        else:
            found, heap = short, self._short
        if found is not None:
            heapq.heappop(heap)
            self._take(found)
        return found

    def pop_alike(self, item: Waiting, max_count: int, max_bytes: int) -> list[Waiting]:
        """Return the tasks that can be evaluated with one that was popped: so many at most, of so many bytes together."""
        found: list[Waiting] = []
        while not item.is_alone and item.key in self._alike and len(found) < max_count:
            other = self._alike[item.key][0]
            max_bytes -= other.expected.peak_bytes
            if max_bytes < 0:
                break
            self._take(other)
            found.append(other)
        return found

    def _take(self, item: Waiting) -> None:
        """Have a task that waits do so no longer; the heaps forget it when it comes up, or when there are many such."""
        self._present.remove(item)
        if item.key is not None:
            due = self._due[item.key]
            due[1] -= 1
            if not due[1]:
                del self._due[item.key]
        if item.key is not None and not item.is_alone:
            alike = self._alike[item.key]
            alike.remove(item)
            if not alike:
                del self._alike[item.key]
        if len(self._short) + len(self._long) > 2 * len(self._present) + _FORGOTTEN_COUNT:
            for heap in (self._short, self._long):
                heap[:] = [other for other in heap if other in self._present]
                heapq.heapify(heap)

    def clear(self) -> list[Waiting]:
        """Forget all tasks and return them."""
        found = list(self._present)
        for items in (self._short, self._long, self._alike, self._present, self._due):
            items.clear()
        return found

    def _first(self, heap: list[Waiting]) -> Waiting | None:
        """Return the first of a heap that still waits."""
        while heap and heap[0] not in self._present:
            heapq.heappop(heap)
        return heap[0] if heap else None
