"""Derivatives before their indices have names: how terms become them, how they add, and the chain rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gradwire_core.explain.calculus import delta, multiply, reduce, substitute
from gradwire_core.explain.notation import ZERO, Element, Expression, Index, Lookup, Symbol, affine, at
from gradwire_core.explain.reading import Reader, TooLongError
from gradwire_core.structure.axes import Axis, Label, Part
from gradwire_core.structure.terms import Term


class Map(NamedTuple):
    """A derivative before it has names: symbols of both sides, and its summands."""

    out: tuple[Symbol, ...]
    into: tuple[Symbol, ...]
    items: tuple[Expression, ...]


def added(made: Sequence[Map]) -> Map:
    """Return the sum of derivatives of equal shape."""
    first = made[0]
    items = list(first.items)
    for other in made[1:]:
        known = dict(zip((*other.out, *other.into), map(at, (*first.out, *first.into)), strict=True))
        items += [substitute(item, known) for item in other.items]
    return Map(first.out, first.into, tuple(items))


def compose(outer: Map, inner: Map) -> Map:
    """Return the chain rule: the sum over the indices of the value between, deltas taken away."""
    items = []
    for one in outer.items:
        for other in inner.items:
            between = tuple(Symbol(symbol.size) for symbol in outer.into)
            left = substitute(one, {old: at(new) for old, new in zip(outer.into, between, strict=True)})
            right = substitute(other, {old: at(new) for old, new in zip(inner.out, between, strict=True)})
            items.append(reduce(between, multiply(left, right)))
    return Map(outer.out, inner.into, tuple(item for item in items if item != ZERO))


def read_term(reader: Reader, term: Term, out: Sequence[Symbol], into: Sequence[Symbol]) -> Expression:
    """Return an element of a term in index notation."""
    symbols: dict[Label, Symbol] = {}

    def symbol(label: Label) -> Symbol:
        return symbols.setdefault(label, Symbol(label.size))

    def index(axis: Axis) -> Index:
        return affine(axis.offset, [(part.stride, part_index(part)) for part in axis.parts])

    def part_index(part: Part) -> Index:
        if part.label is not None:
            return at(symbol(part.label))
        assert part.table is not None
        found = reader.element(part.table.value.operand, tuple(at(symbol(label)) for label in part.table.labels))
        if not isinstance(found, Element) or found.at is None:
            raise TooLongError
        return Index(0, ((1, Lookup(found.name, found.at, part.bound)),))

    items: list[Expression] = []
    items += [delta(at(free), index(axis)) for free, axis in zip(out, term.out, strict=True)]
    items += [delta(index(axis), at(free)) for free, axis in zip(into, term.into, strict=True)]
    for factor in term.factors:
        items.append(reader.element(factor.value.operand, tuple(at(symbol(label)) for label in factor.labels)))
    return reduce(symbols.values(), multiply(*items))
