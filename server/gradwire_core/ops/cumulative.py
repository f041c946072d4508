"""Running sums, products and extremes along one axis, and the first-order linear recurrence their derivatives are made of.

An inner element of a result depends on the elements up to it. Each derivative is a recurrence again, so that none divides, none
subtracts what was added, and all orders are exact where elements are 0, -inf or equal.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import implements
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.ops._declare import (
    Linear,
    Sample,
    Tangent,
    by_position,
    call,
    convert,
    declare,
    draw,
    filled,
    normalize_axes,
    size_flops,
)
from gradwire_core.ops.elementwise import equal, exp, where
from gradwire_core.ops.shaping import broadcast_to, concatenate, pad_with_zeros, reshape, slice_axes
from gradwire_core.ops.sorting import apart
from gradwire_core.program import Param, Primitive
from gradwire_core.types import Array, Dtype, TensorType

REAL = (Dtype.FLOAT64, Dtype.FLOAT32)


def _infer(x: TensorType, *, axis: int, where: str, dtypes: Sequence[Dtype] = (), **params: Param) -> tuple[TensorType, ...]:
    if not 0 <= axis < x.ndim:
        raise ShapeError(f"{where}: needed an axis of {x}, counted from 0, got {axis}; correct the axis", given=axis)
    if x.dtype is Dtype.BOOL or (dtypes and x.dtype not in dtypes):
        raise DtypeError(f"{where}: needed {' or '.join(map(str, dtypes)) or 'numbers'}, got {x}; convert it", given=x)
    return (x,)


def part(x: Any, axis: int, start: int, stop: int, step: int = 1) -> Any:
    """Return the elements of x from start to before stop along one axis."""
    starts, stops, steps = [0] * x.ndim, list(x.shape), [1] * x.ndim
    starts[axis], stops[axis], steps[axis] = start, stop, step
    return slice_axes(x, tuple(starts), tuple(stops), tuple(steps))


def _previous(x: Any, axis: int, *, reverse: bool = False) -> Any:
    """Return, at each element, the one before it along an axis (after it, in reverse), and 0 where there is none."""
    length = x.shape[axis]
    if length == 0:
        return x
    kept = part(x, axis, 1, length) if reverse else part(x, axis, 0, length - 1)
    ends = [0] * x.ndim
    ends[axis] = 1
    low, high, none = tuple(ends), tuple([0] * x.ndim), tuple([0] * x.ndim)
    return pad_with_zeros(kept, high, low, none) if reverse else pad_with_zeros(kept, low, high, none)


def _batch_one(primitive: Primitive, operands: Sequence[Any], params: Any) -> Any:
    return call(primitive, operands[0], **{**params, "axis": params["axis"] + 1})


# -- sum ---------------------------------------------------------------------------------------------------------------------


def _cumsum_kernel(x: Array, *, axis: int, reverse: bool) -> Array:
    if reverse:
        return np.flip(np.cumsum(np.flip(x, axis), axis, dtype=x.dtype), axis)
    return np.cumsum(x, axis, dtype=x.dtype)


_cumsum: Primitive = declare(
    Primitive(
        name="cumsum",
        kernel=_cumsum_kernel,
        infer=functools.partial(_infer, where="cumsum"),
        derivative=by_position(Linear(lambda ct, x, *, axis, reverse: call(_cumsum, ct, axis=axis, reverse=not reverse))),
        batch=lambda batched, operands, params: _batch_one(_cumsum, operands, params),
        arity=1,
        params=("axis", "reverse"),
        doc="Sum of the elements of x up to each along an axis, or from each to the end in reverse.",
        samples=lambda rng: [
            Sample((draw(rng, 4),), {"axis": 0, "reverse": False}),
            Sample((draw(rng, 2, 3),), {"axis": 1, "reverse": True}),
            Sample((draw(rng, 3, 2, dtype="float32"),), {"axis": 0, "reverse": False}),
            Sample((draw(rng, 2, 0),), {"axis": 1, "reverse": False}),
        ],
        flops=size_flops,
    )
)


def _line_up(where_: str, x: Any, axis: int | None, dtype: Any, out: Any) -> tuple[Any, int]:
    """Return an array and the axis to accumulate along, by NumPy's defaults: of x flattened; bool and int32 counted as int64."""
    if out is not None:
        raise ArgumentError(f"{where_}: needed no out, got one; use the result")
    if dtype is not None or x.dtype in (np.dtype(bool), np.dtype(np.int32)):
        x = convert(x, dtype or Dtype.INT64)
    if axis is None:
        return reshape(x, (x.size,)), 0
    (place,) = normalize_axes(where_, axis, x.ndim)
    return x, place


