"""What is an equation between positions: the chain rule, reshapes, reads along an axis, diagonals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops.elementwise import add, less, where
from gradwire_core.structure.axes import Axis, Part, constant_table, flat_axis, fresh_axes, is_constant, literal_of, normal_axis
from gradwire_core.structure.equations import solve
from gradwire_core.structure.products import Term, read_at
from gradwire_core.structure.renaming import renamed
from gradwire_core.types import Shape


def agree(term: Term, first: Axis, second: Axis) -> list[Term]:
    """Return the terms of the entries of a term at which two axes have one position."""
    equation = normal_axis(1, (*first.parts, *[part.times(-1) for part in second.parts]), first.offset - second.offset)
    return solve(replace(term, out=(*term.out, equation)), len(term.out))


def compose(outer: Term, inner: Term) -> list[Term]:
    """Return the terms of d outer / d inner's input, through the value between: the chain rule.

    Labels between that agree are unified; nothing is computed.
    """
    inner = renamed(inner)
    rank = len(outer.out)
    equations = [
        normal_axis(1, (*first.parts, *[part.times(-1) for part in second.parts]), first.offset - second.offset)
        for first, second in zip(outer.into, inner.out, strict=True)
    ]
    both = replace(outer, factors=(*outer.factors, *inner.factors), out=(*outer.out, *equations), into=inner.into)
    return solve(both, rank)


def regroup(term: Term, shape: Shape) -> list[Term]:
    """Return the terms of a term with the output side reshaped."""
    long = [axis for axis in term.out if axis.length != 1]
    if [axis.length for axis in long] == [length for length in shape if length != 1]:
        pending = iter(long)
        return [replace(term, out=tuple(next(pending) if length != 1 else Axis(1) for length in shape))]
    fresh = fresh_axes(shape)
    placed = replace(term, out=fresh)
    return agree(placed, flat_axis(fresh), flat_axis(term.out))


def read_out(term: Term, axis: int, fresh: tuple[Axis, ...], places: Axis) -> list[Term]:
    """Return the terms of a term whose output is read along one axis.

    Args:
        term: the term.
        axis: the axis of the output side.
        fresh: the axes that take its place.
        places: where the axis is read, over the labels of `fresh`.
    """
    placed = replace(term, out=(*term.out[:axis], *fresh, *term.out[axis + 1 :]))
    return agree(placed, places, term.out[axis])


def indexed(indices: Value, axes: tuple[Axis, ...], length: int) -> Axis:
    """Return the axis whose positions are indices into one of a given length, read at the positions of axes."""
    numbers = literal_of(indices)
    if numbers is None or not all(map(is_constant, axes)):
        counted_on = where(less(indices, 0), add(indices, length), indices)
        table = read_at(counted_on, axes)
    else:
        eager = Builder(folds=True).literal(np.where(numbers < 0, numbers + length, numbers))
        found = read_at(eager, axes)
        computed = literal_of(found.value)
        assert computed is not None
        table = constant_table(indices.builder, computed, found.labels)
    return normal_axis(length, (Part(None, 1, table, length),), 0)
