"""What each linear primitive does to a term: one row a primitive.

`action(term, position, operands, params, result)` returns the term of the result for the term of the linear operand at a
position; linear operands stand as their types. A primitive without a row, or whose row gives None, acts on the dense term,
through its batching rule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradwire_core.builder import Value
from gradwire_core.ops._declare import call, convert
from gradwire_core.ops.contraction import split_subscripts
from gradwire_core.ops.elementwise import logical_not, reciprocal, where
from gradwire_core.ops.linalg import solve_columns, solve_primitive
from gradwire_core.ops.shaping import broadcast_to, flip, pad_with_zeros, reshape, slice_axes
from gradwire_core.ops.triangular import triangular_primitive
from gradwire_core.ops.updates import are_distinct
from gradwire_core.program import Equation, Primitive
from gradwire_core.structure.terms import (
    Factor,
    Label,
    Run,
    Term,
    attach,
    fresh_runs,
    map_axis,
    narrow,
    permuted,
    regroup,
    run_length,
    scale,
    settle,
    substitute,
    untied,
    with_out,
)
from gradwire_core.types import TensorType

Operands = Sequence[Any]
Action = Callable[[Term, int, Operands, Mapping[str, Any], TensorType], Term | None]


def act(equation: Equation, terms: Sequence[Term], position: int, operands: Operands) -> list[Term]:
    """Return the terms of an equation's result for the terms of its linear operand at a position."""
    action = ACTIONS.get(equation.primitive.name)
    result = equation.results[0].type
    if action is not None:
        changed = [action(term, position, operands, equation.params, result) for term in terms]
        found = [settle(term) for term in changed if term is not None]
        if len(found) == len(terms):
            return found
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
    runs: dict[str, Run] = dict(zip(inputs[position], term.out, strict=True))
    for index, labels in enumerate(inputs):
        if index == position:
            continue
        for label, length in zip(labels, operands[index].shape, strict=True):
            if label not in runs:
                (runs[label],) = fresh_runs((length,))
        term = attach(term, *narrow(operands[index], [runs[label] for label in labels]))
    # Labels of broadcast operands may be summed and stand nowhere else: they count as well.
    return with_out(replace(term, out=tuple(runs.values())), [runs[label] for label in output])


def _sum(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    return with_out(term, [run for axis, run in enumerate(term.out) if axis not in params["axes"]])


# -- shape -------------------------------------------------------------------------------------------------------------------


def _reshape(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    return regroup(term, result.shape)


def _transpose(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    return replace(term, out=tuple(term.out[axis] for axis in params["axes"]))


def _broadcast(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    lead = len(result.shape) - len(term.out)
    source: tuple[Run, ...] = (*((),) * lead, *term.out)
    fresh = fresh_runs(result.shape)
    out = [old if run_length(old) == length else new for old, new, length in zip(source, fresh, result.shape, strict=True)]
    return replace(term, out=tuple(out))


def _slice(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    for axis, bounds in enumerate(zip(params["starts"], params["stops"], params["steps"], strict=True)):
        if bounds != (0, run_length(term.out[axis]), 1):
            term = map_axis(term, axis, result.shape[axis], functools.partial(_slice_one, bounds=bounds))
    return term


def _slice_one(x: Value, place: int, bounds: tuple[int, int, int]) -> Value:
    starts, stops, steps = [0] * x.ndim, list(x.shape), [1] * x.ndim
    starts[place], stops[place], steps[place] = bounds
    value: Value = slice_axes(x, tuple(starts), tuple(stops), tuple(steps))
    return value


def _pad(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    for axis, widths in enumerate(zip(params["low"], params["high"], params["interior"], strict=True)):
        if any(widths):
            term = map_axis(term, axis, result.shape[axis], functools.partial(_pad_one, widths=widths))
    return term


def _pad_one(x: Value, place: int, widths: tuple[int, int, int]) -> Value:
    full = [tuple(width if axis == place else 0 for axis in range(x.ndim)) for width in widths]
    value: Value = pad_with_zeros(x, *full)
    return value


def _concatenate(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    axis = params["axis"]
    before, mine = sum(item.shape[axis] for item in operands[:position]), operands[position].shape[axis]
    after = result.shape[axis] - before - mine
    return map_axis(term, axis, result.shape[axis], functools.partial(_pad_one, widths=(before, after, 0)))


def _flip(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    for axis in params["axes"]:
        if result.shape[axis] != 1:
            term = map_axis(term, axis, result.shape[axis], flip)
    return term


def _take(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term | None:
    primitive, indices, axis = _indexing("take"), operands[1], params["axis"]
    if params["batch"]:
        return None
    flat = reshape(indices, (indices.size,))
    taken = map_axis(term, axis, indices.size, lambda x, place: call(primitive, x, flat, axis=place, batch=0))
    return regroup(taken, result.shape)


def _scatter_add(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term | None:
    primitive, indices, axis, size = _indexing("scatter_add"), operands[1], params["axis"], params["size"]
    if params["batch"]:
        return None
    shape = operands[0].shape
    merged = regroup(term, (*shape[:axis], indices.size, *shape[axis + indices.ndim :]))
    flat = reshape(indices, (indices.size,))

    def scatter(x: Value, place: int) -> Value:
        value: Value = call(primitive, x, flat, axis=place, batch=0, size=size)
        return value

    return map_axis(merged, axis, size, scatter, merges=True)


def _scatter(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term | None:
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


def _diagonal(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    kept: dict[int, int] = {}
    for axis, label in enumerate(params["labels"]):
        if label in kept:
            term = _unify(term, kept[label], axis)
        kept.setdefault(label, axis)
    return replace(term, out=tuple(term.out[axis] for axis in kept.values()))


def _unify(term: Term, first: int, second: int) -> Term:
    """Return a term in which two axes of the output side have one run: the diagonal over both."""
    place = 0
    while place < len(term.out[first]):
        one, other = term.out[first][place], term.out[second][place]
        if one is other:
            place += 1
        elif one.size == other.size:
            term = substitute(term, other, (one,))
            place += 1
        elif one.size % other.size == 0:
            term = substitute(term, one, (Label(other.size), Label(one.size // other.size)))
        elif other.size % one.size == 0:
            term = substitute(term, other, (Label(one.size), Label(other.size // one.size)))
        else:
            term = map_axis(term, second, run_length(term.out[second]), lambda x, axis: x)
            term = map_axis(term, first, run_length(term.out[first]), lambda x, axis: x)
            place = 0
    return term


def _embed(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    runs = dict(zip(dict.fromkeys(params["labels"]), term.out, strict=True))
    return replace(term, out=tuple(runs[label] for label in params["labels"]))


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
    value: Value = reshape(moved, (run_length(term.in_labels), *map(run_length, term.out)))
    return value


def _from_columns(term: Term, columns: Value, result: TensorType) -> Term:
    """Return a dense term with the input side of another, from an array [columns, *shape_out]."""
    runs = fresh_runs(result.shape)
    into = fresh_runs(tuple(map(run_length, term.into)))
    lengths = tuple(label.size for run in into for label in run)
    cleared = replace(term, dtype=result.dtype, factors=(), out=runs, into=into)
    return attach(cleared, reshape(columns, (*lengths, *result.shape)), (*((label,) for run in into for label in run), *runs))


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
