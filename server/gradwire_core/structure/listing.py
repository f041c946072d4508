"""Equations that labels alone do not solve: constant tables list the solutions, or a factor of zeros and ones masks the others.

An equation is the last axis of a term's output side, whose position must be 0 (see `equations`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradwire_core.ops._declare import convert
from gradwire_core.ops.elementwise import equal, greater_equal, less, logical_and, where
from gradwire_core.structure.axes import (
    Axis,
    Factor,
    Label,
    Part,
    Run,
    constant_positions,
    is_constant,
    normal_axis,
    positions_along,
)
from gradwire_core.structure.products import Term, counted
from gradwire_core.structure.renaming import fuse, listed_axis, select, substitute


def solved(term: Term) -> Term:
    """Return a term without the last axis of its output, which is 0 for all values of its labels."""
    return counted(replace(term, out=term.out[:-1]), term.labels)


def is_alone(label: Label, equation: Axis) -> bool:
    """Whether a label stands in one part only."""
    return sum(label in part.labels for part in equation.parts) == 1


def without(equation: Axis, part: Part) -> Axis:
    """Return a part's label as the others give it; its stride is 1 or -1."""
    assert part.label is not None
    rest = tuple(item.times(-part.stride) for item in equation.parts if item is not part)
    return normal_axis(part.label.size, rest, -part.stride * equation.offset)


# -- lists ---------------------------------------------------------------------------------------------------------------------


def by_table(term: Term) -> list[Term]:
    """Return the terms at which the last axis of the output is 0: tables list the solutions."""
    equation = term.out[-1]
    parts = sorted((part for part in equation.parts if part.label is not None), key=lambda part: -part.count)
    for part in parts:
        if part.label is not None and is_alone(part.label, equation):
            if is_constant(equation):
                return _listed(term, equation, part)
            if abs(part.stride) == 1:
                return _guarded(term, equation, part)
    if not is_constant(equation):
        return [_masked(term, equation)]
    return _joined(term, equation)


def _listed(term: Term, equation: Axis, part: Part) -> list[Term]:
    """Fuse all labels but one, keep the values that give one of its own, and express it by a table."""
    label = part.label
    assert label is not None
    others = tuple(dict.fromkeys(item for other in equation.parts if other is not part for item in other.labels))
    term, fused = fuse(term, others)
    rest = Axis(1, tuple(item for item in term.out[-1].parts if item.label is not label), term.out[-1].offset)
    values, left = np.divmod(-constant_positions(rest, (fused,)), part.stride)
    chosen = np.flatnonzero((left == 0) & (values >= 0) & (values < label.size))
    if len(chosen) == 0:
        return []
    found, labels = select(term, fused, chosen)
    return [solved(substitute(found, label, listed_axis(term, values[chosen], label.size, labels)))]


def _joined(term: Term, equation: Axis) -> list[Term]:
    """Fuse the labels of both sides of an equation, and list the pairs at which the sides are equal."""
    left = _connected(equation)
    right = tuple(label for label in dict.fromkeys(equation.labels) if label not in left)
    term, one = fuse(term, left)
    if not right:
        chosen = np.flatnonzero(constant_positions(term.out[-1], (one,)) == 0)
        return [solved(select(term, one, chosen)[0])] if len(chosen) else []
    term, other = fuse(term, right)
    parts = term.out[-1].parts
    ours = constant_positions(Axis(1, tuple(part for part in parts if one in part.labels), term.out[-1].offset), (one,))
    theirs = -constant_positions(Axis(1, tuple(part for part in parts if one not in part.labels)), (other,))
    order = np.argsort(theirs, kind="stable")
    first, last = (np.searchsorted(theirs[order], ours, side) for side in ("left", "right"))
    counts = last - first
    rows = np.repeat(np.arange(one.size), counts)
    columns = order[np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)]
    if len(rows) == 0:
        return []
    labels = (Label(len(rows)),) if len(rows) > 1 else ()
    found = substitute(term, one, listed_axis(term, rows, one.size, labels))
    return [solved(substitute(found, other, listed_axis(term, columns, other.size, labels)))]


def _connected(equation: Axis) -> Run:
    """Return the labels that parts tie to those of the first part."""
    found = dict.fromkeys(equation.parts[0].labels)
    size = 0
    while len(found) > size:
        size = len(found)
        for part in equation.parts:
            if any(label in found for label in part.labels):
                found.update(dict.fromkeys(part.labels))
    return tuple(found)


def _guarded(term: Term, equation: Axis, part: Part) -> list[Term]:
    """Express a label by a table known at run time only; a factor is 0 where the table would leave its values."""
    label = part.label
    assert label is not None
    table = positions_along(term.builder, without(equation, part))
    numbers = table.value
    within = logical_and(greater_equal(numbers, 0), less(numbers, label.size))
    guarded = Part(None, 1, Factor(where(within, numbers, 0), table.labels), label.size)
    mask = Factor(convert(within, term.dtype), table.labels)
    masked = replace(term, factors=(*term.factors, mask))
    return [solved(substitute(masked, label, Axis(label.size, (guarded,))))]


def _masked(term: Term, equation: Axis) -> Term:
    """Multiply by a factor that is 1 where the equation holds, over all of its labels."""
    table = positions_along(term.builder, equation)
    mask = Factor(convert(equal(table.value, 0), term.dtype), table.labels)
    return replace(term, factors=(*term.factors, mask), out=term.out[:-1])
