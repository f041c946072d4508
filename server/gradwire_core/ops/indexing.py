"""Indexing: `take` reads elements by an array of indices, `scatter_add` is its transpose; NumPy's indexing is written over both.

Indices may be negative, counted from the end. An index out of range is an error of the call, as in NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import Value, implements
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError, TracingError
from gradwire_core.ops._declare import Constant, Linear, Sample, by_position, call, constant, declare, draw, no_flops, normalize_axes
from gradwire_core.ops.elementwise import add, less, multiply, where
from gradwire_core.ops.shaping import broadcast_to, flip, reshape, slice_axes, transpose
from gradwire_core.program import Primitive
from gradwire_core.types import Array, Dtype, TensorType

INTEGERS = (Dtype.INT64, Dtype.INT32)

# -- take and scatter_add ----------------------------------------------------------------------------------------------------
# The first `batch` axes of both operands go together; `axis` counts from the start and is not among them.


def _take(x: Array, indices: Array, *, axis: int, batch: int) -> Array:
    if batch == 0:
        return np.take(x, indices, axis)
    moved = np.moveaxis(x, axis, batch)
    grids = np.ix_(*[np.arange(length) for length in x.shape[:batch]])
    spare = (1,) * (indices.ndim - batch)
    picked = moved[tuple([*[grid.reshape(grid.shape + spare) for grid in grids], indices])]
    count = indices.ndim - batch
    return np.moveaxis(picked, range(batch, batch + count), range(axis, axis + count))


def _scatter_add(x: Array, indices: Array, *, axis: int, batch: int, size: int) -> Array:
    count = indices.ndim - batch
    moved = np.moveaxis(x, range(axis, axis + count), range(batch, batch + count))
    out = np.zeros((*x.shape[:batch], size, *moved.shape[batch + count :]), x.dtype)
    grids = np.ix_(*[np.arange(length) for length in x.shape[:batch]])
    np.add.at(out, tuple([*[grid.reshape(grid.shape + (1,) * count) for grid in grids], indices]), moved)
    return np.moveaxis(out, batch, axis)


def _check_indices(where: str, x: TensorType, indices: TensorType, axis: int, batch: int) -> None:
    if indices.dtype not in INTEGERS:
        raise DtypeError(f"{where}: needed int64 or int32 indices, got {indices}; convert them", given=indices)
    if not (0 <= batch <= axis < x.ndim and batch <= indices.ndim and x.shape[:batch] == indices.shape[:batch]):
        given = f"axis {axis}, batch {batch}, {x}, {indices}"
        raise ShapeError(f"{where}: needed an axis behind the batch axes that operand and indices share, got {given}", given=given)


def _infer_take(x: TensorType, indices: TensorType, *, axis: int, batch: int) -> tuple[TensorType, ...]:
    _check_indices("take", x, indices, axis, batch)
    return (x.with_shape((*x.shape[:axis], *indices.shape[batch:], *x.shape[axis + 1 :])),)


def _infer_scatter(x: TensorType, indices: TensorType, *, axis: int, batch: int, size: int) -> tuple[TensorType, ...]:
    count = indices.ndim - batch
    if count < 0 or x.shape[axis : axis + count] != indices.shape[batch:] or size < 0:
        raise ShapeError(f"scatter_add: needed updates with the axes of the indices at {axis}, got {x} and {indices}", given=f"{x}, {indices}")
    result = x.with_shape((*x.shape[:axis], size, *x.shape[axis + count :]))
    _check_indices("scatter_add", result, indices, axis, batch)
    return (result,)


def _batch_indexed(primitive: Primitive, batched: Sequence[bool], operands: Sequence[Any], params: Any) -> Any:
    x, indices = operands
    changed = {**params, "axis": params["axis"] + 1}
    if not batched[1] and params["batch"] == 0:
        return call(primitive, x, indices, **changed)
    count = (x if batched[0] else indices).shape[0]
    x, indices = [item if flag else broadcast_to(item, (count, *item.shape)) for item, flag in zip(operands, batched, strict=True)]
    return call(primitive, x, indices, **{**changed, "batch": params["batch"] + 1})


_take_primitive = declare(
    Primitive(
        name="take",
        kernel=_take,
        infer=_infer_take,
        derivative=by_position(
            Linear(
                lambda ct, x, indices, *, axis, batch: call(
                    _scatter_primitive, ct, indices, axis=axis, batch=batch, size=x.shape[axis]
                )
            ),
            Constant(),
        ),
        batch=lambda batched, operands, params: _batch_indexed(_take_primitive, batched, operands, params),
        arity=2,
        params=("axis", "batch"),
        doc="The elements of x at integer indices along an axis.",
        samples=lambda rng: [
            Sample((draw(rng, 4, 3), np.array([[0, 2], [3, -1]])), {"axis": 0, "batch": 0}),
            Sample((draw(rng, 2, 3, 4), np.array([[1, 0, 1], [3, 3, 2]])), {"axis": 2, "batch": 1}),
        ],
        flops=no_flops,
    )
)
_scatter_primitive = declare(
    Primitive(
        name="scatter_add",
        kernel=_scatter_add,
        infer=_infer_scatter,
        derivative=by_position(
            Linear(lambda ct, x, indices, *, axis, batch, size: call(_take_primitive, ct, indices, axis=axis, batch=batch)), Constant()
        ),
        batch=lambda batched, operands, params: _batch_indexed(_scatter_primitive, batched, operands, params),
        arity=2,
        params=("axis", "batch", "size"),
        doc="Zeros of a given length along an axis, to which the elements of x are added at integer indices.",
        samples=lambda rng: [
            Sample((draw(rng, 2, 2, 3), np.array([[0, 2], [3, 0]])), {"axis": 0, "batch": 0, "size": 4}),
            Sample((draw(rng, 2, 3, 3), np.array([[1, 0, 1], [3, 3, 2]])), {"axis": 2, "batch": 1, "size": 4}),
        ],
        flops=lambda x, indices, *, axis, batch, size: float(x.size),
    )
)


@implements(np.take)
def take(x: Any, indices: Any, axis: int | None = None, out: Any = None, mode: str = "raise") -> Any:
    """Return the elements of x at indices along an axis; with None, of x flattened."""
    if mode != "raise" or out is not None:
        raise ArgumentError(f"take: needed mode 'raise' and no out, got mode {mode!r}; wrap or clip the indices first", given=mode)
    if axis is None:
        return take(reshape(x, (x.size,)), indices, 0)
    (place,) = normalize_axes("take", axis, x.ndim)
    numbers = indices if isinstance(indices, Value) else np.asarray(indices)
    _check_static("take", numbers, x.shape[place])
    return call(_take_primitive, x, _static(x, numbers), axis=place, batch=0)


def _static(x: Any, indices: Any) -> Any:
    """Return indices known while tracing as a constant: they are part of the structure, not of the data."""
    return constant(x, indices) if isinstance(indices, np.ndarray) else indices


def _check_static(where_: str, indices: Any, length: int) -> None:
    if isinstance(indices, np.ndarray) and indices.size and not (-length <= indices.min() and indices.max() < length):
        bad = int(indices.max()) if indices.max() >= length else int(indices.min())
        raise ArgumentError(f"{where_}: needed indices from {-length} to {length - 1}, got {bad}; correct the index", given=bad, length=length)


# -- NumPy's indexing --------------------------------------------------------------------------------------------------------


@implements(Value.__getitem__)
def getitem(x: Any, index: Any) -> Any:
    """Return x[index] by NumPy's rules, for integers, slices, None, ellipses, integer arrays and static masks."""
    items = _expand(index if isinstance(index, tuple) else (index,), x)
    arrays = [item for item in items if _is_array(item)]
    basic = [slice(None) if _is_array(item) else item for item in items]
    advanced_at = [place for place, item in enumerate(items) if _is_array(item)]
    # An integer beside an index array takes part in its broadcasting, as in NumPy.
    if arrays:
        for place, item in enumerate(items):
            if isinstance(item, int):
                basic[place], items[place] = slice(None), np.asarray(item)
        advanced_at = [place for place, item in enumerate(items) if _is_array(item)]
    sliced, axes = _basic(x, basic)
    if not arrays:
        return sliced
    return _advanced(sliced, [items[place] for place in advanced_at], [axes[place] for place in advanced_at])


