"""Equations joined into groups: what batches and clusters are made of."""

from __future__ import annotations

from collections.abc import Hashable

from gradwire_core.program import Equation


class Joined:
    """Equations, joined where they share a key."""

    def __init__(self) -> None:
        self._members: list[Equation] = []
        self._parents: list[int] = []
        self._numbers: dict[Hashable, int] = {}

    def append(self, equation: Equation) -> int:
        """Add an equation that is alone yet; return its number."""
        self._members.append(equation)
        self._parents.append(len(self._parents))
        return len(self._members) - 1

    def share(self, number: int, key: Hashable) -> None:
        """Join an equation with those that have the same key."""
        self.join(self._numbers.setdefault(key, number), number)

    def join(self, other: int, number: int) -> None:
        """Join two equations."""
        self._parents[self._root(other)] = self._root(number)

    def _root(self, number: int) -> int:
        parents = self._parents
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    def find(self) -> list[list[Equation]]:
        """Return the groups, members in their order."""
        found: dict[int, list[Equation]] = {}
        for number, equation in enumerate(self._members):
            found.setdefault(self._root(number), []).append(equation)
        return [*found.values()]
