"""Labelled terms over a program being built: the index patterns of a Jacobian, and how they compose.

A term is `sum over inner labels of factor * factor * ...`, with the runs of labels that make up each axis of the output side and
of the input side. What a label means follows from where it stands (see `structured`). Axes of length 1 have empty runs, so
a label always has at least two values. Composing unifies labels and computes nothing; arrays are computed by `settle`,
only where that does not make a term larger, and when a result is asked for.
"""

from __future__ import annotations

import functools
import itertools
import math
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops.contraction import einsum_of
from gradwire_core.ops.elementwise import add, multiply
from gradwire_core.ops.shaping import broadcast_to, concatenate, embed, eye, reshape, take_diagonal, transpose
from gradwire_core.structure.structured import Pattern
from gradwire_core.types import Dtype, Shape


class Label:
    """An index; equality is identity."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


Run = tuple[Label, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A dense array whose axes carry distinct labels."""

    value: Value
    labels: Run


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """A product of factors, summed over the labels on neither side.

    Attributes:
        builder: where the factors are built.
        dtype: the dtype of the Jacobian.
        factors: the dense arrays.
        out: for each axis of the output, its run of labels.
        into: for each axis of the input, its run of labels.
    """

    builder: Builder
    dtype: Dtype
    factors: tuple[Factor, ...]
    out: tuple[Run, ...]
    into: tuple[Run, ...]

    @property
    def out_labels(self) -> Run:
        """The labels of the output side, in order."""
        return tuple(label for run in self.out for label in run)

    @property
    def in_labels(self) -> Run:
        """The labels of the input side, in order."""
        return tuple(label for run in self.into for label in run)

    @property
    def core(self) -> Run:
        """The distinct labels of both sides, in order of first appearance."""
        return tuple(dict.fromkeys((*self.out_labels, *self.in_labels)))

    def carrying(self, label: Label) -> list[int]:
        """Return the positions of the factors that carry a label."""
        return [index for index, factor in enumerate(self.factors) if label in factor.labels]

    def is_tied(self, label: Label) -> bool:
        """Whether a label of the output side stands elsewhere on either side, too."""
        return label in self.in_labels or self.out_labels.count(label) > 1


def identity(builder: Builder, shape: Shape, dtype: Dtype) -> Term:
    """Return the Jacobian of an array by itself: one Kronecker delta an axis."""
    runs = fresh_runs(shape)
    return Term(builder, dtype, (), runs, runs)


def fresh_runs(shape: Shape) -> tuple[Run, ...]:
    """Return a new label for each axis, none for those of length 1."""
    return tuple((Label(length),) if length != 1 else () for length in shape)


def run_length(run: Run) -> int:
    """Return the length of an axis made of a run."""
    return math.prod(label.size for label in run)


# -- factors ---------------------------------------------------------------------------------------------------------------


def attach(term: Term, value: Value, runs: Sequence[Run]) -> Term:
    """Return a term with one more factor, whose axes are made of the given runs; a label that repeats takes a diagonal."""
    labels = tuple(label for run in runs for label in run)
    return replace(term, factors=(*term.factors, _factor(reshape(value, tuple(label.size for label in labels)), labels)))


def _factor(value: Value, labels: Run) -> Factor:
    distinct = tuple(dict.fromkeys(labels))
    if len(distinct) == len(labels):
        return Factor(value, labels)
    numbers = {label: index for index, label in enumerate(distinct)}
    return Factor(take_diagonal(value, tuple(numbers[label] for label in labels)), distinct)


def narrow(value: Value, runs: Sequence[Run]) -> tuple[Value, list[Run]]:
    """Return the source of a broadcast value, with the runs of the axes it has: a factor is never repeated."""
    equation = value.builder.producer(value.operand)
    if equation is None or equation.primitive.name != "broadcast_to":
        return value, list(runs)
    source = Value(value.builder, equation.operands[0])
    kept = list(runs)[len(runs) - source.ndim :] if source.ndim else []
    return narrow(source, [run if length != 1 else () for run, length in zip(kept, source.shape, strict=True)])


def substitute(term: Term, old: Label, new: Run) -> Term:
    """Return a term with a label replaced by a run of the same length everywhere."""

    def runs(given: tuple[Run, ...]) -> tuple[Run, ...]:
        return tuple(tuple(part for label in run for part in (new if label is old else (label,))) for run in given)

    factors = []
    for factor in term.factors:
        if old in factor.labels:
            (labels,) = runs((factor.labels,))
            factors.append(_factor(reshape(factor.value, tuple(label.size for label in labels)), labels))
        else:
            factors.append(factor)
    return replace(term, factors=tuple(factors), out=runs(term.out), into=runs(term.into))


