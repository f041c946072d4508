"""Index notation: expressions of elements, sums over indices and Kronecker deltas. Nothing here knows programs.

An index is affine in symbols: `2 i + 1`. Expressions are immutable; a `Symbol` equals itself alone. They are computed with in
`calculus`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from gradwire_core.program import Param

Scalar = bool | int | float | complex


class Symbol:
    """An index that runs from 0 to its size; equality is identity."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


@dataclass(frozen=True, slots=True)
class Lookup:
    """An element of an array of integers, as an index below `size`."""

    name: str
    at: tuple[Index, ...]
    size: int


Atom: TypeAlias = Symbol | Lookup


@dataclass(frozen=True, slots=True)
class Index:
    """`offset + sum of stride * atom`."""

    offset: int
    parts: tuple[tuple[int, Atom], ...] = ()

    @property
    def symbol(self) -> Symbol | None:
        """The symbol that this index is, if it is nothing else."""
        if self.offset == 0 and len(self.parts) == 1:
            stride, atom = self.parts[0]
            return atom if stride == 1 and isinstance(atom, Symbol) else None
        return None

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest value it may have."""
        low = high = self.offset
        for stride, atom in self.parts:
            reach = stride * (atom.size - 1)
            low, high = low + min(reach, 0), high + max(reach, 0)
        return low, high

    def is_within(self, size: int) -> bool:
        """Whether it is certainly an index of an axis of a size."""
        low, high = self.bounds
        return low >= 0 and high < size

    def times(self, number: int) -> Index:
        """Return a multiple."""
        return Index(self.offset * number, tuple((stride * number, atom) for stride, atom in self.parts))

    def plus(self, other: Index) -> Index:
        """Return a sum, equal atoms joined."""
        strides: dict[Atom, int] = {}
        for stride, atom in (*self.parts, *other.parts):
            strides[atom] = strides.get(atom, 0) + stride
        parts = tuple((stride, atom) for atom, stride in strides.items() if stride)
        return Index(self.offset + other.offset, parts)


def at(symbol: Symbol) -> Index:
    """Return a symbol as an index; 0 along an axis of length 1."""
    return Index(0) if symbol.size == 1 else Index(0, ((1, symbol),))


def affine(offset: int, parts: Iterable[tuple[int, Index]]) -> Index:
    """Return `offset + sum of stride * index`."""
    total = Index(offset)
    for stride, index in parts:
        total = total.plus(index.times(stride))
    return total


def row_major(indices: Sequence[Index], shape: Sequence[int]) -> Index:
    """Return the position of an element in the flattened array."""
    total = Index(0)
    for index, length in zip(indices, shape, strict=True):
        total = total.times(length).plus(index)
    return total


# -- expressions ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    value: Scalar


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a named array; the whole array where `at` is None."""

    name: str
    at: tuple[Index, ...] | None


@dataclass(frozen=True, slots=True)
class Applied:
    """An element of what a primitive computes from whole arrays; the whole of it where `at` is None.

    Attributes:
        primitive: its name.
        params: its params.
        operands: the arrays.
        result: which result, of several; -1 for the only one.
        at: the index of the element.
    """

    primitive: str
    params: tuple[tuple[str, Param], ...]
    operands: tuple[Expression, ...]
    result: int
    at: tuple[Index, ...] | None


@dataclass(frozen=True, slots=True)
class Call:
    """An elementwise primitive of elements."""

    primitive: str
    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Sum:
    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Product:
    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Quotient:
    numerator: Expression
    denominator: Expression


@dataclass(frozen=True, slots=True)
class Power:
    base: Expression
    exponent: Expression


@dataclass(frozen=True, slots=True)
class Delta:
    """1 where two indices are equal, else 0."""

    first: Index
    second: Index


@dataclass(frozen=True, slots=True)
class AtMost:
    """1 where the first index is at most the second, else 0."""

    first: Index
    second: Index


@dataclass(frozen=True, slots=True)
class Over:
    """A sum, product, maximum or minimum over symbols."""

    kind: str
    symbols: tuple[Symbol, ...]
    body: Expression


Expression: TypeAlias = Number | Element | Applied | Call | Sum | Product | Quotient | Power | Delta | AtMost | Over
ZERO, ONE = Number(0), Number(1)


def children(node: Any) -> Iterator[Any]:
    """Yield the expressions, indices and atoms that a node is made of."""
    if isinstance(node, Symbol):
        return
    for item in fields(node):
        value = getattr(node, item.name)
        if isinstance(value, tuple):
            for part in value:
                yield from part if isinstance(part, tuple) else (part,)
        else:
            yield value


def walk(expression: Any) -> Iterator[Any]:
    """Yield every expression, index and atom of an expression, in the order they are written."""
    pending = [expression]
    while pending:
        node = pending.pop()
        if isinstance(node, (Symbol, Index, Lookup, *EXPRESSIONS)):
            yield node
            pending += reversed([*children(node)])


EXPRESSIONS = (Number, Element, Applied, Call, Sum, Product, Quotient, Power, Delta, AtMost, Over)


def symbols_of(expression: Any) -> set[Symbol]:
    """Return the symbols in an expression."""
    return {node for node in walk(expression) if isinstance(node, Symbol)}


def names_of(expression: Any) -> set[str]:
    """Return the names of arrays in an expression."""
    return {node.name for node in walk(expression) if isinstance(node, (Element, Lookup))}
