"""What identities store here: seen by those that stored it, forgotten by least recent use. Nothing else may live here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from gradwire_server.cache import RecentlyUsed

V = TypeVar("V")
_EVERYONE = ""


class Store(Protocol[V]):
    """What identities store, wherever it is kept. What was put is there for all who may see it once `put` returns."""

    def get(self, owner: str, name: str) -> V | None:
        """Return a value and count this as a use; None if its owner put none of that name, nor is it common."""

    def items(self, owner: str) -> dict[str, V]:
        """Return all that an owner sees."""

    async def put(self, owner: str, name: str, value: V, size: int) -> None:
        """Keep a value of `size` bytes, in place of one of the same owner and name."""

    async def discard(self, owner: str, name: str) -> bool:
        """Forget a value of an owner; tell whether there was one."""


class OwnedStore(Generic[V]):
    """Values by owner and name, of a bounded total size.

    An owner sees what it put here itself, and cannot tell what others put. When the bound is passed, the owner that holds the
    most bytes loses what it used least recently: so an owner cannot push out others that hold less than their equal share.

    Args:
        max_bytes: bound of the sum of the sizes of all values; a larger value is not kept at all.
        is_shared: whether all owners are one.
        max_owner_bytes: the same for each owner; None: as many as all may.
        common: what every owner sees besides; it is not counted, and stays.
    """

    def __init__(
        self, max_bytes: int, *, is_shared: bool, max_owner_bytes: int | None = None, common: Mapping[str, V] | None = None
    ) -> None:
        self._max_bytes = max_bytes
        self._max_owner_bytes = max_bytes if max_owner_bytes is None else max_owner_bytes
        self._is_shared = is_shared
        self._common = common or {}
        self._owners: dict[str, RecentlyUsed[V]] = {}
        self.total_bytes = 0

    def put(self, owner: str, name: str, value: V, size: int) -> list[tuple[str, str]]:
        """Keep a value of `size` bytes, in place of one of the same owner and name; return owner and name of what left for it."""
        owner = self._one(owner)
        held = self._owners.setdefault(owner, RecentlyUsed(self._max_owner_bytes))
        before = held.total_bytes
        left = [(owner, item) for item in held.put(name, value, size)]
        self._count(owner, held, before)
        while self.total_bytes > self._max_bytes:
            largest = max(self._owners, key=lambda item: self._owners[item].total_bytes)
            left.append((largest, next(iter(self._owners[largest]))))
            self.discard(*left[-1])
        return left

    def get(self, owner: str, name: str) -> V | None:
        """Return a value and count this as a use; None if its owner put none of that name, nor is it common."""
        held = self._owners.get(self._one(owner))
        found = None if held is None else held.get(name)
        return self._common.get(name) if found is None else found

    def discard(self, owner: str, name: str) -> bool:
        """Forget a value of an owner; tell whether there was one."""
        owner = self._one(owner)
        held = self._owners.get(owner)
        if held is None:
            return False
        before = held.total_bytes
        found = held.discard(name)
        self._count(owner, held, before)
        return found

    def items(self, owner: str) -> dict[str, V]:
        """Return all that an owner sees."""
        held = self._owners.get(self._one(owner)) or RecentlyUsed(0)
        return {**self._common, **{name: held[name] for name in held}}

    def entries(self) -> Iterator[tuple[str, str, V, int]]:
        """Yield owner, name, value and size of all that was put here, of each owner the least recently used first."""
        for owner, held in self._owners.items():
            yield from ((owner, name, held[name], held.size(name)) for name in held)

    def __len__(self) -> int:
        return sum(map(len, self._owners.values()))

    def __iter__(self) -> Iterator[str]:
        """The names of all values, once for each owner."""
        for held in self._owners.values():
            yield from held

    def _one(self, owner: str) -> str:
        return _EVERYONE if self._is_shared else owner

    def _count(self, owner: str, held: RecentlyUsed[V], before: int) -> None:
        self.total_bytes += held.total_bytes - before
        if not len(held):
            del self._owners[owner]


class LocalStore(Generic[V]):
    """A store in the memory of this process.

    Args:
        values: where they are kept.
        count: told how many values are kept, in how many bytes, whenever that changes.
    """

    def __init__(self, values: OwnedStore[V], count: Callable[[int, int], None]) -> None:
        self._values = values
        self._told = count
        self.get = values.get
        self.items = values.items

    async def put(self, owner: str, name: str, value: V, size: int) -> None:
        """Keep a value of `size` bytes, in place of one of the same owner and name."""
        self._values.put(owner, name, value, size)
        self._count()

    async def discard(self, owner: str, name: str) -> bool:
        """Forget a value of an owner; tell whether there was one."""
        found = self._values.discard(owner, name)
        self._count()
        return found

    def _count(self) -> None:
        self._told(len(self._values), self._values.total_bytes)
