"""Formulas, and the names of their indices: an axis keeps its letter from equation to equation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from gradwire_core.explain.notation import EXPRESSIONS, Element, Expression, Index, Over, Symbol, children, walk
from gradwire_core.types import Shape

LETTERS = "ijklmnpqrstuvwxyzabcdefgho"
Node: TypeAlias = "tuple[str, int] | Symbol"


@dataclass(frozen=True, slots=True)
class Ratio:
    """The derivative of one element by another."""

    of: Element
    by: Element


@dataclass(frozen=True, slots=True, eq=False)
class Formula:
    """An equation between elements.

    Attributes:
        left: an element, or a derivative.
        right: what it is.
        names: the names of the indices, those of the left side first.
        bounds: how many of them stand on the left side.
    """

    left: Element | Ratio
    right: Expression
    names: Mapping[Symbol, str]


def windows(made: Formula, shape: Shape) -> list[Symbol]:
    """Return the symbols of an equation that walk only a part of an axis of its left side, an array of the given shape."""
    assert isinstance(made.left, Element)
    found: list[Symbol] = []
    for index, length in zip(made.left.at or (), shape, strict=True):
        symbols = [atom for _, atom in index.parts if isinstance(atom, Symbol)]
        if math.prod(symbol.size for symbol in symbols) != length:
            found += symbols
    return found


class Axes:
    """Which axes have one letter: those that equations walk together.

    Args:
        taken: names that no index may have.
    """

    def __init__(self, taken: set[str]) -> None:
        self.taken = taken
        self._parents: dict[Node, Node] = {}
        self._members: dict[Node, set[Node]] = {}
        self._sizes: dict[Node, int] = {}
        self._letters: dict[Node, str] = {}

    def declare(self, name: str, shape: Shape) -> None:
        """Make an array known."""
        for axis, size in enumerate(shape):
            self._add((name, axis), size)

    def tie(self, left: Element, right: Expression) -> None:
        """Give the axes that an equation walks together one letter, unless two axes of one array would share it."""
        for node in (left, *walk(right)):
            if isinstance(node, Element) and node.at is not None:
                for axis, index in enumerate(node.at):
                    symbol = index.symbol
                    if symbol is not None:
                        self._add((node.name, axis), symbol.size)
                        self._join((node.name, axis), symbol)

    def is_walked(self, node: Node, index: Index) -> bool:
        """Whether an index goes along a whole axis, step by step."""
        symbol = index.symbol
        return symbol is not None and self._sizes.get(node) == symbol.size

    def letter(self, node: Node) -> str | None:
        """Return the letter of an axis; None for one that no equation has."""
        if node not in self._parents:
            return None
        root = self._root(node)
        if root not in self._letters:
            used = self._letters.values()
            self._letters[root] = next(letter for letter in candidates(self.taken) if letter not in used)
        return self._letters[root]

    def of_array(self, name: str, ndim: int) -> tuple[str, ...]:
        """Return the names of the indices of an array."""
        found: list[str] = []
        for axis in range(ndim):
            letter = self.letter((name, axis))
            assert letter is not None
            found.append(primed(letter, found))
        return tuple(found)

    def _add(self, node: Node, size: int) -> None:
        if node not in self._parents:
            self._parents[node] = node
            self._members[node] = {node}
            self._sizes[node] = size

    def _root(self, node: Node) -> Node:
        while self._parents[node] is not node:
            self._parents[node] = self._parents[self._parents[node]]
            node = self._parents[node]
        return node

    def _join(self, axis: Node, symbol: Symbol) -> None:
        self._add(symbol, symbol.size)
        one, other = self._root(axis), self._root(symbol)
        if one is other or self._sizes[one] != self._sizes[other]:
            return
        if len(self._members[one]) < len(self._members[other]):
            one, other = other, one
        arrays = {member[0] for member in self._members[one] if isinstance(member, tuple)}
        if any(isinstance(member, tuple) and member[0] in arrays for member in self._members[other]):
            return
        self._parents[other] = one
        self._members[one] |= self._members.pop(other)


def candidates(taken: set[str]) -> Iterator[str]:
    """Yield names for indices: letters, then letters with numbers."""
    for number in itertools.count():
        for letter in LETTERS:
            name = f"{letter}{number}" if number else letter
            if name not in taken:
                yield name


def primed(name: str, used: Any) -> str:
    """Return a name with as many primes as make it new."""
    while name in used:
        name += "'"
    return name


def formula(left: Element | Ratio, right: Expression, axes: Axes) -> Formula:
    """Return a formula with names for its indices: free ones by their axes, bound ones by an axis they walk."""
    names: dict[Symbol, str] = {}
    for element in (left.of, left.by) if isinstance(left, Ratio) else (left,):
        for axis, index in enumerate(element.at or ()):
            for _, atom in index.parts:
                if isinstance(atom, Symbol) and atom not in names:
                    letter = axes.letter((element.name, axis)) if axes.is_walked((element.name, axis), index) else None
                    names[atom] = primed(letter or _walked(atom, right, axes, names.values()), names.values())
    _name_bound(right, frozenset(names.values()), names, axes)
    return Formula(left, right, names)


def _name_bound(expression: Expression, used: frozenset[str], names: dict[Symbol, str], axes: Axes) -> None:
    """Name the symbols that are summed over; a name may be used again where its sum has ended."""
    pending = [(expression, used)]
    while pending:
        node, outer = pending.pop()
        if isinstance(node, Over):
            inner = set(outer)
            for symbol in node.symbols:
                names[symbol] = primed(_walked(symbol, node.body, axes, inner), inner)
                inner.add(names[symbol])
            outer = frozenset(inner)
        pending += [(child, outer) for child in children(node) if isinstance(child, EXPRESSIONS)]


def _walked(symbol: Symbol, body: Expression, axes: Axes, used: Container[str]) -> str:
    """Return the letter of an axis that a symbol walks, or a new one."""
    for node in walk(body):
        if isinstance(node, Element) and node.at is not None:
            for axis, index in enumerate(node.at):
                letter = axes.letter((node.name, axis)) if index.symbol is symbol else None
                if letter is not None:
                    return letter
    return next(letter for letter in candidates(axes.taken) if letter not in used)