def _is_array(item: Any) -> bool:
    return isinstance(item, (np.ndarray, Value))


def _expand(index: tuple[Any, ...], x: Any) -> list[Any]:
    """Return one entry for each axis of x and one for each None: int, slice, None or an integer array."""
    items: list[Any] = []
    for item in index:
        if isinstance(item, (bool, np.bool_)) or (_is_array(item) and item.dtype == np.bool_) or isinstance(item, list):
            items.extend(_static_index(item))
        elif isinstance(item, (int, np.integer)):
            items.append(int(item))
        else:
            items.append(item)
    used = sum(item is not None and item is not Ellipsis for item in items)
    if used > x.ndim or sum(item is Ellipsis for item in items) > 1:
        raise ShapeError(f"index: needed at most {x.ndim} indices and one ellipsis, got {used}; drop some", given=used, ndim=x.ndim)
    fill = [slice(None)] * (x.ndim - used)
    place = next((place for place, item in enumerate(items) if item is Ellipsis), None)
    return [*items, *fill] if place is None else [*items[:place], *fill, *items[place + 1 :]]


def _static_index(item: Any) -> list[Any]:
    if isinstance(item, Value):
        raise TracingError("index: needed a mask known while tracing, got a traced one; its count has no static shape: use np.where")
    array = np.asarray(item)
    if array.dtype == np.bool_:
        return list(np.nonzero(array))
    return [array.astype(np.int64) if array.size == 0 else array]


