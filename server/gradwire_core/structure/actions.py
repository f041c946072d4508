"""What each linear primitive does to a term: one row a primitive.

`action(term, position, operands, params, result)` returns the term, or terms, of the result for the term of the linear operand at
a position; linear operands stand as their types. A primitive without a row, or whose row gives None, acts on columns of the terms
through its batching rule; axes that it does not mix, which `MIXES` tells, stay tied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradwire_core.builder import Value
from gradwire_core.ops._declare import call, convert, filled
from gradwire_core.ops.contraction import split_subscripts
from gradwire_core.ops.elementwise import logical_not, reciprocal, where
from gradwire_core.ops.linalg import solve_columns, solve_primitive
from gradwire_core.ops.shaping import broadcast_to, reshape, transpose
from gradwire_core.ops.triangular import triangular_primitive
from gradwire_core.ops.updates import winners
from gradwire_core.program import Equation, Primitive
from gradwire_core.structure.columns import columns_of, from_columns, open_axes
from gradwire_core.structure.terms import (
    Axis,
    Factor,
    Term,
    agree,
    attach,
    contract,
    fresh_axes,
    indexed,
    map_axis,
    narrow,
    permuted,
    read_out,
    regroup,
    scale,
    settle,
    untied,
    with_out,
)
from gradwire_core.types import Dtype, TensorType

Operands = Sequence[Any]
Action = Callable[[Term, int, Operands, Mapping[str, Any], TensorType], Term | list[Term] | None]


def act(equation: Equation, terms: Sequence[Term], position: int, operands: Operands) -> list[Term]:
    """Return the terms of an equation's result for the terms of its linear operand at a position."""
    name, result = equation.primitive.name, equation.results[0].type
    action = ACTIONS.get(name)
    if action is not None:
        changed = [action(term, position, operands, equation.params, result) for term in terms]
        if None not in changed:
            return [settle(term) for found in changed for term in ([found] if isinstance(found, Term) else found or ())]
    mixed = MIXES[name](len(result.shape), equation.params) if name in MIXES else range(len(operands[position].shape))
    return _apply(equation, terms, position, operands, mixed)


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
    source, axes = narrow(operands[0], term.out)
    return _masked(term, source if position == 1 else logical_not(source), axes)


def _masked(term: Term, source: Value, axes: Sequence[Axis]) -> Term:
    """Mask the term; a residual on the same labels is masked itself, so that what is not taken is 0 even where it is inf."""
    masked = attach(term, source, axes)
    mask = masked.factors[-1]
    for index, factor in enumerate(term.factors):
        if set(factor.labels) == set(mask.labels):
            kept = Factor(where(permuted(mask, factor.labels), factor.value, 0.0), factor.labels)
            return replace(term, factors=(*term.factors[:index], kept, *term.factors[index + 1 :]))
    return replace(masked, factors=(*term.factors, Factor(convert(mask.value, term.dtype), mask.labels)))