def with_out(term: Term, out: Iterable[Run]) -> Term:
    """Return a term with other runs on the output side; a label that then stands nowhere multiplies by its size."""
    changed = replace(term, out=tuple(out))
    present = {*changed.out_labels, *changed.in_labels}.union(*[factor.labels for factor in term.factors])
    lost = math.prod(label.size for label in set(term.out_labels) - present)
    return changed if lost == 1 else scale(changed, float(lost))


def scale(term: Term, number: float) -> Term:
    """Return a term times a number."""
    literal = term.builder.literal(np.asarray(number, term.dtype.numpy))
    return replace(term, factors=(*term.factors, Factor(literal, ())))


# -- contraction -------------------------------------------------------------------------------------------------------------


def factor_size(factor: Factor) -> int:
    """Return the number of elements of a factor."""
    return run_length(factor.labels)


def contract(factors: Sequence[Factor], kept: Iterable[Label]) -> Factor:
    """Return the product of factors, summed over all labels but the kept ones, which are in the order given."""
    present = dict.fromkeys(label for factor in factors for label in factor.labels)
    output = tuple(label for label in kept if label in present)
    scalars = [factor for factor in factors if not factor.labels]
    arrays = sorted((factor for factor in factors if factor.labels), key=factor_size)
    if scalars and (arrays or len(scalars) > 1):
        number = functools.reduce(multiply, [factor.value for factor in scalars])
        if not arrays:
            return Factor(number, ())
        arrays[0] = Factor(multiply(number, arrays[0].value), arrays[0].labels)
        factors = arrays
    if len(factors) == 2 and set(factors[0].labels) == set(factors[1].labels) == set(output):
        return Factor(multiply(*[permuted(factor, output) for factor in factors]), output)
    names = dict(zip(present, string.ascii_letters, strict=False))
    groups = ["".join(names[label] for label in factor.labels) for factor in factors]
    subscripts = f"{','.join(groups)}->{''.join(names[label] for label in output)}"
    return Factor(einsum_of(subscripts, *[factor.value for factor in factors]), output)


def permuted(factor: Factor, labels: Run) -> Value:
    """Return a factor's array with its axes in the order of the given labels."""
    value: Value = transpose(factor.value, tuple(factor.labels.index(label) for label in labels))
    return value


MOST_FACTORS = 4


def settle(term: Term) -> Term:
    """Return a term with every contraction done that makes it smaller.

    A term of many factors also does those that do not make it larger. So small factors meet first: a vector waits beside a
    matrix until something takes them both.
    """
    factors = list(term.factors)
    sides = {*term.out_labels, *term.in_labels}
    step = _next_contraction(factors, sides)
    while step is not None:
        merged, rest = step
        factors = [factors[index] for index in range(len(factors)) if index not in rest]
        factors.append(merged)
        step = _next_contraction(factors, sides)
    return replace(term, factors=tuple(factors))


def _next_contraction(factors: list[Factor], sides: set[Label]) -> tuple[Factor, tuple[int, ...]] | None:
    """Return a contracted factor and the positions of those it replaces; None where none is to be done."""
    scalars = tuple(index for index, factor in enumerate(factors) if not factor.labels)
    if len(scalars) > 1:
        return contract([factors[index] for index in scalars], ()), scalars
    for index, factor in enumerate(factors):
        elsewhere = sides.union(*[item.labels for place, item in enumerate(factors) if place != index])
        if any(label not in elsewhere for label in factor.labels):
            return contract((factor,), [label for label in factor.labels if label in elsewhere]), (index,)
    best: tuple[int, list[Label], tuple[int, int]] | None = None
    is_full = len(factors) - len(scalars) > MOST_FACTORS
    for second, first in itertools.combinations(range(len(factors)), 2):
        one, other = factors[first], factors[second]
        if set(one.labels).isdisjoint(other.labels):
            continue
        outside = sides.union(*[item.labels for index, item in enumerate(factors) if index not in (first, second)])
        kept = [label for label in dict.fromkeys((*other.labels, *one.labels)) if label in outside]
        size, sizes = run_length(tuple(kept)), (factor_size(one), factor_size(other))
        if size <= (sum(sizes) if is_full else min(sizes)) and (best is None or size < best[0]):
            best = size, kept, (second, first)
    return None if best is None else (contract([factors[index] for index in best[2]], best[1]), best[2])


