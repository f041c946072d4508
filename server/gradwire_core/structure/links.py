"""Links: where the partials of a linear equation stand, element by element, and what they are.

A link is the partials of a result by one linear operand, `row[t, o]` by `column[t, i]` for all t, o and i, flat positions in both.
So a tied index t costs one partial, and a dense matrix is o times i partials that are never listed. A partial is a product
of elements of Values, at flat positions `t-part + o-part + i-part`. Structure comes from shapes and literals alone: what a
primitive moves is found by moving positions with its own kernel, and zero patterns tell which partials are always 0. A primitive
without a rule has partials everywhere, which nothing is known of; that is never wrong, and gives larger blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops._declare import convert
from gradwire_core.ops.contraction import einsum_of, split_subscripts
from gradwire_core.ops.elementwise import add, equal, less, logical_not, reciprocal, where
from gradwire_core.ops.shaping import reshape, take_diagonal
from gradwire_core.program import Equation, Var, Whole
from gradwire_core.structure import zeros
from gradwire_core.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """One factor of the partials of a link: the elements of a Value, flattened.

    Attributes:
        value: the Value.
        tied: the part of the position by t, [t].
        out: the part of the position by o, [o].
        into: the part of the position by i, [i].
    """

    value: Value
    tied: Array
    out: Array
    into: Array


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """The partials of a result by an operand.

    Attributes:
        result: the result.
        operand: the operand.
        rows: flat positions in the result, [t, o].
        columns: flat positions in the operand, [t, i].
        weights: the factors of the partials; None where they are not known.
        sign: a literal factor, 1 or -1.
        mask: which of the partials may differ from 0, [t or 1, o, i]; None where all may.
        reach: in place of a mask, how many of the first i each o has, in the order of i.
        is_partly_known: whether the weights hold for o = i alone.
    """

    result: Var
    operand: Var
    rows: Array
    columns: Array
    weights: tuple[Weight, ...] | None = ()
    sign: int = 1
    mask: Array | None = None
    reach: Array | None = None
    is_partly_known: bool = False

    @property
    def is_listed(self) -> bool:
        """Whether each t is one partial."""
        return bool(self.rows.shape[1] == self.columns.shape[1] == 1)

    @property
    def is_elementwise(self) -> bool:
        """Whether t is the position in both, and all of them are there."""
        return self.rows is self.columns

    def is_sparse(self, most: int) -> bool:
        """Whether no row and no column has more than so many partials."""
        if not self.is_listed:
            return bool(self.rows.shape[1] <= most and self.columns.shape[1] <= most)
        return all(np.bincount(places[:, 0], minlength=1).max() <= most for places in (self.rows, self.columns))


MOST_TAPS = 64
"""The partials of a convolution are listed if one operand has at most so many elements along the axis."""

_ONE = np.zeros(1, np.int64)
Rule = Callable[[Builder, Equation, int], "Link | None"]


def links_of(builder: Builder, equation: Equation, position: int) -> Link:
    """Return the link of an equation's result by its linear operand at a position; for those with one result."""
    rule = RULES.get(equation.primitive.name)
    link = rule(builder, equation, position) if rule is not None else None
    return _supported(link if link is not None else opaque(equation.results[0], _operand(equation, position)))


def opaque(result: Var, operand: Var) -> Link:
    """Return a link of all partials, nothing known of any."""
    return Link(result, operand, np.arange(result.type.size)[None], np.arange(operand.type.size)[None], None)


def is_opaque(equation: Equation) -> bool:
    """Whether an equation runs sub-programs: nothing is known of the partials of any result by any operand."""
    return isinstance(equation.primitive.derivative(0), Whole)


def _operand(equation: Equation, position: int) -> Var:
    operand = equation.operands[position]
    assert isinstance(operand, Var)
    return operand


