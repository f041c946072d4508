"""What each linear primitive does to a term: one row a primitive.

`action(term, position, operands, params, result)` returns the term of the result for the term of the linear operand at a
position; linear operands stand as their types. A primitive without a row, or whose row gives None, acts on the dense term,
through its batching rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradwire_core.builder import Value
from gradwire_core.ops._declare import call, convert
from gradwire_core.ops.contraction import split_subscripts
from gradwire_core.ops.elementwise import logical_not, reciprocal, where
from gradwire_core.ops.linalg import solve_columns, solve_primitive
from gradwire_core.ops.shaping import broadcast_to, reshape
from gradwire_core.ops.triangular import triangular_primitive
from gradwire_core.ops.updates import are_distinct
from gradwire_core.program import Equation, Primitive
from gradwire_core.structure.terms import (
    Axis,
    Factor,
    Term,
    agree,
    attach,
    fresh_axes,
    indexed,
    map_axis,
    narrow,
    permuted,
    read_out,
    regroup,
    run_length,
    scale,
    settle,
    untied,
    with_out,
)
from gradwire_core.types import TensorType

Operands = Sequence[Any]
Action = Callable[[Term, int, Operands, Mapping[str, Any], TensorType], Term | list[Term] | None]


def act(equation: Equation, terms: Sequence[Term], position: int, operands: Operands) -> list[Term]:
    """Return the terms of an equation's result for the terms of its linear operand at a position."""
    action = ACTIONS.get(equation.primitive.name)
    result = equation.results[0].type
    if action is not None:
        changed = [action(term, position, operands, equation.params, result) for term in terms]
        if None not in changed:
            return [settle(term) for found in changed for term in ([found] if isinstance(found, Term) else found or ())]
    return [_apply_dense(equation.primitive, untied(terms), position, operands, equation.params, result)]


# -- scaling -----------------------------------------------------------------------------------------------------------------


def _scaled_by(term: Term, residual: Value) -> Term:
    return attach(term, *narrow(residual, term.out))


