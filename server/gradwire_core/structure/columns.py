"""A term as columns: the dense array that a linear primitive is applied to at once, by its batching rule.

Only the input axes that need it become columns. Where a primitive leaves an axis alone, what the term ties to that axis stays
tied: the array is then of one entry for each position along it, instead of one for each pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradwire_core.builder import Value
from gradwire_core.ops.shaping import reshape, transpose
from gradwire_core.structure.axes import Axis, Factor, Label, fresh_axes
from gradwire_core.structure.products import Term, counted, dense, read_at
from gradwire_core.types import Dtype


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """A term whose output is dense.

    Attributes:
        term: the term.
        open: the input axes of which every position is a column.
        value: the columns, [columns, *shape_out].
    """

    term: Term
    open: tuple[int, ...]
    value: Value

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of the open axes."""
        return tuple(self.term.into[place].length for place in self.open)


def open_axes(term: Term, kept: Sequence[int]) -> tuple[int, ...]:
    """Return the input axes that must become columns where the given output axes, and no others, stay as they are."""
    labels: set[Label] = set()
    for place in kept:
        if is_invertible(term.out[place]):
            labels.update(term.out[place].labels)
    return tuple(place for place, axis in enumerate(term.into) if not labels.issuperset(axis.labels))


def is_invertible(axis: Axis) -> bool:
    """Whether it is plain that each position along an axis comes from one value of every label."""
    reach = 0
    for part in sorted(axis.parts, key=lambda part: abs(part.stride)):
        if part.label is None or abs(part.stride) <= reach:
            return False
        reach += abs(part.stride) * (part.count - 1)
    return True


def columns_of(term: Term, open: Sequence[int]) -> Columns:
    """Return a term with the given input axes as columns; the others depend on labels of axes that stay as they are."""
    free = replace(term, into=tuple(term.into[place] for place in open))
    array = dense(counted(free, term.labels))
    rank = len(term.out)
    moved = transpose(array, (*range(rank, array.ndim), *range(rank)))
    count = math.prod(moved.shape[: len(open)])
    return Columns(term, tuple(open), reshape(moved, (count, *term.shape_out)))


def from_columns(columns: Columns, value: Value, out: Sequence[Axis | None], dtype: Dtype) -> Term:
    """Return the term of columns after a linear primitive.

    Args:
        columns: what it was applied to.
        value: its results, [columns, *shape].
        out: for each axis of the result, that of the term where it stayed as it was; None where it is dense.
        dtype: the dtype of the Jacobian.
    """
    term, fresh = columns.term, fresh_axes(value.shape[1:])
    axes = tuple(new if old is None else old for old, new in zip(out, fresh, strict=True))
    wide = fresh_axes(columns.lengths)
    into = list(term.into)
    for place, axis in zip(columns.open, wide, strict=True):
        into[place] = axis
    array = reshape(value, (*columns.lengths, *value.shape[1:]))
    factor: Factor = read_at(array, (*wide, *axes))
    return replace(term, dtype=dtype, factors=(factor,), out=axes, into=tuple(into))