@implements(np.cumsum)
def cumsum(x: Any, axis: int | None = None, dtype: Any = None, out: Any = None, *, reverse: bool = False) -> Any:
    """Return the sum of the elements up to each along an axis, by default of x flattened; from each to the end in reverse."""
    lined, place = _line_up("cumsum", x, axis, dtype, out)
    return call(_cumsum, lined, axis=place, reverse=reverse)


# -- the recurrence ----------------------------------------------------------------------------------------------------------


def _linear_recurrence(a: Array, b: Array, *, axis: int, reverse: bool) -> Array:
    factors, terms = np.ascontiguousarray(np.moveaxis(a, axis, 0)), np.moveaxis(b, axis, 0)
    out = np.array(terms, order="C")
    if out.size == len(out) > 0 and out.dtype == np.float64:
        # One sequence is computed fastest by Python's own numbers, with the same bits.
        step = -1 if reverse else 1
        pairs = list(zip(factors.reshape(-1)[::step].tolist(), out.reshape(-1)[::step].tolist(), strict=True))
        states = itertools.accumulate(pairs[1:], lambda state, pair: pair[1] + pair[0] * state, initial=pairs[0][1])
        out.reshape(-1)[::step] = list(states)
        return np.moveaxis(out, 0, axis)
    places = list(range(len(out)))
    if reverse:
        places.reverse()
    for before, place in itertools.pairwise(places):
        out[place] += factors[place] * out[before]
    return np.moveaxis(out, 0, axis)


def _infer_recurrence(a: TensorType, b: TensorType, *, axis: int, reverse: bool) -> tuple[TensorType, ...]:
    if a != b:
        given = f"{a} and {b}"
        raise ShapeError(f"linear_recurrence: needed factors and terms of one type, got {given}; make them agree", given=given)
    return _infer(b, axis=axis, where="linear_recurrence")


def _recurrence_tangent(t: Any, y: Any, a: Any, b: Any, *, axis: int, reverse: bool) -> Any:
    return recur(a, t * _previous(y, axis, reverse=reverse), axis, reverse=reverse)


def _recurrence_transpose(ct: Any, a: Any, b: Any, *, axis: int, reverse: bool) -> Any:
    return recur(_previous(a, axis, reverse=not reverse), ct, axis, reverse=not reverse)


def _batch_recurrence(batched: Sequence[bool], operands: Sequence[Any], params: Any) -> Any:
    count = next(item.shape[0] for item, flag in zip(operands, batched, strict=True) if flag)
    full = [item if flag else broadcast_to(item, (count, *item.shape)) for item, flag in zip(operands, batched, strict=True)]
    return call(_recurrence, *full, **{**params, "axis": params["axis"] + 1})


_recurrence: Primitive = declare(
    Primitive(
        name="linear_recurrence",
        kernel=_linear_recurrence,
        infer=_infer_recurrence,
        derivative=by_position(Tangent(_recurrence_tangent), Linear(_recurrence_transpose)),
        batch=_batch_recurrence,
        arity=2,
        params=("axis", "reverse"),
        doc="The sequence h_i = a_i h_(i-1) + b_i along an axis, begun by h_0 = b_0 (a_0 is not used); from the end in reverse.",
        samples=lambda rng: [
            Sample((draw(rng, 4), draw(rng, 4)), {"axis": 0, "reverse": False}),
            Sample((draw(rng, 2, 3), draw(rng, 2, 3)), {"axis": 1, "reverse": True}),
            Sample((draw(rng, 3, 2, dtype="float32"), draw(rng, 3, 2, dtype="float32")), {"axis": 0, "reverse": False}),
            Sample((draw(rng, 0), draw(rng, 0)), {"axis": 0, "reverse": False}),
        ],
        flops=lambda a, b, **params: 2.0 * b.size,
    )
)