def held_elements(term: Term) -> int:
    """Return the number of elements that the factors of a term hold."""
    return sum(map(factor_size, term.factors))


def finish(term: Term) -> Term:
    """Return a term as it is handed out: as one factor, unless that holds more elements than its factors do."""
    present = {label for factor in term.factors for label in factor.labels}
    labels = tuple(label for label in term.core if label in present)
    if len(term.factors) < 2 or run_length(labels) > held_elements(term):
        return term
    return replace(term, factors=(Factor(contracted(term, labels), labels),))


def contracted(term: Term, labels: Run) -> Value:
    """Return the contracted factors of a term as an array over the given labels, which cover its core; repeated where absent."""
    factor = contract(term.factors, labels) if term.factors else Factor(term.builder.literal(np.ones((), term.dtype.numpy)), ())
    lengths = tuple(label.size if label in factor.labels else 1 for label in labels)
    value: Value = broadcast_to(reshape(factor.value, lengths), tuple(label.size for label in labels))
    return value


def dense(term: Term) -> Value:
    """Return a term as an array of shape `shape_out + shape_in`."""
    core = term.core
    numbers = {label: index for index, label in enumerate(core)}
    spread = embed(contracted(term, core), tuple(numbers[label] for label in (*term.out_labels, *term.in_labels)))
    value: Value = reshape(spread, tuple(run_length(run) for run in (*term.out, *term.into)))
    return value


# -- joining -----------------------------------------------------------------------------------------------------------------

MOST_TERMS = 8
MOST_EQUAL = 3


def join(terms: Sequence[Term]) -> list[Term]:
    """Return the same sum with fewer terms: those of equal skeleton are added where that is no larger, or where they are many."""
    if len(terms) < 2:
        return list(terms)
    groups: dict[Any, list[Term]] = {}
    for term in terms:
        groups.setdefault(_skeleton(term), []).append(term)
    joined = [term for group in groups.values() for term in _join_equal(group)]
    if len(joined) > MOST_TERMS:
        return [untied(joined)]
    return joined


def _skeleton(term: Term) -> Any:
    numbers = {label: index for index, label in enumerate(term.core)}
    sides = [tuple(tuple(numbers[label] for label in run) for run in side) for side in (term.out, term.into)]
    return (*sides, tuple(label.size for label in term.core))


def _join_equal(terms: list[Term]) -> list[Term]:
    """Return the sum of terms of equal skeleton: what they have in common stands beside the sum of the rest."""
    if len(terms) == 1:
        return terms
    first = terms[0]
    renamed = [first, *[_rename(term, first.core) for term in terms[1:]]]
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


def _rename(term: Term, core: Run) -> Term:
    """Return a term over other labels: the given core, and new inner ones, which no other term has."""
    names = dict(zip(term.core, core, strict=True))
    for factor in term.factors:
        for label in factor.labels:
            if label not in names:
                names[label] = Label(label.size)
    factors = tuple(Factor(item.value, tuple(names[label] for label in item.labels)) for item in term.factors)
    out = tuple(tuple(names[label] for label in run) for run in term.out)
    into = tuple(tuple(names[label] for label in run) for run in term.into)
    return replace(term, factors=factors, out=out, into=into)


def untied(terms: Sequence[Term]) -> Term:
    """Return the sum of terms as one term with one dense factor."""
    total = dense(terms[0])
    for term in terms[1:]:
        total = add(total, dense(term))
    first = terms[0]
    out = fresh_runs(tuple(map(run_length, first.out)))
    into = fresh_runs(tuple(map(run_length, first.into)))
    return attach(replace(first, factors=(), out=out, into=into), total, (*out, *into))


# -- single axes -------------------------------------------------------------------------------------------------------------


def isolate(term: Term, axis: int, *, merges: bool = False) -> tuple[Term, Label]:
    """Return a term in which one axis of the output side is one label that stands on factors alone, and on at least one.

    A label that is tied, or a run of several, is untied by an identity matrix; other labels stay as they are.

    Args:
        term: the term.
        axis: the axis of the output side.
        merges: whether the label may stand on one factor only.
    """
    run = term.out[axis]
    free = not any(map(term.is_tied, run))
    carrying = sorted({index for label in run for index in term.carrying(label)})
    if free and len(run) == 1 and carrying and (len(carrying) == 1 or not merges):
        return term, run[0]
    label = Label(run_length(run))
    if free:
        merged = contract([term.factors[index] for index in carrying], _labels_of(term, carrying)) if carrying else None
        return _merge(term, axis, carrying, merged, label), label
    matrix = eye(term.builder, label.size, label.size, term.dtype)
    changed = replace(term, out=(*term.out[:axis], (label,), *term.out[axis + 1 :]))
    return attach(changed, matrix, ((label,), run)), label


