"""A mapping bounded in bytes that forgets what was used least recently. Nothing else may live here.

The front end keeps stored programs in one; a worker keeps decoded programs in one. Executables are cached by the engine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

V = TypeVar("V")


class RecentlyUsed(Generic[V]):
    """Values by name, of a bounded total size; the least recently used leave first.

    Args:
        max_bytes: bound of the sum of the sizes of all values; a value larger than that is not kept at all.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.total_bytes = 0
        self._items: OrderedDict[str, tuple[V, int]] = OrderedDict()

    def put(self, name: str, value: V, size: int) -> list[str]:
        """Keep a value of `size` bytes, in place of one of the same name; return the names of those that left for it."""
        self.discard(name)
        if size > self.max_bytes:
            return [name]
        self._items[name] = (value, size)
        self.total_bytes += size
        left = []
        while self.total_bytes > self.max_bytes:
            left.append(next(iter(self._items)))
            self.discard(left[-1])
        return left

    def get(self, name: str) -> V | None:
        """Return a value and count this as a use; None if there is none of that name."""
        found = self._items.get(name)
        if found is None:
            return None
        self._items.move_to_end(name)
        return found[0]

    def __getitem__(self, name: str) -> V:
        """Return a value that is there, without counting this as a use."""
        return self._items[name][0]

    def size(self, name: str) -> int:
        """Return the bytes of a value that is there."""
        return self._items[name][1]

    def discard(self, name: str) -> bool:
        """Forget a value; tell whether there was one."""
        found = self._items.pop(name, None)
        if found is None:
            return False
        self.total_bytes -= found[1]
        return True

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[str]:
        """The names, least recently used first."""
        return iter(self._items)