def recur(a: Any, b: Any, axis: int, *, reverse: bool = False) -> Any:
    """Return the sequence h_i = a_i h_(i-1) + b_i along an axis, begun by h_0 = b_0; from the end in reverse."""
    return call(_recurrence, a, b, axis=axis, reverse=reverse)


# -- product -----------------------------------------------------------------------------------------------------------------


def _cumprod_tangent(t: Any, y: Any, x: Any, *, axis: int) -> Any:
    length = x.shape[axis]
    if length == 0:
        return t
    ones = filled(1, x.type.with_shape(tuple(1 if place == axis else item for place, item in enumerate(x.shape))), x)
    before = concatenate([ones, part(y, axis, 0, length - 1)], axis)
    return recur(x, t * before, axis)


_cumprod: Primitive = declare(
    Primitive(
        name="cumprod",
        kernel=lambda x, *, axis: np.cumprod(x, axis, dtype=x.dtype),
        infer=functools.partial(_infer, where="cumprod"),
        derivative=by_position(Tangent(_cumprod_tangent)),
        batch=lambda batched, operands, params: _batch_one(_cumprod, operands, params),
        arity=1,
        params=("axis",),
        doc="Product of the elements of x up to each along an axis; the derivative is exact where some are 0.",
        samples=lambda rng: [
            Sample((draw(rng, 4),), {"axis": 0}),
            Sample((draw(rng, 2, 3) * [[1, 0, 1], [0, 1, 1]],), {"axis": 1}),
            Sample((draw(rng, 3, 2, dtype="float32"),), {"axis": 0}),
        ],
        flops=size_flops,
    )
)


