"""Order: sorting, extreme places, search. All but `sort` are integers, constant by parts.

Sorting is stable, and NaN is the largest; what NumPy leaves open (the order inside a partition) is sorted here, so that answers do
not depend on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import Value, implements
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.ops._declare import (
    Constant,
    Sample,
    Tangent,
    by_position,
    call,
    convert,
    declare,
    draw,
    normalize_axes,
    size_flops,
)
from gradwire_core.ops.indexing import take, take_along_axis
from gradwire_core.ops.reduction import kept_shape
from gradwire_core.ops.shaping import broadcast_to, promote, reshape
from gradwire_core.program import Primitive
from gradwire_core.types import Array, Dtype, TensorType


def apart(rng: np.random.Generator, *shape: int, dtype: str = "float64") -> Array:
    """Draw numbers that differ by 0.05 at least."""
    count = math.prod(shape)
    numbers = rng.permutation(count) - count / 2 + rng.uniform(-0.3, 0.3, count)
    return np.asarray(np.reshape(numbers * 0.125, shape), dtype)


def _check_axis(where: str, x: TensorType, axis: int) -> None:
    if not 0 <= axis < x.ndim:
        raise ShapeError(f"{where}: needed an axis of {x}, counted from 0, got {axis}; correct the axis", given=axis)


def _batch_one(primitive: Primitive, operands: Sequence[Any], params: Any) -> Any:
    return call(primitive, operands[0], **{**params, "axis": params["axis"] + 1})


def _sort_flops(x: TensorType, *, axis: int) -> float:
    return float(x.size * max(1, x.shape[axis]).bit_length())


def _samples(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((apart(rng, 5),), {"axis": 0}),
        Sample((apart(rng, 2, 3),), {"axis": 1}),
        Sample((apart(rng, 4, 2, dtype="float32"),), {"axis": 0}),
    ]


# -- sort and argsort --------------------------------------------------------------------------------------------------------


def _infer_argsort(x: TensorType, *, axis: int) -> tuple[TensorType, ...]:
    _check_axis("argsort", x, axis)
    return (x.with_dtype(Dtype.INT64),)


def _infer_sort(x: TensorType, *, axis: int) -> tuple[TensorType, ...]:
    _check_axis("sort", x, axis)
    return (x,)


_argsort: Primitive = declare(
    Primitive(
        name="argsort",
        kernel=lambda x, *, axis: np.argsort(x, axis, kind="stable"),
        infer=_infer_argsort,
        derivative=by_position(Constant()),
        batch=lambda batched, operands, params: _batch_one(_argsort, operands, params),
        arity=1,
        params=("axis",),
        doc="The indices that sort x along an axis; equal elements keep their order, NaN is last.",
        samples=_samples,
        flops=_sort_flops,
    )
)
_sort: Primitive = declare(
    Primitive(
        name="sort",
        kernel=lambda x, *, axis: np.sort(x, axis, kind="stable"),
        infer=_infer_sort,
        derivative=by_position(Tangent(lambda t, y, x, *, axis: take_along_axis(t, call(_argsort, x, axis=axis), axis))),
        batch=lambda batched, operands, params: _batch_one(_sort, operands, params),
        arity=1,
        params=("axis",),
        doc="The elements of x in ascending order along an axis, NaN last; of equal elements the first has the first's derivative.",
        samples=_samples,
        flops=_sort_flops,
    )
)


def _line(where: str, x: Any, axis: int | None) -> tuple[Any, int]:
    """Return an array and the axis to order along; with None, of x flattened."""
    if axis is None:
        return reshape(x, (x.size,)), 0
    (place,) = normalize_axes(where, axis, x.ndim)
    return x, place


def _check_order(where: str, order: Any) -> None:
    if order is not None:
        raise ArgumentError(f"{where}: needed no order, got {order!r}; arrays here have no fields", given=order)


@implements(np.sort)
def sort(x: Any, axis: int | None = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Any:
    """Return the elements in ascending order along an axis, NaN last; whatever the kind, the sort is stable."""
    _check_order("sort", order)
    lined, place = _line("sort", x, axis)
    return call(_sort, lined, axis=place)


@implements(np.argsort)
def argsort(x: Any, axis: int | None = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Any:
    """Return the indices that sort an array along an axis; whatever the kind, equal elements keep their order."""
    _check_order("argsort", order)
    lined, place = _line("argsort", x, axis)
    return call(_argsort, lined, axis=place)


def _check_kth(where: str, x: Any, place: int, kth: Any) -> None:
    numbers = np.atleast_1d(kth)
    length = x.shape[place]
    if numbers.dtype.kind not in "iu" or (numbers.size and not (-length <= numbers.min() and numbers.max() < length)):
        raise ArgumentError(f"{where}: needed kth from {-length} to {length - 1}, got {kth}; correct it", given=kth, length=length)


@implements(np.partition)
def partition(x: Any, kth: Any, axis: int | None = -1, kind: Any = None, order: Any = None) -> Any:
    """Return an array parted at its kth element in order, along an axis: sorted, which is one of the partitions NumPy allows."""
    _check_order("partition", order)
    lined, place = _line("partition", x, axis)
    _check_kth("partition", lined, place, kth)
    return call(_sort, lined, axis=place)


@implements(np.argpartition)
def argpartition(x: Any, kth: Any, axis: int | None = -1, kind: Any = None, order: Any = None) -> Any:
    """Return the indices that part an array at its kth element in order, along an axis: those that sort it."""
    _check_order("argpartition", order)
    lined, place = _line("argpartition", x, axis)
    _check_kth("argpartition", lined, place, kth)
    return call(_argsort, lined, axis=place)


# -- argmax and argmin -------------------------------------------------------------------------------------------------------


def _infer_extreme(x: TensorType, *, axis: int, where: str) -> tuple[TensorType, ...]:
    _check_axis(where, x, axis)
    if x.shape[axis] == 0:
        raise ShapeError(f"{where}: needed at least one element along axis {axis}, got {x}; it has no value on nothing", given=x)
    return (TensorType(Dtype.INT64, (*x.shape[:axis], *x.shape[axis + 1 :])),)


def _extreme(function: Callable[..., Any], name: str, text: str) -> Primitive:
    primitive: Primitive = declare(
        Primitive(
            name=name,
            kernel=lambda x, *, axis: function(x, axis),
            infer=lambda x, *, axis: _infer_extreme(x, axis=axis, where=name),
            derivative=by_position(Constant()),
            batch=lambda batched, operands, params: _batch_one(primitive, operands, params),
            arity=1,
            params=("axis",),
            doc=f"The index of the first {text} of x along an axis; NaN counts as one.",
            samples=_samples,
            flops=size_flops,
        )
    )
    return primitive


_argmax = _extreme(np.argmax, "argmax", "maximum")
_argmin = _extreme(np.argmin, "argmin", "minimum")


def _find_extreme(primitive: Primitive, x: Any, axis: int | None, out: Any, keepdims: Any) -> Any:
    if out is not None:
        raise ArgumentError(f"{primitive.name}: needed no out, got one; use the result")
    lined, place = _line(primitive.name, x, axis)
    found = call(primitive, lined, axis=place)
    return reshape(found, kept_shape(x.shape, normalize_axes(primitive.name, axis, x.ndim))) if keepdims is True else found


@implements(np.argmax)
def argmax(x: Any, axis: int | None = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """Return the index of the first maximum along an axis, by default of x flattened."""
    return _find_extreme(_argmax, x, axis, out, keepdims)


@implements(np.argmin)
def argmin(x: Any, axis: int | None = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """Return the index of the first minimum along an axis, by default of x flattened."""
    return _find_extreme(_argmin, x, axis, out, keepdims)


# -- search ------------------------------------------------------------------------------------------------------------------


def _search(x: Array, values: Array, *, side: Any, batch: int) -> Array:
    if batch == 0:
        return np.asarray(np.searchsorted(x, values, side))
    out = np.empty(values.shape, np.int64)
    for place in np.ndindex(*x.shape[:-1]):
        out[place] = np.searchsorted(x[place], values[place], side)
    return out


def _infer_search(x: TensorType, values: TensorType, *, side: str, batch: int) -> tuple[TensorType, ...]:
    if side not in ("left", "right"):
        raise ArgumentError(f"searchsorted: needed side 'left' or 'right', got {side!r}; choose one", given=side)
    if x.ndim != batch + 1 or values.shape[:batch] != x.shape[:-1]:
        given = f"{x} and {values}"
        raise ShapeError(f"searchsorted: needed a sorted vector, and values behind {batch} common axes, got {given}", given=given)
    if x.dtype is not values.dtype:
        given = f"{x} and {values}"
        raise DtypeError(f"searchsorted: needed operands of one dtype, got {given}; convert them", given=given)
    return (values.with_dtype(Dtype.INT64),)


def _batch_search(batched: Sequence[bool], operands: Sequence[Any], params: Any) -> Any:
    x, values = operands
    if not batched[0] and params["batch"] == 0:
        return call(_searchsorted, x, values, **params)
    count = (x if batched[0] else values).shape[0]
    x, values = [item if flag else broadcast_to(item, (count, *item.shape)) for item, flag in zip(operands, batched, strict=True)]
    return call(_searchsorted, x, values, side=params["side"], batch=params["batch"] + 1)


_searchsorted: Primitive = declare(
    Primitive(
        name="searchsorted",
        kernel=_search,
        infer=_infer_search,
        derivative=by_position(Constant(), Constant()),
        batch=_batch_search,
        arity=2,
        params=("side", "batch"),
        doc="How many elements of the sorted vector x are less than each value, or not greater with side 'right'.",
        samples=lambda rng: [
            Sample((np.sort(draw(rng, 5)), draw(rng, 2, 3)), {"side": "left", "batch": 0}),
            Sample((np.sort(draw(rng, 2, 4)), draw(rng, 2, 3)), {"side": "right", "batch": 1}),
            Sample((np.array([1, 2, 2, 3]), np.array(2)), {"side": "right", "batch": 0}),
        ],
        flops=lambda x, values, *, side, batch: float(values.size * max(1, x.shape[-1]).bit_length()),
    )
)


@implements(np.searchsorted)
def searchsorted(x: Any, values: Any, side: str = "left", sorter: Any = None) -> Any:
    """Return where values would stand in a sorted vector, before equal elements or, with side 'right', behind them."""
    ordered, sought = promote("searchsorted", [x if sorter is None else take(x, sorter), values])
    if ordered.dtype == np.bool_:
        ordered, sought = convert(ordered, Dtype.INT64), convert(sought, Dtype.INT64)
    return call(_searchsorted, ordered, sought, side=side, batch=0)


@implements(np.digitize)
def digitize(x: Any, bins: Any, right: bool = False) -> Any:
    """Return the number of the bin of each element; traced bins must ascend, others may descend too."""
    if bins.ndim != 1 if isinstance(bins, Value) else np.ndim(bins) != 1:
        raise ShapeError(
            f"digitize: needed bins along one axis, got shape {list(np.shape(bins))}; reshape them", given=np.shape(bins)
        )
    side = "left" if right else "right"
    if not isinstance(bins, Value):
        edges = np.asarray(bins)
        rises, falls = bool(np.all(edges[1:] >= edges[:-1])), bool(np.all(edges[1:] <= edges[:-1]))
        if not rises and not falls:
            raise ArgumentError("digitize: needed bins that ascend or descend, got others; sort them")
        if not rises:
            return edges.size - searchsorted(edges[::-1], x, side)
    return searchsorted(bins, x, side)
