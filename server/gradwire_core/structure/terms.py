"""Labelled terms over a program being built: the index patterns of a Jacobian, and how they compose.

A term is `sum over inner labels of factor * factor * ...`, and says for each axis of the output side and of the input side where
along it its entries stand (`axes`). What a label means follows from where it stands (see `structured`). Composing ties labels to
one another (`equations`) and computes nothing; arrays are computed by `settle` (`products`), only where that does not make a term
larger, and when a result is asked for. Sums of terms are kept short by `join` (`joining`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gradwire_core.builder import Value
from gradwire_core.ops.shaping import broadcast_to, eye, reshape
from gradwire_core.structure.axes import (
    Axis,
    Factor,
    Label,
    Part,
    Run,
    aligned_to,
    constant_positions,
    flat_axis,
    fresh_axes,
    is_constant,
    permuted,
    run_axis,
    run_length,
)
from gradwire_core.structure.joining import join
from gradwire_core.structure.patterns import AxisPattern, PartPattern, Pattern
from gradwire_core.structure.products import (
    Term,
    attach,
    contract,
    contracted,
    counted,
    dense,
    finish,
    identity,
    narrow,
    scale,
    settle,
    swap,
    tables_of,
    untied,
    with_out,
)
from gradwire_core.structure.relations import agree, compose, indexed, read_out, regroup
from gradwire_core.structure.renaming import restrict, substitute
from gradwire_core.types import Array


def positions(term: Term) -> tuple[Array, Array, Run] | None:
    """Return the flat positions of a term's entries in the output and in the input; None where a table is not a constant.

    Both arrays have an axis for each label of the core, in its order, and broadcast over it.
    """
    if not all(map(is_constant, (*term.out, *term.into))):
        return None
    core = term.core
    return constant_positions(flat_axis(term.out), core), constant_positions(flat_axis(term.into), core), core


def pattern_of(term: Term) -> Pattern:
    """Return the static half of a term, its labels numbered by first appearance; its tables are its last factors."""
    tables = tables_of(term)
    numbers = {label: number for number, label in enumerate(term.labels)}
    places = {(id(table.value.operand), table.labels): len(term.factors) + index for index, table in enumerate(tables)}

    def part_of(part: Part) -> PartPattern:
        if part.table is None:
            assert part.label is not None
            return PartPattern(numbers[part.label], part.stride)
        return PartPattern(None, part.stride, places[id(part.table.value.operand), part.table.labels])

    def along(axis: Axis) -> AxisPattern:
        return AxisPattern(axis.length, axis.offset, tuple(map(part_of, axis.parts)))

    factors = tuple(tuple(numbers[label] for label in factor.labels) for factor in (*term.factors, *tables))
    inputs = {var: number for number, var in enumerate(term.builder.inputs)}
    sources = tuple(inputs.get(factor.value.operand) for factor in (*term.factors, *tables))  # type: ignore[arg-type]  # or none
    sizes = tuple(label.size for label in numbers)
    known = sources if any(source is not None for source in sources) else ()
    return Pattern(factors, tuple(map(along, term.out)), tuple(map(along, term.into)), sizes, known)


def arrays_of(term: Term) -> list[Value]:
    """Return the arrays of a term in the order of its pattern: its factors, then its tables."""
    return [factor.value for factor in (*term.factors, *tables_of(term))]


# -- single axes -------------------------------------------------------------------------------------------------------------


def isolate(term: Term, axis: int, *, merges: bool = False) -> tuple[Term, Label]:
    """Return a term in which one axis of the output side is one label that stands on factors alone, and on at least one.

    An axis that is tied to others, or is no run, is untied by an identity matrix; other labels stay as they are.

    Args:
        term: the term.
        axis: the axis of the output side, not of length 1.
        merges: whether the label may stand on one factor only.
    """
    place = term.out[axis]
    others = replace(term, factors=(), out=(*term.out[:axis], *term.out[axis + 1 :])).core
    run = place.run
    free = run is not None and len(set(run)) == len(run) and not any(label in others for label in run)
    if free and run is not None:
        carrying = sorted({index for label in run for index in term.carrying(label)})
        if len(run) == 1 and carrying and (len(carrying) == 1 or not merges):
            return term, run[0]
        return _merge(term, axis, carrying, run)
    label = Label(place.length)
    matrix = eye(term.builder, label.size, label.size, term.dtype)
    changed = replace(term, out=(*term.out[:axis], Axis(label.size, (Part(label),)), *term.out[axis + 1 :]))
    return counted(attach(changed, matrix, (changed.out[axis], place)), term.labels), label


def _merge(term: Term, axis: int, carrying: list[int], run: Run) -> tuple[Term, Label]:
    """Return a term in which one factor carries a label for a run that stands on factors alone."""
    kept = tuple(item for index, item in enumerate(term.factors) if index not in carrying)
    needed = {*term.out_labels, *term.in_labels}.union(*[item.labels for item in kept])
    mine = [term.factors[index] for index in carrying]
    rest = tuple(dict.fromkeys(item for factor in mine for item in factor.labels if item in needed and item not in run))
    one = Factor(term.builder.literal(np.ones((), term.dtype.numpy)), ())
    given = contract(mine, (*run, *rest)) if mine else one
    sizes = tuple(item.size for item in (*run, *rest))
    label = Label(run_length(run))
    value = reshape(broadcast_to(aligned_to(given, (*run, *rest)), sizes), (label.size, *sizes[len(run) :]))
    out = (*term.out[:axis], Axis(label.size, (Part(label),)), *term.out[axis + 1 :])
    return replace(term, factors=(*kept, Factor(value, (label, *rest))), out=out), label


def map_axis(term: Term, axis: int, length: int, function: Callable[[Value, int], Value], *, merges: bool = False) -> Term:
    """Return a term after a linear function along one axis of the output side.

    Args:
        term: the term.
        axis: the axis of the output side.
        length: the length of the axis in the result.
        function: computes the function of an array along one of its axes.
        merges: whether the function does not distribute over a product of factors (a sum), as a slice does.
    """
    isolated, label = isolate(term, axis, merges=merges)
    (fresh,) = fresh_axes((length,))
    factors = []
    for factor in isolated.factors:
        if label not in factor.labels:
            factors.append(factor)
            continue
        place = factor.labels.index(label)
        value = function(factor.value, place)
        labels = (*factor.labels[:place], *fresh.labels, *factor.labels[place + 1 :])
        factors.append(Factor(reshape(value, tuple(item.size for item in labels)), labels))
    return replace(isolated, factors=tuple(factors), out=(*isolated.out[:axis], fresh, *isolated.out[axis + 1 :]))


__all__ = [
    "Axis", "Factor", "Label", "Part", "Run", "Term", "agree", "aligned_to", "arrays_of", "attach", "compose", "contract",
    "contracted", "counted", "dense", "finish", "fresh_axes", "identity", "indexed", "isolate", "join", "map_axis", "narrow",
    "pattern_of", "permuted", "positions", "read_out", "regroup", "restrict", "run_axis", "run_length", "scale", "settle",
    "substitute", "swap", "untied", "with_out",
]  # fmt: skip
