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

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops._declare import convert
from gradwire_core.ops.elementwise import (
    add,
    equal,
    greater_equal,
    less,
    logical_and,
    where,
)
from gradwire_core.ops.rounding import floor_divide, remainder
from gradwire_core.ops.shaping import reshape
from gradwire_core.structure.axes import (
    Axis,
    Factor,
    Label,
    Part,
    Run,
    constant_positions,
    constant_table,
    eagerly,
    flat_axis,
    fresh_axes,
    is_constant,
    literal_of,
    normal_axis,
    permuted,
    positions_along,
    read,
    run_axis,
    run_length,
)
from gradwire_core.structure.products import Term, counted, read_at, reread
from gradwire_core.types import Array, Shape

MOST_PIECES = 4
"""The terms into which the solution of one equation may fall before tables take their place."""


# -- renaming labels ---------------------------------------------------------------------------------------------------------


def substitute(term: Term, label: Label, form: Axis) -> Term:
    """Return a term with a label replaced by the positions of an axis, which are among its values."""
    changed = replace(
        term,
        factors=tuple(reread(factor, label, form) for factor in term.factors),
        out=tuple(_substituted(axis, label, form) for axis in term.out),
        into=tuple(_substituted(axis, label, form) for axis in term.into),
    )
    return counted(changed, dict.fromkeys((*(item for item in term.labels if item is not label), *form.labels)))


def _substituted(axis: Axis, label: Label, form: Axis) -> Axis:
    if all(label not in part.labels for part in axis.parts):
        return axis
    parts: list[Part] = []
    offset = axis.offset
    for part in axis.parts:
        if part.label is label:
            parts += [item.times(part.stride) for item in form.parts]
            offset += part.stride * form.offset
        elif part.table is not None and label in part.labels:
            parts.append(Part(None, part.stride, _reread_table(part.table, label, form), part.bound))
        else:
            parts.append(part)
    return normal_axis(axis.length, parts, offset)


def _reread_table(table: Factor, label: Label, form: Axis) -> Factor:
    return eagerly(lambda item: reread(item, label, form), table) if is_constant(form) else reread(table, label, form)


def restrict(term: Term, label: Label, start: int, step: int, count: int) -> Term:
    """Return a term with a label restricted to `count` of its values, every step from start on."""
    if (start, step, count) == (0, 1, label.size):
        return term
    parts = (Part(Label(count), step),) if count > 1 else ()
    return substitute(term, label, Axis(label.size, parts, start))


