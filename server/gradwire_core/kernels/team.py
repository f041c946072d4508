"""A team of threads: the calling thread and helpers do the numbered pieces of a job together. It knows nothing of what they do.

Helpers start with the first job and wait between jobs. A job never waits for a helper to begin: while all are busy with other jobs,
the caller does every piece. What a piece returns stands in its place, whoever did it.
"""

from __future__ import annotations

import collections
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")


class _Job(Generic[T]):
    """The pieces of one call of `Team.run`."""

    def __init__(self, work: Callable[[int], T], count: int) -> None:
        self._work = work
        self._waiting = collections.deque(range(count))
        self._results: list[Any] = [None] * count
        self._changed = threading.Condition()
        self._busy = 0
        self._error: BaseException | None = None

    def help(self) -> None:
        """Do pieces until none is left."""
        with self._changed:
            if not self._waiting:  # over, and the arrays it refers to may be gone
                return
            self._busy += 1
        try:
            self._do_pieces()
        except BaseException as error:  # noqa: BLE001  # it is raised in the thread that called
            self._waiting.clear()
            self._error = error
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    def lead(self) -> list[T]:
        """Do pieces until none is left, wait for those under way, and return the results.

        Raises:
            BaseException: what a piece raised; no further one was begun.
        """
        try:
            self._do_pieces()
        finally:
            with self._changed:
                self._waiting.clear()
                while self._busy:
                    self._changed.wait()
            del self._work  # a helper may hold the job for long
        if self._error is not None:
            raise self._error
        return self._results

    def _do_pieces(self) -> None:
        take, work = self._waiting.popleft, self._work
        while True:
            try:
                number = take()
            except IndexError:
                return
            self._results[number] = work(number)


class Team:
    """Threads that share jobs. Any thread may call, several at a time, also in a child of a process that forked.

    Args:
        size: the most threads of a job, the calling one included.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job[Any]] = queue.SimpleQueue()
        self._process = 0

    def run(self, work: Callable[[int], T], count: int, size: int = 0) -> list[T]:
        """Return what `work` returns for 0, ..., count - 1, done by `size` threads at most (0: all of the team).

        Raises:
            BaseException: what a piece raised.
        """
        job = _Job(work, count)
        helpers = min(size or self.size, self.size, count) - 1
        if helpers > 0:
            if self._process != os.getpid():
                self._start()
            for _ in range(helpers):
                self._jobs.put(job)
        return job.lead()

    def _start(self) -> None:
        """Start the helpers of this process: a child that was forked has none of its parent's threads."""
        with self._lock:
            if self._process == os.getpid():
                return
            jobs: queue.SimpleQueue[_Job[Any]] = queue.SimpleQueue()
            for number in range(1, self.size):
                threading.Thread(target=_help, args=(jobs,), name=f"gradwire-team-{number}", daemon=True).start()
            self._jobs = jobs
            self._process = os.getpid()


def _help(jobs: queue.SimpleQueue[_Job[Any]]) -> None:
    with np.errstate(all="ignore"):  # a thread has settings of its own
        while True:
            jobs.get().help()