def _supported(link: Link) -> Link:
    """Return a link without the partials that are 0 whatever the inputs are."""
    if not link.weights:
        return link
    if link.reach is not None:
        return link
    tied, out, into = link.rows.shape[0], link.rows.shape[1], link.columns.shape[1]
    for weight in link.weights:
        found = zeros.support(weight.value)
        if found is None:
            continue
        flat = found.ravel()
        if link.is_listed:
            kept = flat[weight.tied + weight.out[0] + weight.into[0]]
            link = _listed(link, np.flatnonzero(kept))
            continue
        varies = weight.tied.size > 1 and bool(np.ptp(weight.tied))
        if varies and tied * out * into > zeros.MOST_ELEMENTS:
            continue
        shared = weight.tied if varies else weight.tied[:1]
        mask = flat[shared[:, None, None] + weight.out[:, None] + weight.into]
        mask = np.broadcast_to(mask, (mask.shape[0], out, into))
        link = replace(link, mask=mask if link.mask is None else mask & link.mask)
    return link


def _listed(link: Link, kept: Array) -> Link:
    assert link.weights is not None
    weights = tuple(replace(weight, tied=weight.tied[kept]) for weight in link.weights)
    return replace(link, rows=link.rows[kept], columns=link.columns[kept], weights=weights)


# -- one row a primitive -------------------------------------------------------------------------------------------------------


def _elementwise(builder: Builder, equation: Equation, position: int, sign: int = 1) -> Link:
    every = np.arange(equation.results[0].type.size)[:, None]
    return Link(equation.results[0], _operand(equation, position), every, every, sign=sign)


def _weighted(link: Link, value: Value) -> Link:
    """Return an elementwise link times a Value of the shape of the result; what it repeats is not repeated."""
    places = np.arange(value.size).reshape(value.shape)
    equation = value.builder.producer(value.operand)
    if equation is not None and equation.primitive.name == "broadcast_to":
        value = Value(value.builder, equation.operands[0])
        places = np.broadcast_to(np.arange(value.size).reshape(value.shape), places.shape)
    assert link.weights is not None
    return replace(link, weights=(*link.weights, Weight(value, places.ravel(), _ONE, _ONE)))


def _multiply(builder: Builder, equation: Equation, position: int) -> Link:
    return _weighted(_elementwise(builder, equation, position), Value(builder, equation.operands[1 - position]))


def _divide(builder: Builder, equation: Equation, position: int) -> Link:
    value = Value(builder, equation.operands[1])
    repeated = builder.producer(value.operand)
    if repeated is not None and repeated.primitive.name == "broadcast_to":
        source = Value(builder, repeated.operands[0])
        (value,) = builder.emit(repeated.primitive, (reciprocal(source),), repeated.params)
    else:
        value = reciprocal(value)
    return _weighted(_elementwise(builder, equation, position), value)


def _negative(builder: Builder, equation: Equation, position: int) -> Link:
    return _elementwise(builder, equation, position, -1)


def _subtract(builder: Builder, equation: Equation, position: int) -> Link:
    return _elementwise(builder, equation, position, -1 if position == 1 else 1)


def _where(builder: Builder, equation: Equation, position: int) -> Link:
    condition = Value(builder, equation.operands[0])
    taken = condition if position == 1 else logical_not(condition)
    return _weighted(_elementwise(builder, equation, position), convert(taken, equation.results[0].type.dtype))


def _moved(builder: Builder, equation: Equation, position: int) -> Link | None:
    """Move positions by the kernel: each element of the result is one of the operand's, or a 0."""
    operand = _operand(equation, position)
    arrays: list[Array] = []
    for index, item in enumerate(equation.operands):
        if index == position:
            arrays.append(1 + np.arange(operand.type.size).reshape(operand.type.shape))
        elif item.type.dtype.is_inexact:
            arrays.append(np.zeros(item.type.shape, np.int64))
        else:
            known = zeros.known(Value(builder, item))
            if known is None:
                return None
            arrays.append(known)
    source = np.asarray(equation.primitive.kernel(*arrays, **equation.params)).ravel()
    rows = np.flatnonzero(source)
    return Link(equation.results[0], operand, rows[:, None], source[rows, None] - 1)


def _taken(builder: Builder, equation: Equation, position: int) -> Link | None:
    return _moved(builder, equation, position) or _indexed(builder, equation, position)


def _scattered(builder: Builder, equation: Equation, position: int) -> Link | None:
    found = _moved(builder, equation, position)
    if found is None and position == 0:
        return replace(_elementwise(builder, equation, position), weights=None)
    return found or replace(_indexed(builder, equation, position), weights=None)  # which of several counts is not known


