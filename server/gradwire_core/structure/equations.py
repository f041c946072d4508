"""Equations between positions: where two axes of a term must agree, their labels are tied to one another, and nothing is computed.

An equation is an axis whose position must be 0. It is solved by renaming labels: one is expressed by the others, restricted to an
arithmetic progression, or split into digits; a solution may need several terms, whose entries are disjoint. Where the labels admit
no such form, constant tables list the solutions; where positions are known only at run time, a factor of zeros and ones does.
Slices, gathers, reshapes, diagonals and the chain rule are each an equation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from gradwire_core.ops.rounding import floor_divide, remainder
from gradwire_core.structure.axes import Axis, Factor, Label, Part, eagerly, normal_axis, run_length
from gradwire_core.structure.listing import by_table, is_alone, solved, without
from gradwire_core.structure.products import Term
from gradwire_core.structure.renaming import restrict, split, substitute

MOST_PIECES = 4
"""The terms into which the solution of one equation may fall before tables take their place."""


def solve(term: Term, rank: int) -> list[Term]:
    """Return the terms of the entries of a term at which the axes of its output side from `rank` on are 0, without those axes."""
    done: list[Term] = []
    work = [term]
    while work:
        current = work.pop()
        if len(current.out) == rank:
            done.append(current)
            continue
        found = _reduce(current, MOST_PIECES - len(done) - len(work))
        work += by_table(current) if found is None else found
    return done


def _reduce(term: Term, room: int) -> list[Term] | None:
    """Return the terms that take the place of one whose last axis of the output must be 0, one step nearer; None for no way."""
    equation = term.out[-1]
    low, high = equation.bounds
    if not low <= 0 <= high:
        return []
    if not equation.parts:
        return [solved(term)]
    common = math.gcd(*[part.stride for part in equation.parts])
    if equation.offset % common:
        return []
    if common > 1:
        parts = tuple(Part(part.label, part.stride // common, part.table, part.bound) for part in equation.parts)
        equation = Axis(1, parts, equation.offset // common)
        term = replace(term, out=(*term.out[:-1], equation))
    for way in (_express, _align, _separate, _refine):
        found = way(term, equation)
        if found is not None:
            return found
    for pieces in (_cut_ends, _branch):
        found = pieces(term, equation, room)
        if found is not None:
            return found
    return None


def _express(term: Term, equation: Axis) -> list[Term] | None:
    """Express a label by the others, where they always give one of its values."""
    best: tuple[int, Label, Axis] | None = None
    for part, label in _units(equation):
        form = without(equation, part)
        low, high = form.bounds
        if low >= 0 and high < label.size:
            weight = sum(run_length(term.factors[index].labels) for index in term.carrying(label))
            if best is None or weight < best[0]:
                best = weight, label, form
    return None if best is None else [solved(substitute(term, best[1], best[2]))]


def _units(equation: Axis) -> Iterator[tuple[Part, Label]]:
    """Yield the parts of stride 1 or -1 whose label no table depends on, with that label."""
    for part in equation.parts:
        if part.label is not None and abs(part.stride) == 1 and is_alone(part.label, equation):
            yield part, part.label


def _align(term: Term, equation: Axis) -> list[Term] | None:
    """Restrict one or two labels to the arithmetic progressions at which they solve an equation."""
    if len(equation.parts) > 2 or any(part.label is None for part in equation.parts):
        return None
    first = equation.parts[0]
    assert first.label is not None
    if len(equation.parts) == 1:
        value = -equation.offset // first.stride  # strides have no common divisor: this one is 1 or -1
        return [solved(restrict(term, first.label, value, 1, 1))] if 0 <= value < first.label.size else []
    second = equation.parts[1]
    assert second.label is not None
    # s a + t b + c = 0 with coprime s, t: a = a0 + |t| r and b = b0 - sign(t) s r
    s, t, c = first.stride, second.stride, equation.offset
    step = abs(t)
    start = (-c * pow(s, -1, step)) % step if step > 1 else 0
    other, pace = -(s * start + c) // t, -s * step // t
    count = (first.label.size - 1 - start) // step + 1
    least, most = 0, count - 1
    if pace > 0:
        least, most = max(least, -(other // pace)), min(most, (second.label.size - 1 - other) // pace)
    else:
        least, most = max(least, -((second.label.size - 1 - other) // -pace)), min(most, other // -pace)
    if most < least:
        return []
    fresh = Label(most - least + 1)
    parts = (Part(fresh),) if fresh.size > 1 else ()

    def progression(label: Label, begin: int, by: int) -> Axis:
        return Axis(label.size, tuple(part.times(by) for part in parts), begin + by * least)

    found = substitute(term, first.label, progression(first.label, start, step))
    return [solved(substitute(found, second.label, progression(second.label, other, pace)))]


def _multiples(equation: Axis) -> Iterator[tuple[Axis, Axis, range]]:
    """Yield the ways to part an equation into `low + high = 0`, with the multiples of the strides of high that low may be."""
    for bound in sorted({abs(part.stride) for part in equation.parts}, reverse=True):
        high = tuple(part for part in equation.parts if part.stride % bound == 0)
        if len(high) == len(equation.parts):
            continue
        step = math.gcd(*[part.stride for part in high])
        low = Axis(1, tuple(part for part in equation.parts if part.stride % bound), equation.offset)
        least, most = low.bounds
        yield low, Axis(1, high), range(-(-least // step) * step, most // step * step + 1, step)


def _separate(term: Term, equation: Axis) -> list[Term] | None:
    """Part an equation into two, where the parts of short stride can reach one multiple of the long strides only."""
    for low, high, multiples in _multiples(equation):
        if len(multiples) <= 1:
            return [_parted(term, low, high, value) for value in multiples]
    return None


def _parted(term: Term, low: Axis, high: Axis, value: int) -> Term:
    return replace(term, out=(*term.out[:-1], Axis(1, high.parts, value), Axis(1, low.parts, low.offset - value)))


def _refine(term: Term, equation: Axis) -> list[Term] | None:
    """Split a label, or the entries of a table, into digits where a longer stride needs it."""
    for part, inner in _splits(equation):
        if part.label is not None:
            if part.label.size % inner == 0:
                return [split(term, part.label, inner)]
        else:
            return [_split_table(term, part, inner)]
    return None


def _splits(equation: Axis) -> Iterator[tuple[Part, int]]:
    for longer in equation.parts:
        for part in equation.parts:
            if abs(part.stride) <= abs(longer.stride) and part is not longer:
                inner = math.lcm(part.stride, longer.stride) // abs(part.stride)
                if 1 < inner < part.count:
                    yield part, inner
            if abs(part.stride) < abs(longer.stride):
                inner = math.lcm(part.stride, longer.stride) // abs(longer.stride)
                if 1 < inner < longer.count:
                    yield longer, inner


def _split_table(term: Term, part: Part, inner: int) -> Term:
    """Return a term with a table written as its quotient and its remainder, wherever it stands."""
    assert part.table is not None
    table, stands = part.table, part.table.value.operand
    quotient = eagerly(lambda item: Factor(floor_divide(item.value, inner), item.labels), table)
    rest = eagerly(lambda item: Factor(remainder(item.value, inner), item.labels), table)

    def along(axis: Axis) -> Axis:
        parts: list[Part] = []
        for item in axis.parts:
            if item.table is not None and item.table.value.operand is stands and item.table.labels == table.labels:
                parts.append(Part(None, item.stride * inner, quotient, -(-item.bound // inner)))
                parts.append(Part(None, item.stride, rest, inner))
            else:
                parts.append(item)
        return normal_axis(axis.length, parts, axis.offset)

    return replace(term, out=tuple(map(along, term.out)), into=tuple(map(along, term.into)))


def _cut_ends(term: Term, equation: Axis, room: int) -> list[Term] | None:
    """Part the values of a label by whether those of others need another cut, where few do."""
    found = [_cut_for(term, part, without(equation, part), room) for part, _ in _units(equation)]
    return min((pieces for pieces in found if pieces is not None), key=len, default=None)


def _cut_for(term: Term, part: Part, form: Axis, room: int) -> list[Term] | None:
    """Part the values of the outermost label of a form, which must give values of a part's label: all inside, or one alone."""
    outer = max(form.parts, key=lambda item: abs(item.stride) * (item.count - 1))
    if outer.label is None:
        return None
    low, high = Axis(1, tuple(item for item in form.parts if item is not outer), form.offset).bounds
    some = _between(-high, part.count - 1 - low, outer)
    whole = _between(-low, part.count - 1 - high, outer)
    edges = [*range(some.start, whole.start), *range(whole.stop, some.stop)] if whole else [*some]
    if len(edges) + bool(whole) > room:
        return None
    pieces = [restrict(term, outer.label, value, 1, 1) for value in edges]
    return [*pieces, restrict(term, outer.label, whole.start, 1, len(whole))] if whole else pieces


def _between(least: int, most: int, part: Part) -> range:
    """Return the values of a part's label for which its stride times the value lies between bounds."""
    if part.stride < 0:
        least, most = -most, -least
    stride = abs(part.stride)
    return range(max(0, -(-least // stride)), min(part.count - 1, most // stride) + 1)


def _branch(term: Term, equation: Axis, room: int) -> list[Term] | None:
    """Part an equation by the multiple of the long strides that the others reach, or split a label but for its end."""
    for low, high, multiples in _multiples(equation):
        if len(multiples) <= room:
            return [_parted(term, low, high, value) for value in multiples]
    if room < 2:
        return None
    for part, inner in _splits(equation):
        if part.label is not None:
            size = part.label.size
            main = size // inner * inner
            return [restrict(term, part.label, 0, 1, main), restrict(term, part.label, main, 1, size - main)]
    return None