@implements(np.cumprod)
def cumprod(x: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
    """Return the product of the elements up to each along an axis, by default of x flattened."""
    lined, place = _line_up("cumprod", x, axis, dtype, out)
    return call(_cumprod, lined, axis=place)


# -- maximum and minimum -----------------------------------------------------------------------------------------------------


def _extreme_tangent(t: Any, y: Any, x: Any, *, axis: int) -> Any:
    """Return the mean of the tangents of the elements that reach each extreme: equal extremes stand in one run."""
    stays = equal(_previous(y, axis), y).astype(x.dtype)
    reaches = equal(x, y)
    count = recur(stays, reaches.astype(x.dtype), axis)
    return recur(stays, where(reaches, t, 0.0), axis) / count


def _extreme(ufunc: np.ufunc, name: str, text: str) -> Primitive:
    primitive = declare(
        Primitive(
            name=name,
            kernel=lambda x, *, axis: ufunc.accumulate(x, axis),
            infer=lambda x, *, axis: _infer(x, axis=axis, where=name),
            derivative=by_position(Tangent(_extreme_tangent)),
            batch=lambda batched, operands, params: _batch_one(primitive, operands, params),
            arity=1,
            params=("axis",),
            doc=f"{text} of the elements up to each along an axis, NaN from a NaN on; those that reach it share the derivative.",
            samples=lambda rng: [
                Sample((apart(rng, 6),), {"axis": 0}),
                Sample((apart(rng, 2, 4),), {"axis": 1}),
                Sample((apart(rng, 3, 2, dtype="float32"),), {"axis": 0}),
            ],
            flops=size_flops,
        )
    )
    return primitive


_cummax = _extreme(np.maximum, "cummax", "Maximum")
_cummin = _extreme(np.minimum, "cummin", "Minimum")


# -- sum of exponentials -----------------------------------------------------------------------------------------------------


def _infer_logaddexp(x: TensorType, *, axis: int) -> tuple[TensorType, ...]:
    return _infer(x, axis=axis, where="cumlogsumexp", dtypes=REAL)


def _logsumexp_tangent(t: Any, y: Any, x: Any, *, axis: int) -> Any:
    """Return the tangent as a running weighted mean; the weights of the past and of the new element have sum 1."""
    length = x.shape[axis]
    if length == 0:
        return t
    top = where(equal(y, -np.inf), 0.0, y)
    before = concatenate([part(y, axis, 0, 1), part(y, axis, 0, length - 1)], axis)
    return recur(exp(before - top), t * exp(x - top), axis)


_cumlogsumexp: Primitive = declare(
    Primitive(
        name="cumlogsumexp",
        kernel=lambda x, *, axis: np.logaddexp.accumulate(x, axis),
        infer=_infer_logaddexp,
        derivative=by_position(Tangent(_logsumexp_tangent)),
        batch=lambda batched, operands, params: _batch_one(_cumlogsumexp, operands, params),
        arity=1,
        params=("axis",),
        doc="ln of the sum of e^x up to each element along an axis, without overflow; the derivative where all are -inf is 0.",
        samples=lambda rng: [
            Sample((draw(rng, 5),), {"axis": 0}),
            Sample((draw(rng, 2, 3),), {"axis": 1}),
            Sample((draw(rng, 3, 2, dtype="float32"),), {"axis": 0}),
        ],
        flops=lambda x, *, axis: 20.0 * x.size,
    )
)


# -- ufunc.accumulate --------------------------------------------------------------------------------------------------------


def _accumulation(primitive: Primitive, name: str) -> Callable[..., Any]:
    def accumulate(x: Any, axis: int | None = 0, dtype: Any = None, out: Any = None) -> Any:
        if axis is None and x.ndim != 1:
            raise ShapeError(f"{name}: needed an axis, got None for shape {list(x.shape)}; name one", given=axis)
        if out is not None:
            raise ArgumentError(f"{name}: needed no out, got one; use the result")
        (place,) = normalize_axes(name, axis or 0, x.ndim)
        return call(primitive, x if dtype is None else convert(x, dtype), axis=place)

    accumulate.__name__ = name
    accumulate.__doc__ = primitive.doc
    return accumulate


cummax = implements(np.maximum.accumulate)(_accumulation(_cummax, "maximum.accumulate"))
cummin = implements(np.minimum.accumulate)(_accumulation(_cummin, "minimum.accumulate"))
cumlogsumexp = implements(np.logaddexp.accumulate)(_accumulation(_cumlogsumexp, "logaddexp.accumulate"))


@implements(np.add.accumulate)
def accumulate_sum(x: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
    """Return the sum of the elements up to each along an axis, by default the first."""
    return cumsum(x, axis, dtype, out)


@implements(np.multiply.accumulate)
def accumulate_product(x: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
    """Return the product of the elements up to each along an axis, by default the first."""
    return cumprod(x, axis, dtype, out)


def _line_up_one(name: str, x: Any, axis: int | None) -> int:
    if axis is None and x.ndim != 1:
        raise ShapeError(f"{name}: needed an axis for shape {list(x.shape)}, got None; name one", given=axis)
    return axis or 0


def _include(function: Callable[..., Any], start: float, name: str) -> Callable[..., Any]:
    def cumulative(x: Any, /, *, axis: int | None = None, dtype: Any = None, out: Any = None, include_initial: bool = False) -> Any:
        result = function(x, _line_up_one(name, x, axis), dtype, out)
        if not include_initial:
            return result
        (place,) = normalize_axes(name, axis or 0, x.ndim)
        shape = tuple(1 if item == place else length for item, length in enumerate(result.shape))
        initial = filled(start, TensorType(Dtype.of(result.dtype), shape), result)
        return concatenate([initial, result], place)

    cumulative.__name__ = name
    cumulative.__doc__ = f"Call `{function.__name__}` along an axis, with the initial {start} before it if wanted."
    return cumulative


# NumPy has these two from 2.1 on.
cumulative_sum = _include(cumsum, 0, "cumulative_sum")
cumulative_prod = _include(cumprod, 1, "cumulative_prod")
for _name, _function in (("cumulative_sum", cumulative_sum), ("cumulative_prod", cumulative_prod)):
    if hasattr(np, _name):
        implements(getattr(np, _name))(_function)