def _indexed(builder: Builder, equation: Equation, position: int) -> Link:
    """Tie all axes but those of indices that are not known until the program runs; a partial is 1 where an index is the place."""
    operand, result = _operand(equation, position), equation.results[0]
    axis, batch = equation.params["axis"], equation.params["batch"]
    assert isinstance(axis, int)
    assert isinstance(batch, int)
    indices = Value(builder, equation.operands[1])
    is_read = equation.primitive.name == "take"
    whole = operand if is_read else result
    length, count, lead = whole.type.shape[axis], math.prod(indices.shape[batch:]), math.prod(indices.shape[:batch])
    counts = (indices.ndim - batch, 1) if is_read else (1, indices.ndim - batch)
    rows, columns = [_lines(var, axis, number) for var, number in zip((result, operand), counts, strict=True)]
    places = np.arange(length).astype(indices.dtype)
    flat = reshape(indices, (lead, count, 1))
    found = convert(equal(where(less(flat, 0), add(flat, length), flat), builder.literal(places)), result.type.dtype)
    tied = np.repeat(np.arange(lead) * (count * length), rows.shape[0] // lead if lead else 0)
    parts = (np.arange(count) * length, np.arange(length))
    return Link(result, operand, rows, columns, (Weight(found, tied, *(parts if is_read else parts[::-1])),))


def _scatter_add(builder: Builder, equation: Equation, position: int) -> Link | None:
    """Read where each element goes from the positions of the result."""
    indices = zeros.known(Value(builder, equation.operands[1]))
    if indices is None:
        return _indexed(builder, equation, position)
    from gradwire_core.ops import find_primitive

    result, params = equation.results[0], equation.params
    places = np.arange(result.type.size).reshape(result.type.shape)
    rows = np.asarray(find_primitive("take").kernel(places, indices, axis=params["axis"], batch=params["batch"])).ravel()
    return Link(result, _operand(equation, position), rows[:, None], np.arange(rows.size)[:, None])


def _sum(builder: Builder, equation: Equation, position: int) -> Link:
    operand, result = _operand(equation, position), equation.results[0]
    axes: Any = equation.params["axes"]
    places = np.moveaxis(np.arange(operand.type.size).reshape(operand.type.shape), axes, range(-len(axes), 0))
    count = math.prod(operand.type.shape[axis] for axis in axes)
    return Link(result, operand, np.arange(result.type.size)[:, None], places.reshape((result.type.size, count)))


def _einsum(builder: Builder, equation: Equation, position: int) -> Link:
    operand, result = _operand(equation, position), equation.results[0]
    subscripts: Any = equation.params["subscripts"]
    inputs, output = split_subscripts(subscripts)
    mine = inputs[position]
    sizes = {
        name: length
        for names, item in zip(inputs, equation.operands, strict=True)
        for name, length in zip(names, item.type.shape, strict=True)
    }
    tied = [name for name in output if name in mine]
    out = [name for name in output if name not in mine]
    into = [name for name in mine if name not in output]
    weights = []
    others = [index for index in range(len(inputs)) if index != position]
    inner = {name for index in others for name in inputs[index]} - set(mine) - set(output)
    if inner:
        names = "".join(dict.fromkeys(name for index in others for name in inputs[index] if name not in inner))
        groups = ",".join(inputs[index] for index in others)
        factors = [(einsum_of(f"{groups}->{names}", *[Value(builder, equation.operands[index]) for index in others]), names)]
    else:
        factors = [(Value(builder, equation.operands[index]), inputs[index]) for index in others]
    for value, names in factors:
        weights.append(Weight(value, *[_positions(names, group, sizes) for group in (tied, out, into)]))
    rows = _positions(output, tied, sizes)[:, None] + _positions(output, out, sizes)
    columns = _positions(mine, tied, sizes)[:, None] + _positions(mine, into, sizes)
    return Link(result, operand, rows, columns, tuple(weights))


def _positions(names: Sequence[str], group: Sequence[str], sizes: Mapping[str, int]) -> Array:
    """Return the part of the flat positions in an array of the named axes by the indices of a group, flattened."""
    total = np.zeros(1, np.int64)
    for name in group:
        stride = math.prod(sizes[item] for item in names[names.index(name) + 1 :]) if name in names else 0
        total = (total[:, None] + stride * np.arange(sizes[name])).ravel()
    return total


def _running(builder: Builder, equation: Equation, position: int) -> Link:
    """Read the sums along an axis: each element of the result depends on those up to it."""
    result, axis = equation.results[0], equation.params["axis"]
    assert isinstance(axis, int)
    length = result.type.shape[axis]
    places = _lines(result, axis)
    if equation.params["reverse"]:
        places = places[:, ::-1]
    is_partly = equation.primitive.name != "cumsum"
    return Link(result, _operand(equation, position), places, places, reach=1 + np.arange(length), is_partly_known=is_partly)


def _convolved(builder: Builder, equation: Equation, position: int) -> Link:
    """List the partials of a convolution along the last axis where one operand is short; else tie the other axes alone."""
    operand, other, result = _operand(equation, position), equation.operands[1 - position], equation.results[0]
    (*lead, length), taps = operand.type.shape, other.type.shape[-1]
    if min(length, taps) > MOST_TAPS:
        return Link(result, operand, _lines(result, len(lead)), _lines(operand, len(lead)), None)
    line, place, tap = np.indices((math.prod(lead), length, taps)).reshape((3, -1))
    rows, columns = line * result.type.shape[-1] + place + tap, line * length + place
    weight = Weight(Value(builder, other), line * taps + tap, _ONE, _ONE)
    return Link(result, operand, rows[:, None], columns[:, None], (weight,))


def _lines(var: Var, axis: int, count: int = 1) -> Array:
    """Return the flat positions of the elements along an axis, or some that are neighbours, [line, element]."""
    shape = var.type.shape
    before, length, after = [math.prod(part) for part in (shape[:axis], shape[axis : axis + count], shape[axis + count :])]
    places = np.arange(var.type.size).reshape((before, length, after))
    return np.moveaxis(places, 1, 2).reshape((before * after, length))


def _triangular(builder: Builder, equation: Equation, position: int) -> Link | None:
    """Solve with a triangle of a matrix: the last axis but one of the right side, from one end."""
    matrix, result = equation.operands[0], equation.results[0]
    if matrix.type.ndim != 2 or position != 1:
        return None
    length = result.type.shape[0]
    places = _lines(result, 0)
    order = np.arange(length)
    if equation.params["lower"] == equation.params["transpose"]:
        places, order = places[:, ::-1], order[::-1]
    weights: tuple[Weight, ...] = ()
    if not equation.params["unit_diagonal"]:
        pivots = reciprocal(take_diagonal(Value(builder, matrix), (0, 0)))
        weights = (Weight(pivots, np.zeros(places.shape[0], np.int64), order, np.zeros(length, np.int64)),)
    reach = 1 + np.arange(length)
    return Link(result, _operand(equation, position), places, places, weights, reach=reach, is_partly_known=True)


def _along(axis_of: Callable[[Equation], int]) -> Rule:
    """Return the rule of what mixes along one axis in a way that is not known."""

    def rule(builder: Builder, equation: Equation, position: int) -> Link | None:
        operand, result, axis = _operand(equation, position), equation.results[0], axis_of(equation)
        rows, columns = [_lines(var, axis) for var in (result, operand)]
        return Link(result, operand, rows, columns, None) if rows.shape[0] == columns.shape[0] else None

    return rule


def _solve(builder: Builder, equation: Equation, position: int) -> Link | None:
    return _along(lambda equation: equation.results[0].type.ndim - 2)(builder, equation, position) if position == 1 else None


RULES: dict[str, Rule] = {
    "add": _elementwise,
    "broadcast_to": _moved,
    "concatenate": _moved,
    "convert": _elementwise,
    "convolve": _convolved,
    "cumsum": _running,
    "diagonal": _moved,
    "divide": _divide,
    "einsum": _einsum,
    "embed": _moved,
    "flip": _moved,
    "linear_recurrence": _running,
    "multiply": _multiply,
    "negative": _negative,
    "pad": _moved,
    "reshape": _elementwise,
    "scatter": _scattered,
    "scatter_add": _scatter_add,
    "slice": _moved,
    "solve": _solve,
    "subtract": _subtract,
    "sum": _sum,
    "take": _taken,
    "transpose": _moved,
    "triangular_solve": _triangular,
    "where": _where,
}
