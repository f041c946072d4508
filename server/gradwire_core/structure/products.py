"""Terms, and the arrays they stand for: factors are attached, contracted where that does not make a term larger, and made dense."""

from __future__ import annotations

import functools
import itertools
import math
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops.contraction import einsum_of
from gradwire_core.ops.elementwise import add, multiply
from gradwire_core.ops.shaping import broadcast_to, embed, reshape, transpose
from gradwire_core.structure.axes import (
    Axis,
    Factor,
    Label,
    Part,
    Run,
    aligned_to,
    diagonal_factor,
    flat_axis,
    fresh_axes,
    labels_of,
    permuted,
    read,
    run_length,
    write_flat,
)
from gradwire_core.types import Dtype, Shape


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """A product of factors, summed over the labels on neither side; entries at other positions are zero.

    Attributes:
        builder: where the factors are built.
        dtype: the dtype of the Jacobian.
        factors: the dense arrays.
        out: for each axis of the output, where along it the entries stand.
        into: for each axis of the input, where along it the entries stand.
    """

    builder: Builder
    dtype: Dtype
    factors: tuple[Factor, ...]
    out: tuple[Axis, ...]
    into: tuple[Axis, ...]

    @property
    def out_labels(self) -> Run:
        """The labels of the output side, in order."""
        return labels_of(self.out)

    @property
    def in_labels(self) -> Run:
        """The labels of the input side, in order."""
        return labels_of(self.into)

    @property
    def core(self) -> Run:
        """The distinct labels of both sides, in order of first appearance."""
        return tuple(dict.fromkeys(labels_of((*self.out, *self.into))))

    @property
    def labels(self) -> Run:
        """All labels, in order of first appearance."""
        return tuple(dict.fromkeys((*self.core, *[label for factor in self.factors for label in factor.labels])))

    @property
    def shape_out(self) -> Shape:
        """The shape of the output."""
        return tuple(axis.length for axis in self.out)

    @property
    def shape_in(self) -> Shape:
        """The shape of the input."""
        return tuple(axis.length for axis in self.into)

    def carrying(self, label: Label) -> list[int]:
        """Return the positions of the factors that carry a label."""
        return [index for index, factor in enumerate(self.factors) if label in factor.labels]


def identity(builder: Builder, shape: Shape, dtype: Dtype) -> Term:
    """Return the Jacobian of an array by itself: one Kronecker delta an axis."""
    axes = fresh_axes(shape)
    return Term(builder, dtype, (), axes, axes)


def swap(term: Term) -> Term:
    """Return a term with its sides exchanged."""
    return Term(term.builder, term.dtype, term.factors, term.into, term.out)


# -- factors ---------------------------------------------------------------------------------------------------------------


def with_factors(term: Term, factors: tuple[Factor, ...]) -> Term:
    """Return a term with other factors."""
    return Term(term.builder, term.dtype, factors, term.out, term.into)


def attach(term: Term, value: Value, axes: Sequence[Axis]) -> Term:
    """Return a term with one more factor: an array read at the positions of the given axes."""
    return with_factors(term, (*term.factors, read_at(value, axes)))


def read_at(value: Value, axes: Sequence[Axis]) -> Factor:
    """Return an array read at the positions of axes, one for each of its own, as a factor over their labels."""
    whole = [axis.run for axis in axes]
    if None not in whole:  # as one reshape
        labels = tuple(label for run in whole for label in run or ())
        return diagonal_factor(reshape(value, tuple(label.size for label in labels)), labels)
    stands = [Label(length) for length in value.shape]
    factor = Factor(value, tuple(stands))
    listed = [place for place, axis in enumerate(axes) if any(part.table is not None for part in axis.parts)]
    if len(listed) > 1:  # at once, for tables over one label read one entry each
        rest = [place for place in range(len(axes)) if place not in listed]
        merged = Label(math.prod(value.shape[place] for place in listed))
        lead = transpose(value, (*listed, *rest))
        factor = Factor(reshape(lead, (merged.size, *lead.shape[len(listed) :])), (merged, *[stands[place] for place in rest]))
        factor = reread(factor, merged, flat_axis(axes[place] for place in listed))
    for stand, axis in zip(stands, axes, strict=True):
        factor = reread(factor, stand, axis)
    return factor


def reread(factor: Factor, label: Label, axis: Axis) -> Factor:
    """Return a factor with a label replaced by the positions of an axis."""
    if label not in factor.labels:
        return factor
    place = factor.labels.index(label)
    return read(factor.value, place, axis, (*factor.labels[:place], *factor.labels[place + 1 :]))


def narrow(value: Value, axes: Sequence[Axis]) -> tuple[Value, list[Axis]]:
    """Return the source of a broadcast value, with the axes it has: a factor is never repeated."""
    equation = value.builder.producer(value.operand)
    if equation is None or equation.primitive.name != "broadcast_to":
        return value, list(axes)
    source = Value(value.builder, equation.operands[0])
    kept = list(axes)[len(axes) - source.ndim :] if source.ndim else []
    return narrow(source, [axis if length != 1 else Axis(1) for axis, length in zip(kept, source.shape, strict=True)])