def _labels_of(term: Term, positions: Sequence[int]) -> Run:
    others = [factor.labels for index, factor in enumerate(term.factors) if index not in positions]
    needed = {*term.out_labels, *term.in_labels}.union(*others)
    mine = dict.fromkeys(label for index in positions for label in term.factors[index].labels)
    return tuple(label for label in mine if label in needed)


def _merge(term: Term, axis: int, positions: Sequence[int], factor: Factor | None, label: Label) -> Term:
    run = term.out[axis]
    given = factor or Factor(term.builder.literal(np.ones((), term.dtype.numpy)), ())
    rest = tuple(item for item in given.labels if item not in run)
    order = tuple(item for item in (*run, *rest) if item in given.labels)
    lengths = tuple(item.size if item in given.labels else 1 for item in (*run, *rest))
    full = broadcast_to(reshape(permuted(given, order), lengths), tuple(item.size for item in (*run, *rest)))
    value = reshape(full, (label.size, *[item.size for item in rest]))
    kept = tuple(item for index, item in enumerate(term.factors) if index not in positions)
    out = (*term.out[:axis], (label,), *term.out[axis + 1 :])
    return replace(term, factors=(*kept, Factor(value, (label, *rest))), out=out)


def map_axis(term: Term, axis: int, length: int, function: Callable[[Value, int], Value], *, merges: bool = False) -> Term:
    """Return a term after a linear function along one axis of the output side.

    Args:
        term: the term.
        axis: the axis of the output side.
        length: the length of the axis in the result.
        function: computes the function of an array along one of its axes.
        merges: whether the function does not distribute over a product of factors (a scatter), as a slice does.
    """
    isolated, label = isolate(term, axis, merges=merges)
    fresh: Run = (Label(length),) if length != 1 else ()
    factors = []
    for factor in isolated.factors:
        if label not in factor.labels:
            factors.append(factor)
            continue
        place = factor.labels.index(label)
        value = function(factor.value, place)
        labels = (*factor.labels[:place], *fresh, *factor.labels[place + 1 :])
        factors.append(Factor(reshape(value, tuple(item.size for item in labels)), labels))
    return replace(isolated, factors=tuple(factors), out=(*isolated.out[:axis], fresh, *isolated.out[axis + 1 :]))


# -- reshape -----------------------------------------------------------------------------------------------------------------


def regroup(term: Term, shape: Shape) -> Term:
    """Return a term with the output side reshaped: labels are split and grouped; where they do not factor, those are untied."""
    term = replace(term, out=(term.out_labels,))
    for axis, length in enumerate(shape):
        term = _split_off(term, axis, length)
    return replace(term, out=term.out[:-1])


def _split_off(term: Term, axis: int, length: int) -> Term:
    """Return a term whose last axis is parted into one of the given length and the rest."""
    need, count = length, 0
    while need > 1:
        run = term.out[axis]
        label = run[count]
        if need % label.size == 0:
            need, count = need // label.size, count + 1
            continue
        if label.size % need == 0:
            term = substitute(term, label, (Label(need), Label(label.size // need)))
        else:
            head = next(end for end in range(count + 1, len(run) + 1) if run_length(run[:end]) % length == 0)
            parted = replace(term, out=(*term.out[:axis], run[:head], run[head:]))
            isolated, whole = isolate(parted, axis)
            term = replace(isolated, out=(*isolated.out[:axis], (whole, *isolated.out[axis + 1])))
        need, count = length, 0
    run = term.out[axis]
    return replace(term, out=(*term.out[:axis], run[:count], run[count:]))


def pattern_of(term: Term) -> Pattern:
    """Return the static half of a term, its labels numbered by first appearance."""
    numbers: dict[Label, int] = {}
    for label in (*term.core, *[label for factor in term.factors for label in factor.labels]):
        numbers.setdefault(label, len(numbers))

    def number(runs: Iterable[Run]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(numbers[label] for label in run) for run in runs)

    sizes = tuple(label.size for label in numbers)
    return Pattern(number(factor.labels for factor in term.factors), number(term.out), number(term.into), sizes)