def _times(number: float) -> Action:
    """Return the action of a primitive that multiplies by a number."""

    def action(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
        return scale(term, number)

    return action


def _part(name: str) -> Action:
    """Return the action of a primitive that takes a part of complex numbers: real factors may stay apart."""

    def action(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
        whole = [item for item in term.factors if item.value.dtype.kind == "c"]
        if not whole:
            whole = [Factor(term.builder.literal(np.ones((), term.dtype.numpy)), ())]
        others = [item for item in term.factors if item.value.dtype.kind != "c"]
        elsewhere = {*term.core}.union(*[item.labels for item in others])
        product = contract(whole, [label for label in dict.fromkeys(term.labels) if label in elsewhere])
        changed = Factor(call(_indexing(name), product.value), product.labels)
        return _convert(replace(term, factors=(*others, changed)), 0, operands, {}, result)

    return action


def _complex(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    wide = _convert(term, 0, operands, {}, result)
    return wide if position == 0 else scale(wide, 1j)


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


def _scatter(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term | list[Term]:
    """Mask what is replaced; add the updates to zeros, but for those that another one follows in the same place."""
    axis, batch, indices = params["axis"], params["batch"], operands[1]
    length = result.shape[axis]
    if position == 0:
        lead = indices.shape[:batch]
        ones = filled(1, TensorType(Dtype.BOOL, (*lead, length)), indices)
        none = filled(0, TensorType(Dtype.BOOL, indices.shape), indices)
        kept = call(_indexing("scatter"), ones, indices, none, axis=batch, batch=batch)
        return _masked(term, kept, [*term.out[:batch], term.out[axis]])
    last = winners(indices, TensorType(result.dtype, result.shape), axis, batch)
    if last is not None:
        term = _masked(term, *narrow(last, term.out))
    return _scatter_add(term, 0, (operands[2], indices), {**params, "size": length}, result)


def _convolve(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
    """Add the index of the other operand to that along the last axis: nothing is computed."""
    other = operands[1 - position]
    (fresh,) = fresh_axes(other.shape[-1:])
    scaled = attach(term, *narrow(other, [*term.out[:-1], fresh]))
    last = term.out[-1]
    return _placed(scaled, len(term.out) - 1, Axis(result.shape[-1], (*last.parts, *fresh.parts), last.offset))


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


def _along_axis(name: str) -> Action:
    """Return the action of a primitive without other operands along its axis: what stands on that alone is made dense."""

    def action(term: Term, position: int, operands: Operands, params: Any, result: TensorType) -> Term:
        primitive, place = _indexing(name), params["axis"]

        def along(x: Value, axis: int) -> Value:
            value: Value = call(primitive, x, **{**params, "axis": axis})
            return value

        applied = map_axis(term, place, result.shape[place], along, merges=True)
        return applied if result.dtype is term.dtype else _convert(applied, 0, operands, {}, result)

    return action


# -- the general case --------------------------------------------------------------------------------------------------------


def _apply(equation: Equation, terms: Sequence[Term], position: int, operands: Operands, mixed: Sequence[int]) -> list[Term]:
    """Apply a linear primitive to columns of terms, by its batching rule; axes that it does not mix stay tied."""
    result = equation.results[0].type
    kept = [place for place in range(len(operands[position].shape)) if place not in mixed]
    opened = [(term, open_axes(term, kept)) for term in terms]
    whole = [term for term, places in opened if len(places) == len(term.into)]
    columns = [columns_of(term, places) for term, places in opened if len(places) < len(term.into)]
    if whole:
        total = untied(whole)
        columns.append(columns_of(total, range(len(total.into))))
    found = []
    for item in columns:
        results = _apply_columns(equation, item.value, position, operands)
        out = [None if place in mixed else item.term.out[place] for place in range(len(result.shape))]
        found.append(from_columns(item, results, out, result.dtype))
    return found


def _apply_columns(equation: Equation, columns: Value, position: int, operands: Operands) -> Any:
    primitive, params = equation.primitive, equation.params
    if primitive.name in SOLVES:  # the columns stand beside those of the right side
        count, *lead, rows, width = columns.shape
        side = reshape(transpose(columns, (*range(1, columns.ndim), 0)), (*lead, rows, width * count))
        solved = reshape(call(primitive, operands[0], side, **params), (*lead, rows, width, count))
        return transpose(solved, (solved.ndim - 1, *range(solved.ndim - 1)))
    values = [columns if index == position else _absent(other, columns) for index, other in enumerate(operands)]
    return primitive.batch([index == position for index in range(len(operands))], values, params)


def _absent(item: Any, like: Value) -> Value:
    if isinstance(item, Value):
        return item
    zero = like.builder.literal(np.zeros((), item.dtype.numpy))
    value: Value = broadcast_to(zero, item.shape)
    return value


SOLVES = frozenset({"solve", "triangular_solve"})


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
    "complex": _complex,
    "conj": _part("conj"),
    "convert": _convert,
    "convolve": _convolve,
    "cumsum": _along_axis("cumsum"),
    "deg2rad": _times(math.radians(1.0)),
    "diagonal": _diagonal,
    "divide": _divide,
    "einsum": _einsum,
    "embed": _embed,
    "fft": _along_axis("fft"),
    "flip": _flip,
    "ifft": _along_axis("ifft"),
    "imag": _part("imag"),
    "multiply": _multiply,
    "negative": _negative,
    "pad": _pad,
    "rad2deg": _times(math.degrees(1.0)),
    "real": _part("real"),
    "reshape": _reshape,
    "rfft": _along_axis("rfft"),
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

MIXES: dict[str, Callable[[int, Mapping[str, Any]], Sequence[int]]] = {
    "cholesky_tangent": lambda rank, params: (rank - 2, rank - 1),
    "expm_frechet": lambda rank, params: (rank - 2, rank - 1),
    "irfft": lambda rank, params: (params["axis"],),
    "linear_recurrence": lambda rank, params: (params["axis"],),
    "solve": lambda rank, params: (rank - 2,),
    "solve_sylvester": lambda rank, params: (rank - 2, rank - 1),
    "triangular_solve": lambda rank, params: (rank - 2,),
}
"""The axes that a primitive mixes, from their number and the params; along all others, elements depend on those of equal index."""