def split(term: Term, label: Label, inner: int) -> Term:
    """Return a term with a label replaced by a run of two, of which the second has the given size."""
    return substitute(term, label, run_axis((Label(label.size // inner), Label(inner))))


def fuse(term: Term, labels: Run) -> tuple[Term, Label]:
    """Return a term in which one label stands for a run of them, and that label; other axes are indexed by constant tables."""
    if len(labels) == 1:
        return term, labels[0]
    fused = Label(run_length(labels))

    def one(factor: Factor) -> Factor:
        mine = tuple(label for label in labels if label in factor.labels)
        if not mine:
            return factor
        rest = tuple(label for label in factor.labels if label not in mine)
        joined = Factor(permuted(factor, (*mine, *rest)), (*mine, *rest))
        value = reshape(joined.value, (run_length(mine), *[label.size for label in rest]))
        if mine == labels:
            return Factor(value, (fused, *rest))
        return read(value, 0, digits(run_axis(mine)), rest)

    def digits(axis: Axis) -> Axis:
        sizes = tuple(label.size for label in labels)
        numbers = np.broadcast_to(constant_positions(axis, labels), sizes).reshape(-1)
        table = constant_table(term.builder, numbers, (fused,))
        return normal_axis(axis.length, (Part(None, 1, table, int(numbers.max(initial=0)) + 1),), 0)

    def along(axis: Axis) -> Axis:
        mine = [part for part in axis.parts if part.label in labels]
        others = [
            part if part.table is None else Part(None, part.stride, eagerly(one, part.table), part.bound)
            for part in axis.parts
            if part not in mine
        ]
        if not mine:
            return Axis(axis.length, tuple(others), axis.offset)
        low = sum(min(part.stride, 0) * (part.count - 1) for part in mine)
        found = digits(Axis(axis.length, tuple(mine), -low))
        return normal_axis(axis.length, [*others, *found.parts], axis.offset + low + found.offset)

    changed = replace(
        term, factors=tuple(map(one, term.factors)), out=tuple(map(along, term.out)), into=tuple(map(along, term.into))
    )
    return changed, fused


def select(term: Term, label: Label, chosen: Array) -> tuple[Term, Run]:
    """Return a term with a label restricted to the given values, and what then stands for it: a label, or none for one value."""
    if len(chosen) == 1:
        return restrict(term, label, int(chosen[0]), 1, 1), ()
    stands = Label(len(chosen))
    return substitute(term, label, _listing(term, chosen, label.size, (stands,))), (stands,)


def _listing(term: Term, numbers: Array, length: int, labels: Run) -> Axis:
    """Return the axis of the given positions, over one label, or over none for a single position."""
    if not labels:
        return Axis(length, (), int(numbers[0]))
    return normal_axis(length, (Part(None, 1, constant_table(term.builder, numbers, labels), length),), 0)


# -- solving -----------------------------------------------------------------------------------------------------------------


def agree(term: Term, first: Axis, second: Axis) -> list[Term]:
    """Return the terms of the entries of a term at which two axes have one position."""
    equation = normal_axis(1, (*first.parts, *[part.times(-1) for part in second.parts]), first.offset - second.offset)
    return solve(replace(term, out=(*term.out, equation)), len(term.out))


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
        work += _by_table(current) if found is None else found
    return done


def _reduce(term: Term, room: int) -> list[Term] | None:
    """Return the terms that take the place of one whose last axis of the output must be 0, one step nearer; None for no way."""
    equation = term.out[-1]
    low, high = equation.bounds
    if not low <= 0 <= high:
        return []
    if not equation.parts:
        return [_solved(term)]
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
        form = _without(equation, part)
        low, high = form.bounds
        if low >= 0 and high < label.size:
            weight = sum(run_length(term.factors[index].labels) for index in term.carrying(label))
            if best is None or weight < best[0]:
                best = weight, label, form
    return None if best is None else [_solved(substitute(term, best[1], best[2]))]


def _units(equation: Axis) -> Iterator[tuple[Part, Label]]:
    """Yield the parts of stride 1 or -1 whose label no table depends on, with that label."""
    for part in equation.parts:
        if part.label is not None and abs(part.stride) == 1 and _is_alone(part.label, equation):
            yield part, part.label


def _is_alone(label: Label, equation: Axis) -> bool:
    """Whether a label stands in one part only."""
    return sum(label in part.labels for part in equation.parts) == 1


def _solved(term: Term) -> Term:
    """Return a term without the last axis of its output, which is 0 for all values of its labels."""
    return counted(replace(term, out=term.out[:-1]), term.labels)


def _without(equation: Axis, part: Part) -> Axis:
    """Return a part's label as the others give it; its stride is 1 or -1."""
    assert part.label is not None
    rest = tuple(item.times(-part.stride) for item in equation.parts if item is not part)
    return normal_axis(part.label.size, rest, -part.stride * equation.offset)


def _align(term: Term, equation: Axis) -> list[Term] | None:
    """Restrict one or two labels to the arithmetic progressions at which they solve an equation."""
    if len(equation.parts) > 2 or any(part.label is None for part in equation.parts):
        return None
    first = equation.parts[0]
    assert first.label is not None
    if len(equation.parts) == 1:
        value = -equation.offset // first.stride  # strides have no common divisor: this one is 1 or -1
        return [_solved(restrict(term, first.label, value, 1, 1))] if 0 <= value < first.label.size else []
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
    return [_solved(substitute(found, second.label, progression(second.label, other, pace)))]


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
    found = [_cut_for(term, part, _without(equation, part), room) for part, _ in _units(equation)]
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


# -- by tables ---------------------------------------------------------------------------------------------------------------


def _by_table(term: Term) -> list[Term]:
    """Return the terms at which the last axis of the output is 0: tables list the solutions."""
    equation = term.out[-1]
    parts = sorted((part for part in equation.parts if part.label is not None), key=lambda part: -part.count)
    for part in parts:
        if part.label is not None and _is_alone(part.label, equation):
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
    return [_solved(substitute(found, label, _listing(term, values[chosen], label.size, labels)))]


def _joined(term: Term, equation: Axis) -> list[Term]:
    """Fuse the labels of both sides of an equation, and list the pairs at which the sides are equal."""
    left = _connected(equation)
    right = tuple(label for label in dict.fromkeys(equation.labels) if label not in left)
    term, one = fuse(term, left)
    if not right:
        chosen = np.flatnonzero(constant_positions(term.out[-1], (one,)) == 0)
        return [_solved(select(term, one, chosen)[0])] if len(chosen) else []
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
    found = substitute(term, one, _listing(term, rows, one.size, labels))
    return [_solved(substitute(found, other, _listing(term, columns, other.size, labels)))]


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
    table = positions_along(term.builder, _without(equation, part))
    numbers = table.value
    within = logical_and(greater_equal(numbers, 0), less(numbers, label.size))
    guarded = Part(None, 1, Factor(where(within, numbers, 0), table.labels), label.size)
    mask = Factor(convert(within, term.dtype), table.labels)
    masked = replace(term, factors=(*term.factors, mask))
    return [_solved(substitute(masked, label, Axis(label.size, (guarded,))))]


def _masked(term: Term, equation: Axis) -> Term:
    """Multiply by a factor that is 1 where the equation holds, over all of its labels."""
    table = positions_along(term.builder, equation)
    mask = Factor(convert(equal(table.value, 0), term.dtype), table.labels)
    return replace(term, factors=(*term.factors, mask), out=term.out[:-1])


# -- what is an equation -----------------------------------------------------------------------------------------------------


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


def renamed(term: Term) -> Term:
    """Return a term over new labels."""
    names = {label: Label(label.size) for label in term.labels}

    def one(factor: Factor) -> Factor:
        return Factor(factor.value, tuple(names[label] for label in factor.labels))

    def along(axis: Axis) -> Axis:
        parts = tuple(
            Part(part.label and names[part.label], part.stride, part.table and one(part.table), part.bound) for part in axis.parts
        )
        return Axis(axis.length, parts, axis.offset)

    return replace(term, factors=tuple(map(one, term.factors)), out=tuple(map(along, term.out)), into=tuple(map(along, term.into)))


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
    if numbers is None:
        counted_on = where(less(indices, 0), add(indices, length), indices)
        table = read_at(counted_on, axes)
    else:
        eager = Builder(folds=True).literal(np.where(numbers < 0, numbers + length, numbers))
        found = read_at(eager, axes)
        computed = literal_of(found.value)
        assert computed is not None
        table = constant_table(indices.builder, computed, found.labels)
    return normal_axis(length, (Part(None, 1, table, length),), 0)
