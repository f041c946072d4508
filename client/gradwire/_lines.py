"""The lines of a client to replicas, one to each, and how one is left to what is under way over it. Nothing here does I/O.

take --> a request --> give_back
leave, retain, replace --> no request begins there any more --> the last is given back --> closed
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Generic, TypeVar

from gradwire._replicas import Replica

T = TypeVar("T", bound=Hashable)


class Lines(Generic[T]):
    """The lines of a client. Safe to use from threads.

    Args:
        make: makes a line to a replica.
        close: closes a line that was left; called once, by whoever gives the last back, who shall not wait for it.
    """

    def __init__(self, make: Callable[[Replica], T], close: Callable[[T], object]) -> None:
        self._make = make
        self._close = close
        self._lock = threading.Lock()
        self._current: dict[Replica, T] = {}
        self._left: set[T] = set()
        self._counts: dict[T, int] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._current.values()))

    def take(self, replica: Replica) -> T:
        """Return the line to a replica, made if there is none; it stays open until it is given back."""
        with self._lock:
            line = self._current.get(replica)
            if line is None:
                line = self._current[replica] = self._make(replica)
            self._counts[line] = self._counts.get(line, 0) + 1
            return line

    def spare(self, replica: Replica) -> T:
        """Take another line to a replica, over which nobody asks unless it replaces the one there is."""
        line = self._make(replica)
        with self._lock:
            self._left.add(line)
            self._counts[line] = 1
        return line

    def give_back(self, line: T) -> None:
        """Tell that what a line was taken for is over."""
        with self._lock:
            if line not in self._counts:  # closed with all others
                return
            self._counts[line] -= 1
            is_unused = self._is_unused(line)
        if is_unused:
            self._close(line)

    def replace(self, replica: Replica, line: T) -> None:
        """Let requests to a replica that begin from now on go over a spare line."""
        with self._lock:
            if line not in self._left:  # closed with all others
                return
            self._left.remove(line)
            left = self._current.get(replica)
            self._current[replica] = line
        self._leave([left] if left is not None else [])

    def leave(self, replica: Replica) -> None:
        """Let requests to a replica that begin from now on go over another line."""
        with self._lock:
            left = self._current.pop(replica, None)
        self._leave([left] if left is not None else [])

    def retain(self, replicas: Collection[Replica]) -> None:
        """Leave the lines to all other replicas."""
        with self._lock:
            left = [self._current.pop(each) for each in set(self._current) - set(replicas)]
        self._leave(left)

    def remove_all(self) -> list[T]:
        """Return all lines that are open, to be closed by who asks, and know them no longer."""
        with self._lock:
            found = list(self._counts)
            self._current.clear()
            self._left.clear()
            self._counts.clear()
            return found

    def _leave(self, lines: Collection[T]) -> None:
        """Close lines that are current no longer, as soon as they are unused."""
        with self._lock:
            self._left.update(line for line in lines if line in self._counts)
            unused = [line for line in lines if self._is_unused(line)]
        for line in unused:
            self._close(line)

    def _is_unused(self, line: T) -> bool:
        """Whether a line was left, and nothing is under way over it any more; then it is known no longer."""
        if line not in self._left or self._counts[line]:
            return False
        self._left.remove(line)
        del self._counts[line]
        return True
