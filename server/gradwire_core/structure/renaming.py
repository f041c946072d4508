"""Renaming the labels of a term: one is expressed by others, restricted to some of its values, split into digits, or several fused.

Factors are read at other places, positions follow; what a term stands for stays, but for the values that are left out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

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
    is_constant,
    normal_axis,
    permuted,
    read,
    run_axis,
    run_length,
)
from gradwire_core.structure.products import Term, counted, reread
from gradwire_core.types import Array


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
    return substitute(term, label, listed_axis(term, chosen, label.size, (stands,))), (stands,)


def listed_axis(term: Term, numbers: Array, length: int, labels: Run) -> Axis:
    """Return the axis of the given positions, over one label, or over none for a single position."""
    if not labels:
        return Axis(length, (), int(numbers[0]))
    return normal_axis(length, (Part(None, 1, constant_table(term.builder, numbers, labels), length),), 0)


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
