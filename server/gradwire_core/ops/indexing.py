"""Gathering: `take` reads elements by an array of indices, `scatter_add` is its transpose; NumPy's indexing is written over both.

Indices may be negative, counted from the end. An index out of range is an error of the call, as in NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import Value, implements
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.ops._declare import (
    Constant,
    Linear,
    Sample,
    by_position,
    call,
    constant,
    declare,
    draw,
    no_flops,
    normalize_axes,
)
from gradwire_core.ops.shaping import broadcast_to, reshape, transpose
from gradwire_core.program import Primitive
from gradwire_core.types import Array, Dtype, Shape, TensorType

Integers = tuple[int, ...]
INTEGERS = (Dtype.INT64, Dtype.INT32)

# -- take and scatter_add ----------------------------------------------------------------------------------------------------
# The first `batch` axes of both operands go together; `axis` counts from the start and is not among them.


def _take(x: Array, indices: Array, *, axis: int, batch: int) -> Array:
    if batch == 0:
        return np.take(x, indices, axis)
    moved = np.moveaxis(x, axis, batch)
    grids = np.ix_(*[np.arange(length) for length in x.shape[:batch]])
    count = indices.ndim - batch
    picked = moved[(*[grid.reshape(grid.shape + (1,) * count) for grid in grids], indices)]
    return np.moveaxis(picked, range(batch, batch + count), range(axis, axis + count))


def _scatter_add(x: Array, indices: Array, *, axis: int, batch: int, size: int) -> Array:
    if indices.size and not (-size <= indices.min() and indices.max() < size):
        raise IndexError(f"needed indices from {-size} to {size - 1}, got them from {indices.min()} to {indices.max()}")
    count = indices.ndim - batch
    moved = np.moveaxis(x, range(axis, axis + count), range(batch, batch + count))
    lead, rest = x.shape[:batch], moved.shape[batch + count :]
    # Along one axis NumPy adds several times faster than along one of many, with the same bits.
    rows = indices.astype(np.int64).reshape((math.prod(lead), math.prod(indices.shape[batch:])))
    rows += size * (rows < 0) + size * np.arange(len(rows))[:, None]
    length = math.prod(rest)
    out = np.zeros(math.prod(lead) * size * length, x.dtype)
    np.add.at(out, (rows[..., None] * length + np.arange(length)).reshape(-1), moved.reshape(-1))
    return np.moveaxis(out.reshape((*lead, size, *rest)), batch, axis)


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
        raise ShapeError(
            f"scatter_add: needed updates with the axes of the indices at {axis}, got {x} and {indices}", given=f"{x}, {indices}"
        )
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


_take_primitive: Primitive = declare(
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
_scatter_primitive: Primitive = declare(
    Primitive(
        name="scatter_add",
        kernel=_scatter_add,
        infer=_infer_scatter,
        derivative=by_position(
            Linear(lambda ct, x, indices, *, axis, batch, size: call(_take_primitive, ct, indices, axis=axis, batch=batch)),
            Constant(),
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
    """Return the elements of x at indices along an axis; with None, of x flattened.

    Indices out of range are an error with mode "raise", and else wrapped around or clipped to the ends.
    """
    if mode not in ("raise", "wrap", "clip") or out is not None:
        given = "out" if out is not None else repr(mode)
        raise ArgumentError(f"take: needed mode 'raise', 'wrap' or 'clip' and no out, got {given}; correct the call", given=given)
    if not isinstance(x, Value):
        x = np.asarray(x)
    if axis is None:
        return take(reshape(x, (x.size,)), indices, 0, mode=mode)
    (place,) = normalize_axes("take", axis, x.ndim)
    numbers = indices if isinstance(indices, Value) else np.asarray(indices)
    if numbers.dtype.kind not in "iub":
        raise DtypeError(f"take: needed integer indices, got {numbers.dtype}; convert them", given=numbers.dtype)
    if mode == "wrap":
        numbers = np.remainder(numbers, x.shape[place])
    elif mode == "clip":
        numbers = np.minimum(np.maximum(numbers, 0), x.shape[place] - 1)
    check_static("take", numbers, x.shape[place])
    return call(_take_primitive, x, _static(x, numbers), axis=place, batch=0)


def _static(x: Any, indices: Any) -> Any:
    """Return indices known while tracing as a constant: they are part of the structure, not of the data."""
    return constant(x, indices.astype(np.int64, copy=False)) if isinstance(indices, np.ndarray) else indices


def check_static(where_: str, indices: Any, length: int) -> None:
    """Check that indices, if they are known while tracing, lie within an axis.

    Raises:
        ArgumentError: one does not.
    """
    if isinstance(indices, np.ndarray) and indices.size and not (-length <= indices.min() and indices.max() < length):
        bad = int(indices.max()) if indices.max() >= length else int(indices.min())
        raise ArgumentError(
            f"{where_}: needed indices from {-length} to {length - 1}, got {bad}; correct the index", given=bad, length=length
        )


def take_flat(x: Any, indices: Any, axis: int) -> Any:
    """Return the elements of x at indices along an axis, those known while tracing as a constant: they are structure, not data."""
    return call(_take_primitive, x, _static(x, indices), axis=axis, batch=0)


@implements(np.take_along_axis)
def take_along_axis(x: Any, indices: Any, axis: int | None = -1) -> Any:
    """Return the elements of x at indices that go along one axis, and with x along the others; with None, of x flattened."""
    numbers = indices if isinstance(indices, Value) else np.asarray(indices)
    if axis is None:
        x, axis = reshape(x, (math.prod(x.shape),)), 0
    if numbers.ndim != x.ndim:
        text = f"take_along_axis: needed indices of {x.ndim} axes, got shape {list(numbers.shape)}; reshape them"
        raise ShapeError(text, given=numbers.shape, ndim=x.ndim)
    if numbers.dtype.kind not in "iu":
        raise DtypeError(f"take_along_axis: needed integer indices, got {numbers.dtype}; convert them", given=numbers.dtype)
    (place,) = normalize_axes("take_along_axis", axis, x.ndim)
    check_static("take_along_axis", numbers, x.shape[place])
    lead, order, back = along_last(place, x, numbers)
    taken = call(
        _take_primitive,
        broadcast_to(transpose(x, order), (*lead, x.shape[place])),
        broadcast_to(transpose(_static(x, numbers), order), (*lead, numbers.shape[place])),
        axis=x.ndim - 1,
        batch=x.ndim - 1,
    )
    return transpose(taken, back)


def along_last(place: int, *arrays: Any) -> tuple[Shape, Integers, Integers]:
    """Return the shape arrays broadcast to but for one axis, the order of axes that puts it last, and the order back."""
    rank = arrays[0].ndim
    rest = tuple(axis for axis in range(rank) if axis != place)
    try:
        lead = np.broadcast_shapes(*[tuple(item.shape[axis] for axis in rest) for item in arrays])
    except ValueError:
        given = " and ".join(str(list(item.shape)) for item in arrays)
        raise ShapeError(
            f"take_along_axis: shapes must broadcast but for axis {place}, got {given}; make them agree", given=given
        ) from None
    order = (*rest, place)
    return tuple(map(int, lead)), order, tuple(int(axis) for axis in np.argsort(order))