def _basic(x: Any, items: list[Any]) -> tuple[Any, list[int]]:
    """Apply integers, slices and None; also return, for each item, the axis of the result it became."""
    starts, stops, steps, flips = [], [], [], []
    shape: list[int] = []
    axes: list[int] = []
    axis = 0
    for item in items:
        axes.append(len(shape))
        if item is None:
            shape.append(1)
            continue
        length = x.shape[axis]
        if isinstance(item, slice):
            start, stop, step, is_reversed = _normal_slice(item, length)
            if is_reversed:
                flips.append(axis)
            shape.append(len(range(start, stop, step)))
        elif isinstance(item, int):
            _check_static("index", np.asarray(item), length)
            start, stop, step = item % length, item % length + 1, 1
        else:
            raise TracingError(f"index: needed an integer, a slice, None, an ellipsis or an array, got {type(item).__name__}; convert it")
        starts.append(start)
        stops.append(stop)
        steps.append(step)
        axis += 1
    part = slice_axes(x, tuple(starts), tuple(stops), tuple(steps))
    if flips:
        part = flip(part, tuple(flips))
    return reshape(part, tuple(shape)), axes


def _normal_slice(item: slice, length: int) -> tuple[int, int, int, bool]:
    """Return a slice of positive step, and whether what it takes is then reversed."""
    start, stop, step = item.indices(length)
    places = range(start, stop, step)
    if not places:
        return 0, 0, 1, False
    if step > 0:
        return start, stop, step, False
    return places[-1], places[0] + 1, -step, True


def _advanced(x: Any, indices: list[Any], axes: list[int]) -> Any:
    """Take elements by integer arrays that broadcast together, over several axes at once."""
    if len(indices) == 1:
        _check_static("index", indices[0], x.shape[axes[0]])
        return call(_take_primitive, x, _static(x, indices[0]), axis=axes[0], batch=0)
    lengths = [x.shape[axis] for axis in axes]
    flat: Any = np.asarray(0)
    for number, length in zip(indices, lengths, strict=True):
        _check_static("index", number, length)
        positive = where(less(number, 0), add(number, length), number)
        flat = add(multiply(flat, length), positive)
    together = axes == list(range(axes[0], axes[0] + len(axes)))
    rest = [axis for axis in range(x.ndim) if axis not in axes]
    place = axes[0] if together else 0
    order = (*rest[:place], *axes, *rest[place:])
    moved = transpose(x, order)
    merged = reshape(moved, (*moved.shape[:place], math.prod(lengths), *moved.shape[place + len(axes) :]))
    return call(_take_primitive, merged, _static(x, flat), axis=place, batch=0)

