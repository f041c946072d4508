"""Sums of terms: those of equal skeleton become one, so that a value holds a bounded number of terms."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradwire_core.ops._declare import call, find_primitive
from gradwire_core.ops.elementwise import add
from gradwire_core.ops.shaping import broadcast_to, concatenate, pad_with_zeros, reshape
from gradwire_core.structure.axes import (
    Axis,
    Factor,
    Label,
    Part,
    Run,
    constant_positions,
    constant_table,
    flat_axis,
    is_constant,
    literal_of,
    normal_axis,
    permuted,
    run_length,
)
from gradwire_core.structure.products import (
    Term,
    contract,
    contracted,
    factor_size,
    held_elements,
    settle,
    tables_of,
    untied,
)

MANY_TERMS = 12
MOST_TERMS = 48
MOST_EQUAL = 3


def join(terms: Sequence[Term]) -> list[Term]:
    """Return the same sum with fewer terms.

    Terms of equal skeleton are added where that is no larger, or where they are many; so are windows of one diagonal. Where more
    are left than can be carried on, constant tables list their entries; where that holds no less, they become dense.
    """
    if len(terms) < 2:
        return list(terms)
    joined = _grouped(terms, _skeleton, _join_equal)
    if len(joined) > 1:
        joined = _grouped(joined, _diagonal, lambda group: _join_windows(group, is_crowded=len(joined) > MANY_TERMS))
    tabled = [term for term in joined if tables_of(term)]
    if len(tabled) > 1:
        joined = [term for term in joined if not tables_of(term)] + (_listed(tabled, _held(tabled) - 1) or tabled)
    size = math.prod(terms[0].shape_out) * math.prod(terms[0].shape_in)
    if len(joined) > MOST_TERMS or (len(joined) > MOST_EQUAL and _held(joined) > size):
        return _listed(joined, size) or [untied(joined)]
    return joined


def _held(terms: Sequence[Term]) -> int:
    """Return the number of elements that terms hold, tables among them."""
    return sum(held_elements(term) + sum(map(factor_size, tables_of(term))) for term in terms)


def _grouped(terms: Sequence[Term], key: Callable[[Term], Any], function: Callable[[list[Term]], list[Term]]) -> list[Term]:
    groups: dict[Any, list[Term]] = {}
    for term in terms:
        groups.setdefault(key(term), []).append(term)
    return [term for group in groups.values() for term in function(group)]


# -- equal skeletons -----------------------------------------------------------------------------------------------------------


def _skeleton(term: Term) -> Any:
    numbers = {label: index for index, label in enumerate(term.core)}

    def along(axis: Axis) -> Any:
        return axis.length, axis.offset, tuple((part.stride, *_stands(part, numbers)) for part in axis.parts)

    sides = [tuple(map(along, side)) for side in (term.out, term.into)]
    return (*sides, tuple(label.size for label in term.core))


def _stands(part: Part, numbers: dict[Label, int]) -> tuple[Any, ...]:
    """Return what tells a part from others: its label, or its table and the labels of that."""
    if part.table is None:
        assert part.label is not None
        return (numbers[part.label],)
    constant = literal_of(part.table.value)
    content = id(part.table.value.operand) if constant is None else hashlib.sha256(constant.tobytes()).digest()
    return content, tuple(numbers[label] for label in part.table.labels)


def _join_equal(terms: list[Term]) -> list[Term]:
    """Return the sum of terms of equal skeleton: what they have in common stands beside the sum of the rest."""
    if len(terms) == 1:
        return terms
    first = terms[0]
    renamed = [first, *[_rename(term, first) for term in terms[1:]]]
    common = [factor for factor in first.factors if all(_has(term, factor) for term in renamed)]
    rests = [replace(term, factors=tuple(item for item in term.factors if not _has_one(common, item))) for term in renamed]
    present = {label for rest in rests for factor in rest.factors for label in factor.labels}
    labels = tuple(label for label in first.core if label in present)
    if run_length(labels) > sum(map(held_elements, rests)):
        kept = rests if len(rests) <= MOST_EQUAL else _concatenated(rests)
        if len(kept) <= MOST_EQUAL:
            return [replace(rest, factors=(*common, *rest.factors)) for rest in kept]
    total = contracted(rests[0], labels)
    for rest in rests[1:]:
        total = add(total, contracted(rest, labels))
    return [settle(replace(first, factors=(*common, Factor(total, labels))))]


def _concatenated(terms: Sequence[Term]) -> list[Term]:
    """Return the same sum with terms of equal form joined along their summed label, so that low rank stays low."""
    forms: dict[Any, list[Term]] = {}
    for index, term in enumerate(terms):
        form = [frozenset(factor.labels).intersection(term.core) for factor in term.factors if factor.labels]
        is_joinable = len(_inner(term)) <= 1 and len(set(form)) == len(form) > 0
        forms.setdefault(frozenset(form) if is_joinable else index, []).append(term)
    return [group[0] if len(group) == 1 else _join_ranks(group) for group in forms.values()]


def _inner(term: Term) -> Run:
    """Return the labels that are summed."""
    return tuple(dict.fromkeys(label for factor in term.factors for label in factor.labels if label not in term.core))


def _join_ranks(terms: Sequence[Term]) -> Term:
    first = terms[0]
    ranks = [run_length(_inner(term)) for term in terms]
    fresh = Label(sum(ranks))
    columns = [_by_form(term) for term in terms]
    factors = []
    for form, labels in ((form, tuple(label for label in first.core if label in form)) for form in columns[0]):
        parts = []
        for term, column, rank in zip(terms, columns, ranks, strict=True):
            inner = tuple(label for label in _inner(term) if label in column[form].labels)
            value = reshape(permuted(column[form], (*labels, *inner)), (*[label.size for label in labels], run_length(inner)))
            parts.append(broadcast_to(value, (*value.shape[:-1], rank)))
        factors.append(Factor(concatenate(parts, -1), (*labels, fresh)))
    return replace(first, factors=tuple(factors))


def _by_form(term: Term) -> dict[frozenset[Label], Factor]:
    """Return the factors of a term by their labels on the sides; numbers are multiplied onto the smallest of them."""
    numbers = [factor for factor in term.factors if not factor.labels]
    arrays = sorted((factor for factor in term.factors if factor.labels), key=factor_size)
    if numbers:
        arrays[0] = contract((*numbers, arrays[0]), arrays[0].labels)
    return {frozenset(factor.labels).intersection(term.core): factor for factor in arrays}


def _has(term: Term, factor: Factor) -> bool:
    """Whether a term has a factor, over labels of its core alone."""
    return set(factor.labels) <= set(term.core) and _has_one(term.factors, factor)


def _has_one(factors: Sequence[Factor], factor: Factor) -> bool:
    return any(item.labels == factor.labels and item.value.operand is factor.value.operand for item in factors)


def _rename(term: Term, like: Term) -> Term:
    """Return a term of equal skeleton over the core of another, and new inner labels, which no other term has."""
    names = dict(zip(term.core, like.core, strict=True))
    for factor in term.factors:
        for label in factor.labels:
            if label not in names:
                names[label] = Label(label.size)
    factors = tuple(Factor(item.value, tuple(names[label] for label in item.labels)) for item in term.factors)
    return replace(term, factors=factors, out=like.out, into=like.into)


# -- windows of one diagonal ---------------------------------------------------------------------------------------------------


def _starts(term: Term) -> dict[Label, int]:
    """Return where the first value of each label stands that can be shifted: less that, windows of one diagonal are equal."""
    fixed = {label for table in tables_of(term) for label in table.labels}
    starts: dict[Label, int] = {}
    for axis in (*term.out, *term.into):
        if len(axis.parts) == 1 and axis.parts[0].label is not None:
            label, stride = axis.parts[0].label, axis.parts[0].stride
            if label not in fixed:
                starts.setdefault(label, (axis.offset - axis.offset % abs(stride)) // stride)
    return starts


def _moved(axis: Axis, starts: dict[Label, int]) -> int:
    """Return the offset of an axis where all labels are shifted back by their starts."""
    return axis.offset - sum(part.stride * starts.get(part.label, 0) for part in axis.parts if part.label is not None)


def _diagonal(term: Term) -> Any:
    """Return what terms have in common that are windows of one diagonal."""
    starts = _starts(term)
    numbers = {label: index for index, label in enumerate(term.core)}

    def along(axis: Axis) -> Any:
        return axis.length, _moved(axis, starts), tuple((part.stride, *_stands(part, numbers)) for part in axis.parts)

    sides = [tuple(map(along, side)) for side in (term.out, term.into)]
    return (*sides, tuple(-1 if label in starts else label.size for label in term.core))


def _join_windows(terms: list[Term], *, is_crowded: bool) -> list[Term]:
    """Return the sum of windows of one diagonal as the least window around them, where that holds no more."""
    if len(terms) == 1:
        return terms
    boxes = [_boxes(term) for term in terms]
    around = [range(min(box.start for box in column), max(box.stop for box in column)) for column in zip(*boxes, strict=True)]
    places = [
        place
        for place, box in enumerate(around)
        if any(one[place] != box or term.carrying(term.core[place]) for term, one in zip(terms, boxes, strict=True))
    ]
    size = math.prod(len(around[place]) for place in places)
    windows = sum(math.prod(len(box[place]) for place in places) for box in boxes)
    if size > (2 * windows if is_crowded else min(windows, sum(map(held_elements, terms)))):
        return terms
    first, starts = terms[0], _starts(terms[0])
    names = {label: Label(len(box)) for label, box in zip(first.core, around, strict=True)}
    total: Any = None
    for term, box in zip(terms, boxes, strict=True):
        value = contracted(term, tuple(term.core[place] for place in places))
        low = tuple(box[place].start - around[place].start for place in places)
        high = tuple(around[place].stop - box[place].stop for place in places)
        value = pad_with_zeros(value, low, high, (0,) * len(places))
        total = value if total is None else add(total, value)

    def along(axis: Axis) -> Axis:
        parts = tuple(
            Part(part.label and names[part.label], part.stride, part.table and _named(part.table, names), part.bound)
            for part in axis.parts
        )
        shift = sum(part.stride * around[first.core.index(part.label)].start for part in axis.parts if part.label in starts)
        return Axis(axis.length, parts, _moved(axis, starts) + shift)

    factor = Factor(total, tuple(names[first.core[place]] for place in places))
    return [replace(first, factors=(factor,), out=tuple(map(along, first.out)), into=tuple(map(along, first.into)))]


def _boxes(term: Term) -> list[range]:
    """Return for each label of the core the values that it has along the diagonal."""
    starts = _starts(term)
    return [range(starts.get(label, 0), starts.get(label, 0) + label.size) for label in term.core]


def _named(table: Factor, names: dict[Label, Label]) -> Factor:
    return Factor(table.value, tuple(names[label] for label in table.labels))


# -- entry by entry --------------------------------------------------------------------------------------------------------------


def _listed(terms: Sequence[Term], most: int) -> list[Term] | None:
    """Return the sum as one term whose entries constant tables list; None where that holds more than so many elements."""
    first = terms[0]
    axes = (*first.out, *first.into)
    lengths = [axis.length for axis in axes]
    constant = all(is_constant(axis) for term in terms for axis in (*term.out, *term.into))
    counts = [run_length(term.core) for term in terms]
    if not constant or sum(counts) > min(math.prod(lengths), 8 * most):
        return None
    flat = [
        np.broadcast_to(constant_positions(flat_axis((*term.out, *term.into)), term.core), [label.size for label in term.core])
        for term in terms
    ]
    places = np.concatenate([item.reshape(-1) for item in flat])
    distinct, slots = np.unique(places, return_inverse=True)
    if (1 + len(axes)) * len(distinct) > most:
        return None
    values = concatenate([reshape(contracted(term, term.core), (count,)) for term, count in zip(terms, counts, strict=True)])
    if len(distinct) < len(places):
        indices = first.builder.literal(slots.astype(np.int64))
        values = call(find_primitive("scatter_add"), values, indices, axis=0, batch=0, size=len(distinct))
        places = distinct
    label = Label(len(places))
    sides = []
    for length, along in zip(lengths, np.unravel_index(places, lengths), strict=True):
        table = constant_table(first.builder, along, (label,))
        sides.append(normal_axis(length, (Part(None, 1, table, length),), 0))
    rank = len(first.out)
    return [replace(first, factors=(Factor(values, (label,)),), out=tuple(sides[:rank]), into=tuple(sides[rank:]))]
