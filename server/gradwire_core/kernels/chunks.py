"""Long straight-line code in chunks over one list of values: at first a loop runs each, and each further call compiles some.

So what runs a few times never waits for the compiler, and what runs often is compiled after a bounded number of calls.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

COMPILING_CALLS = 100
"""So many calls at most compile chunks, each an equal share of them."""

Item = TypeVar("Item")
Chunk = Callable[[list[Any]], Any]


class Chunks(ABC, Generic[Item]):
    """Code in chunks; threads may share it.

    Args:
        parts: what each chunk runs.
    """

    def __init__(self, parts: Sequence[Sequence[Item]]) -> None:
        self._waiting = [*parts]
        self._chunks: list[Chunk] = list(map(self._interpret, parts))
        self._calls = 0
        self._share = math.ceil(len(parts) / COMPILING_CALLS)

    @abstractmethod
    def _interpret(self, part: Sequence[Item]) -> Chunk:
        """Return what runs a part without being compiled."""

    @abstractmethod
    def _write(self, part: Sequence[Item]) -> Chunk:
        """Return what runs a part, compiled."""

    def _run_all(self, values: list[Any]) -> None:
        """Run the chunks, and compile some of them."""
        for chunk in self._chunks:
            chunk(values)
        if (self._calls - 1) * self._share < len(self._chunks):
            self._compile_next()

    def _compile_next(self) -> None:
        """Compile some chunks more, from the second call on; two threads may compile the same ones, with the same result."""
        first = (self._calls - 1) * self._share
        self._calls += 1
        if first >= 0:
            for number in range(first, min(first + self._share, len(self._chunks))):
                self._compile_one(number)

    def _compile_one(self, number: int) -> None:
        part = self._waiting[number]
        if not part:  # another thread was faster
            return
        self._chunks[number] = self._write(part)
        self._waiting[number] = ()