def with_out(term: Term, out: Iterable[Axis]) -> Term:
    """Return a term with other axes on the output side; a label that then stands nowhere multiplies by its size."""
    return counted(Term(term.builder, term.dtype, term.factors, tuple(out), term.into), term.labels)


def counted(term: Term, labels: Iterable[Label]) -> Term:
    """Return a term multiplied by the sizes of those of the given labels that it has not."""
    present = set(term.labels)
    lost = math.prod(label.size for label in labels if label not in present)
    return term if lost == 1 else scale(term, float(lost))


def scale(term: Term, number: complex) -> Term:
    """Return a term times a number."""
    literal = term.builder.literal(np.asarray(number, term.dtype.numpy))
    return with_factors(term, (*term.factors, Factor(literal, ())))


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


MOST_FACTORS = 4


def settle(term: Term) -> Term:
    """Return a term with every contraction done that makes it smaller.

    A term of many factors also does those that do not make it larger. So small factors meet first: a vector waits beside a
    matrix until something takes them both.
    """
    factors = list(term.factors)
    if not factors:
        return term
    sides = set(labels_of((*term.out, *term.into)))
    step = _next_contraction(factors, sides)
    if step is None:
        return term
    while step is not None:
        merged, rest = step
        factors = [factors[index] for index in range(len(factors)) if index not in rest]
        factors.append(merged)
        step = _next_contraction(factors, sides)
    return with_factors(term, tuple(factors))


def _next_contraction(factors: list[Factor], sides: set[Label]) -> tuple[Factor, tuple[int, ...]] | None:
    """Return a contracted factor and the positions of those it replaces; None where none is to be done."""
    scalars = tuple(index for index, factor in enumerate(factors) if not factor.labels)
    if len(scalars) > 1:
        return contract([factors[index] for index in scalars], ()), scalars
    for index, factor in enumerate(factors):
        if sides.issuperset(factor.labels):
            continue
        elsewhere = sides.union(*[item.labels for place, item in enumerate(factors) if place != index])
        if not elsewhere.issuperset(factor.labels):
            return contract((factor,), [label for label in factor.labels if label in elsewhere]), (index,)
    if len(factors) == 1:
        return None
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


def tables_of(term: Term) -> tuple[Factor, ...]:
    """Return the distinct tables of a term, in order of first appearance."""
    found = {
        (id(part.table.value.operand), part.table.labels): part.table
        for axis in (*term.out, *term.into)
        for part in axis.parts
        if part.table is not None
    }
    return tuple(found.values())


def finish(term: Term) -> Term:
    """Return a term as it is handed out: as one factor, unless that holds more elements than its factors do."""
    present = {label for factor in term.factors for label in factor.labels}
    labels = tuple(label for label in term.core if label in present)
    if len(term.factors) > 1 and run_length(labels) <= held_elements(term):
        return replace(term, factors=(Factor(contracted(term, labels), labels),))
    return replace(term, factors=tuple(map(_untransposed, term.factors)))


def _untransposed(factor: Factor) -> Factor:
    """Return a factor in the order of axes in which its array was made: an input stands as it is."""
    equation = factor.value.builder.producer(factor.value.operand)
    if equation is None or equation.primitive.name != "transpose":
        return factor
    order = equation.params["axes"]
    assert isinstance(order, tuple)
    labels = dict(zip(order, factor.labels, strict=True))
    source = Value(factor.value.builder, equation.operands[0])
    return _untransposed(Factor(source, tuple(labels[place] for place in range(len(order)))))


def contracted(term: Term, labels: Run) -> Value:
    """Return the contracted factors of a term as an array over the given labels, which cover its core; repeated where absent."""
    factor = contract(term.factors, labels) if term.factors else Factor(term.builder.literal(np.ones((), term.dtype.numpy)), ())
    value: Value = broadcast_to(aligned_to(factor, labels), tuple(label.size for label in labels))
    return value


def dense(term: Term) -> Value:
    """Return a term as an array of shape `shape_out + shape_in`."""
    core, axes = term.core, (*term.out, *term.into)
    runs = [axis.run for axis in axes]
    shape = (*term.shape_out, *term.shape_in)
    if None not in runs:
        numbers = {label: index for index, label in enumerate(core)}
        spread = embed(contracted(term, core), tuple(numbers[label] for run in runs for label in run or ()))
        value: Value = reshape(spread, shape)
        return value
    flat = flat_axis(axes)
    labels = tuple(dict.fromkeys(flat.labels))
    summed: Value = reshape(write_flat(term.builder, Factor(contracted(counted_over(term, labels), labels), labels), flat), shape)
    return summed


def counted_over(term: Term, labels: Run) -> Term:
    """Return a term whose sides are nothing but the given labels: others are summed."""
    return counted(replace(term, out=(Axis(0, tuple(map(Part, labels))),), into=()), term.labels)


def untied(terms: Sequence[Term]) -> Term:
    """Return the sum of terms as one term with one dense factor."""
    total = dense(terms[0])
    for term in terms[1:]:
        total = add(total, dense(term))
    first = terms[0]
    out, into = fresh_axes(first.shape_out), fresh_axes(first.shape_in)
    return attach(replace(first, factors=(), out=out, into=into), total, (*out, *into))