def _multiply(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    return _scaled_by(term, operands[1 - position])


def _divide(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    source, runs = narrow(operands[1], term.out)
    return attach(term, reciprocal(source), runs)


def _same(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    return term


def _negative(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    return scale(term, -1.0)


def _subtract(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    return scale(term, -1.0) if position == 1 else term


def _convert(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    factors = tuple(Factor(convert(item.value, result.dtype), item.labels) for item in term.factors)
    return replace(term, dtype=result.dtype, factors=factors)


def _where(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    """Mask the term; a residual on the same labels is masked itself, so that what is not taken is 0 even where it is inf."""
    source, runs = narrow(operands[0], term.out)
    masked = attach(term, source if position == 1 else logical_not(source), runs)
    mask = masked.factors[-1]
    for index, factor in enumerate(term.factors):
        if set(factor.labels) == set(mask.labels):
            kept = Factor(where(permuted(mask, factor.labels), factor.value, 0.0), factor.labels)
            return replace(term, factors=(*term.factors[:index], kept, *term.factors[index + 1 :]))
    return replace(masked, factors=(*term.factors, Factor(convert(mask.value, term.dtype), mask.labels)))


# -- contraction -------------------------------------------------------------------------------------------------------------


def _einsum(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    inputs, output = split_subscripts(params["subscripts"])
    axes: dict[str, Axis] = dict(zip(inputs[position], term.out, strict=True))
    for index, labels in enumerate(inputs):
        if index == position:
            continue
        for label, length in zip(labels, operands[index].shape, strict=True):
            if label not in axes:
                (axes[label],) = fresh_axes((length,))
        term = attach(term, *narrow(operands[index], [axes[label] for label in labels]))
    # Labels of broadcast operands may be summed and stand nowhere else: they count as well.
    return with_out(replace(term, out=tuple(axes.values())), [axes[label] for label in output])


def _sum(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    return with_out(term, [axis for place, axis in enumerate(term.out) if place not in params["axes"]])


# -- shape -------------------------------------------------------------------------------------------------------------------


def _reshape(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> list[Term]:
    return regroup(term, result.shape)


def _transpose(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    return replace(term, out=tuple(term.out[axis] for axis in params["axes"]))


def _broadcast(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    lead = len(result.shape) - len(term.out)
    source: tuple[Axis, ...] = (*(Axis(1),) * lead, *term.out)
    fresh = fresh_axes(result.shape)
    out = [old if old.length == length else new for old, new, length in zip(source, fresh, result.shape, strict=True)]
    return replace(term, out=tuple(out))


def _slice(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> list[Term]:
    terms = [term]
    for axis, (start, stop, step) in enumerate(zip(params["starts"], params["stops"], params["steps"], strict=True)):
        length = term.out[axis].length
        if (start, stop, step) != (0, length, 1):
            fresh = fresh_axes((result.shape[axis],))
            places = fresh[0].mapped(length, step, start)
            terms = [cut for item in terms for cut in read_out(item, axis, fresh, places)]
    return terms


def _pad(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    gaps, low = params["interior"], params["low"]
    return replace(
        term,
        out=tuple(
            axis.mapped(length, gap + 1, before)
            for axis, length, gap, before in zip(term.out, result.shape, gaps, low, strict=True)
        ),
    )


def _concatenate(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    place = params["axis"]
    before = sum(item.shape[place] for item in operands[:position])
    return _placed(term, place, term.out[place].mapped(result.shape[place], 1, before))


def _placed(term: Term, place: int, axis: Axis) -> Term:
    return replace(term, out=(*term.out[:place], axis, *term.out[place + 1 :]))


def _flip(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    for place in params["axes"]:
        length = result.shape[place]
        term = _placed(term, place, term.out[place].mapped(length, -1, length - 1))
    return term


def _take(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> list[Term]:
    axis, batch, indices = params["axis"], params["batch"], operands[1]
    fresh = fresh_axes(indices.shape[batch:])
    places = indexed(indices, (*term.out[:batch], *fresh), term.out[axis].length)
    return read_out(term, axis, fresh, places)


def _scatter_add(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term | list[Term]:
    axis, batch, indices, size = params["axis"], params["batch"], operands[1], params["size"]
    stop = axis + indices.ndim - batch
    if batch == 0 and size <= indices.size and _is_free(term, axis, stop):
        return _scatter_factors(term, axis, stop, indices, result)
    places = indexed(indices, (*term.out[:batch], *term.out[axis:stop]), size)
    return replace(term, out=(*term.out[:axis], places, *term.out[stop:]))


def _is_free(term: Term, start: int, stop: int) -> bool:
    """Whether the labels of some axes of the output side stand on factors alone."""
    others = replace(term, factors=(), out=(*term.out[:start], *term.out[stop:])).core
    labels = [label for axis in term.out[start:stop] for label in axis.labels]
    return all(axis.run is not None for axis in term.out[start:stop]) and set(labels).isdisjoint(others)


def _scatter_factors(term: Term, axis: int, stop: int, indices: Any, result: TensorType) -> list[Term]:
    """Add the elements of a factor up, where that makes it no larger."""
    primitive, size = _indexing("scatter_add"), result.shape[axis]
    shape = (*result.shape[:axis], indices.size, *result.shape[axis + 1 :])
    flat = reshape(indices, (indices.size,))

    def scatter(x: Value, place: int) -> Value:
        value: Value = call(primitive, x, flat, axis=place, batch=0, size=size)
        return value

    return [map_axis(merged, axis, size, scatter, merges=True) for merged in regroup(term, shape)]


def _scatter(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term | list[Term] | None:
    """Add the updates to zeros where no two have one place; the zeros they replace have no term."""
    length = result.shape[params["axis"]]
    if position != 2 or not are_distinct(operands[1], length):
        return None
    return _scatter_add(term, 0, (operands[2], operands[1]), {**params, "size": length}, result)


def _cumsum(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    primitive, axis, reverse = _indexing("cumsum"), params["axis"], params["reverse"]
    if result.shape[axis] == 1:
        return term
    return map_axis(term, axis, result.shape[axis], lambda x, place: call(primitive, x, axis=place, reverse=reverse), merges=True)


def _indexing(name: str) -> Primitive:
    from gradwire_core.ops import find_primitive

    return find_primitive(name)


def _diagonal(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> list[Term]:
    labels = params["labels"]
    terms = [term]
    for place, label in enumerate(labels):
        first = labels.index(label)
        if first < place:
            terms = [found for item in terms for found in agree(item, item.out[first], item.out[place])]
    kept = [labels.index(label) for label in dict.fromkeys(labels)]
    return [with_out(item, [item.out[place] for place in kept]) for item in terms]


def _embed(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    axes = dict(zip(dict.fromkeys(params["labels"]), term.out, strict=True))
    return replace(term, out=tuple(axes[label] for label in params["labels"]))


# -- the general case --------------------------------------------------------------------------------------------------------


def _apply_dense(
    primitive: Primitive, term: Term, position: int, operands: Operands, params: Mapping[str, Any], result: TensorType
) -> Term:
    """Apply a linear primitive to every column of a dense term at once, by its batching rule."""
    batch = _columns(term)
    values = [batch if index == position else _absent(item, batch) for index, item in enumerate(operands)]
    columns = primitive.batch([index == position for index in range(len(operands))], values, params)
    return _from_columns(term, columns, result)


def act_whole(equation: Equation, terms: Sequence[Sequence[Term]], operands: Operands) -> list[Term]:
    """Return the dense term of each result of an equation for the terms of all its operands, none where one is not linear."""
    dense = [untied(group) if group else None for group in terms]
    like = next(term for term in dense if term is not None)
    batches = [None if term is None else _columns(term) for term in dense]
    batch = _columns(like)
    values = [_absent(item, batch) if column is None else column for column, item in zip(batches, operands, strict=True)]
    found = equation.primitive.batch([column is not None for column in batches], values, equation.params)
    results = found if isinstance(found, tuple) else (found,)
    return [_from_columns(like, columns, var.type) for columns, var in zip(results, equation.results, strict=True)]


def _columns(term: Term) -> Value:
    """Return a dense term as an array [columns, *shape_out]."""
    (factor,) = term.factors
    moved = permuted(factor, (*term.in_labels, *term.out_labels))
    value: Value = reshape(moved, (run_length(term.in_labels), *term.shape_out))
    return value


def _from_columns(term: Term, columns: Value, result: TensorType) -> Term:
    """Return a dense term with the input side of another, from an array [columns, *shape_out]."""
    out, into = fresh_axes(result.shape), fresh_axes(term.shape_in)
    cleared = replace(term, dtype=result.dtype, factors=(), out=out, into=into)
    return attach(cleared, reshape(columns, (*term.shape_in, *result.shape)), (*into, *out))


def _absent(item: Any, like: Value) -> Value:
    if isinstance(item, Value):
        return item
    zero = like.builder.literal(np.zeros((), item.dtype.numpy))
    value: Value = broadcast_to(zero, item.shape)
    return value


def _solve_with(primitive: Primitive) -> Action:
    """Solve for the columns of the term where the matrix has no batch axes: other axes stay as they are."""

    def solve(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term | None:
        matrix = operands[0]
        if matrix.ndim != 2:
            return None
        return map_axis(term, 0, result.shape[0], lambda x, place: solve_columns(primitive, matrix, x, place, params), merges=True)

    return solve


ACTIONS: dict[str, Action] = {
    "add": _same,
    "broadcast_to": _broadcast,
    "concatenate": _concatenate,
    "convert": _convert,
    "cumsum": _cumsum,
    "diagonal": _diagonal,
    "divide": _divide,
    "einsum": _einsum,
    "embed": _embed,
    "flip": _flip,
    "multiply": _multiply,
    "negative": _negative,
    "pad": _pad,
    "reshape": _reshape,
    "scatter": _scatter,
    "scatter_add": _scatter_add,
    "slice": _slice,
    "solve": _solve_with(solve_primitive),
    "subtract": _subtract,
    "sum": _sum,
    "take": _take,
    "transpose": _transpose,
    "triangular_solve": _solve_with(triangular_primitive),
    "where": _where,
}
