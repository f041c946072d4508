"""Updates of some elements of an array: `x.at[index].set(value)` and its relatives give a new array, and leave x as it is.

Where an index names an element several times: `set` takes the last value, `add`, `multiply`, `min` and `max` take all of them,
`divide` divides by their product, `power` raises to it, and `apply` applies once. An element that is overwritten has derivative 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import Value, implements
from gradwire_core.errors import DtypeError, ShapeError
from gradwire_core.ops._declare import (
    Constant,
    Linear,
    Sample,
    Tangent,
    by_position,
    call,
    constant,
    convert,
    declare,
    draw,
    filled,
    is_scalar,
    zeros_of,
)
from gradwire_core.ops.cumulative import part as cut
from gradwire_core.ops.cumulative import recur
from gradwire_core.ops.elementwise import add, equal, less, maximum, minimum, where
from gradwire_core.ops.indexing import INTEGERS, take_flat
from gradwire_core.ops.selection import Selection, getitem, select
from gradwire_core.ops.shaping import broadcast_to, concatenate, reshape
from gradwire_core.ops.sorting import apart, argsort
from gradwire_core.program import Literal, Primitive
from gradwire_core.types import Array, Dtype, Shape, TensorType

# -- scatter, scatter_max and scatter_min ------------------------------------------------------------------------------------
# Operands are x, indices and updates; as for `take`, the first `batch` axes of all go together, and `axis` is behind them.


def _places(indices: Array, x: Array, axis: int, batch: int, updates: Array) -> tuple[Array, tuple[Array, ...], Array]:
    """Return a copy of x with the indexed axis behind the batch axes, the index of the updates in it, and the updates to match."""
    lead, counts = x.shape[:batch], indices.shape[batch:]
    out = np.array(np.moveaxis(x, axis, batch), order="C")
    moved = np.moveaxis(updates, range(axis, axis + len(counts)), range(batch, batch + len(counts)))
    moved = moved.reshape((*lead, math.prod(counts), *out.shape[batch + 1 :]))
    flat = np.ascontiguousarray(indices).reshape((*lead, math.prod(counts)))
    grids = np.ix_(*[np.arange(length) for length in lead])
    return out, (*[grid[..., None] for grid in grids], flat), moved


def _scatter_kernel(x: Array, indices: Array, updates: Array, *, axis: int, batch: int) -> Array:
    out, places, values = _places(indices, x, axis, batch, updates)
    out[places] = values
    return np.moveaxis(out, batch, axis)


def _infer(
    x: TensorType, indices: TensorType, updates: TensorType, *, axis: int, batch: int, where_: str
) -> tuple[TensorType, ...]:
    if indices.dtype not in INTEGERS or x.dtype is not updates.dtype:
        given = f"{x}, {indices} and {updates}"
        raise DtypeError(
            f"{where_}: needed integer indices, and updates of the dtype of the array, got {given}; convert them", given=given
        )
    is_placed = 0 <= batch <= axis < x.ndim and batch <= indices.ndim and x.shape[:batch] == indices.shape[:batch]
    if not is_placed or updates.shape != (*x.shape[:axis], *indices.shape[batch:], *x.shape[axis + 1 :]):
        given = f"axis {axis}, batch {batch}, {x}, {indices} and {updates}"
        raise ShapeError(
            f"{where_}: needed updates with the axes of the indices in place of the axis, got {given}; reshape them", given=given
        )
    return (x,)


def _batch_scatter(primitive: Primitive, batched: Sequence[bool], operands: Sequence[Any], params: Any) -> Any:
    count = next(item.shape[0] for item, flag in zip(operands, batched, strict=True) if flag)
    shares_indices = not batched[1] and params["batch"] == 0
    full = [
        item if flag or (place == 1 and shares_indices) else broadcast_to(item, (count, *item.shape))
        for place, (item, flag) in enumerate(zip(operands, batched, strict=True))
    ]
    return call(primitive, *full, axis=params["axis"] + 1, batch=params["batch"] + (not shares_indices))


def _samples(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((apart(rng, 4, 3), np.array([[0, 2], [-1, 0]]), draw(rng, 2, 2, 3)), {"axis": 0, "batch": 0}),
        Sample((apart(rng, 2, 3, 4), np.array([[1, 0, 1], [3, 3, 2]]), draw(rng, 2, 3, 3)), {"axis": 2, "batch": 1}),
        Sample((apart(rng, 3, dtype="float32"), np.array(1), draw(rng, dtype="float32")), {"axis": 0, "batch": 0}),
    ]


def _spread_indices(per_index: Any, x: Any, indices: Any, axis: int, batch: int) -> Any:
    """Return what there is for each index as of the shape of the updates."""
    counts = indices.shape[batch:]
    shape = (*indices.shape[:batch], *(1,) * (axis - batch), *counts, *(1,) * (x.ndim - axis - 1))
    return broadcast_to(reshape(per_index, shape), (*x.shape[:axis], *counts, *x.shape[axis + 1 :]))


def are_distinct(indices: Any, length: int) -> bool:
    """Whether it is known, while tracing, that no two indices name one element of an axis."""
    if isinstance(indices, Value):
        return isinstance(indices.operand, Literal) and is_unique(indices.operand.value, length)
    return is_unique(indices, length)


def winners(indices: Any, x: Any, axis: int, batch: int) -> Any:
    """Return which indices are the last of their element, of the shape of the updates; None where all are."""
    length = x.shape[axis]
    if batch == 0 and are_distinct(indices, length):
        return None
    counts = indices.shape[batch:]
    order = broadcast_to(constant(indices, np.arange(math.prod(counts)).reshape(counts)), indices.shape)
    base = filled(0, TensorType(Dtype.INT64, (*indices.shape[:batch], length)), order)
    last = call(_scatter, base, indices, order, axis=batch, batch=batch)
    return _spread_indices(equal(_taken(last, indices, batch, batch), order), x, indices, axis, batch)


def _taken(x: Any, indices: Any, axis: int, batch: int) -> Any:
    from gradwire_core.ops._declare import PRIMITIVES

    return call(PRIMITIVES["take"], x, indices, axis=axis, batch=batch)


def _added(updates: Any, indices: Any, axis: int, batch: int, size: int) -> Any:
    from gradwire_core.ops._declare import PRIMITIVES

    return call(PRIMITIVES["scatter_add"], updates, indices, axis=axis, batch=batch, size=size)


def is_unique(indices: Array, length: int) -> bool:
    """Whether no two indices name one element of an axis."""
    return np.unique(np.where(indices < 0, indices + length, indices)).size == indices.size


def _transpose_base(ct: Any, x: TensorType, indices: Any, updates: TensorType, *, axis: int, batch: int) -> Any:
    zeros = zeros_of(TensorType(x.dtype, updates.shape), ct)
    return call(_scatter, ct, indices, zeros, axis=axis, batch=batch)


def _transpose_updates(ct: Any, x: TensorType, indices: Any, updates: TensorType, *, axis: int, batch: int) -> Any:
    taken = _taken(ct, indices, axis, batch)
    wins = winners(indices, x, axis, batch)
    return taken if wins is None else where(wins, taken, zeros_of(updates, ct))


_scatter: Primitive = declare(
    Primitive(
        name="scatter",
        kernel=_scatter_kernel,
        infer=lambda x, indices, updates, *, axis, batch: _infer(x, indices, updates, axis=axis, batch=batch, where_="scatter"),
        derivative=by_position(Linear(_transpose_base, joint=True), Constant(), Linear(_transpose_updates, joint=True)),
        batch=lambda batched, operands, params: _batch_scatter(_scatter, batched, operands, params),
        arity=3,
        params=("axis", "batch"),
        doc="x with the elements at integer indices along an axis replaced by updates; of several for one element the last counts.",
        samples=_samples,
        flops=lambda x, indices, updates, *, axis, batch: float(x.size + updates.size),
    )
)


def _extreme(ufunc: np.ufunc, name: str, text: str) -> Primitive:
    def kernel(x: Array, indices: Array, updates: Array, *, axis: int, batch: int) -> Array:
        out, places, values = _places(indices, x, axis, batch, updates)
        ufunc.at(out, places, values)
        return np.moveaxis(out, batch, axis)

    def shares(y: Any, x: Any, indices: Any, updates: Any, axis: int, batch: int) -> tuple[Any, Any, Any]:
        """Return where the base and the updates reach the extreme, and how many do."""
        base, given = equal(x, y), equal(updates, _taken(y, indices, axis, batch))
        count = add(base.astype(x.dtype), _added(given.astype(x.dtype), indices, axis, batch, x.shape[axis]))
        return base, given, count

    def tangent_base(t: Any, y: Any, x: Any, indices: Any, updates: Any, *, axis: int, batch: int) -> Any:
        base, _, count = shares(y, x, indices, updates, axis, batch)
        return where(base, t, 0.0) / count

    def tangent_updates(t: Any, y: Any, x: Any, indices: Any, updates: Any, *, axis: int, batch: int) -> Any:
        _, given, count = shares(y, x, indices, updates, axis, batch)
        return _added(where(given, t, 0.0), indices, axis, batch, x.shape[axis]) / count

    primitive: Primitive = declare(
        Primitive(
            name=name,
            kernel=kernel,
            infer=lambda x, indices, updates, *, axis, batch: _infer(x, indices, updates, axis=axis, batch=batch, where_=name),
            derivative=by_position(Tangent(tangent_base), Constant(), Tangent(tangent_updates)),
            batch=lambda batched, operands, params: _batch_scatter(primitive, batched, operands, params),
            arity=3,
            params=("axis", "batch"),
            doc=f"The {text} of x and all updates at integer indices along an axis; those that reach it share the derivative.",
            samples=_samples,
            flops=lambda x, indices, updates, *, axis, batch: float(updates.size),
        )
    )
    return primitive


_scatter_max = _extreme(np.maximum, "scatter_max", "maximum")
_scatter_min = _extreme(np.minimum, "scatter_min", "minimum")

# -- x.at[index] -------------------------------------------------------------------------------------------------------------


class At:
    """What `x.at` is: indexed, it can update the elements the index names."""

    def __init__(self, x: Any) -> None:
        self._x = x

    def __getitem__(self, index: Any) -> Update:
        return Update(self._x, index)


class Update:
    """Some elements of an array, to be read or replaced in a new array.

    Args:
        x: the array.
        index: as NumPy's, without traced masks.
    """

    def __init__(self, x: Any, index: Any) -> None:
        self._x = x
        self._index = index
        self._chosen: Selection = select(x.shape, index)

    def get(self) -> Any:
        """Return the elements."""
        return getitem(self._x, self._index)

    def set(self, value: Any) -> Any:
        """Return the array with the elements replaced."""
        return self._replaced(self._fitted(value))

    def add(self, value: Any) -> Any:
        """Return the array with a value added to the elements."""
        chosen, fitted = self._chosen, self._fitted(value)
        if chosen.indices is not None:
            fitted = _added(fitted, _constant(fitted, chosen.indices), chosen.place, 0, chosen.merged[chosen.place])
        return add(self._x, chosen.spread(fitted))

    def subtract(self, value: Any) -> Any:
        """Return the array with a value subtracted from the elements."""
        return self.add(-self._fitted(value))

    def multiply(self, value: Any) -> Any:
        """Return the array with the elements multiplied by a value."""
        return self._replaced(self.get() * self._product(value))

    def divide(self, value: Any) -> Any:
        """Return the array with the elements divided by a value."""
        return self._replaced(self._cast(self.get() / self._product(value)))

    def power(self, value: Any) -> Any:
        """Return the array with the elements raised to a power."""
        plain = is_scalar(value) and self._is_unique()
        return self._replaced(np.power(self.get(), value if plain else self._product(value)))

    def max(self, value: Any) -> Any:
        """Return the array with the elements raised to a value where they are less."""
        return self._extreme(_scatter_max, maximum, value)

    def min(self, value: Any) -> Any:
        """Return the array with the elements lowered to a value where they are greater."""
        return self._extreme(_scatter_min, minimum, value)

    def apply(self, function: Callable[[Any], Any]) -> Any:
        """Return the array with the elements replaced by a function of them, an array of the shape of the index."""
        return self.set(function(self.get()))

    def _fitted(self, value: Any) -> Any:
        """Return a value in the dtype of the array and the shape of what is selected.

        Raises:
            DtypeError: its dtype would be narrowed to another kind.
            ShapeError: it does not broadcast.
        """
        shape = self._chosen.shape
        kept = self._cast(value)
        extra = kept.ndim - len(shape)
        if extra > 0 and all(length == 1 for length in kept.shape[:extra]):
            kept = reshape(kept, kept.shape[extra:])
        return broadcast_to(kept, shape)

    def _cast(self, value: Any) -> Any:
        dtype = self._x.dtype
        given = type(value) if is_scalar(value) else value.dtype if isinstance(value, Value) else np.asarray(value).dtype
        found = np.result_type(dtype, value) if is_scalar(value) else given
        if not np.can_cast(found, dtype, "same_kind"):
            name = getattr(given, "__name__", given)
            raise DtypeError(
                f"at: needed a value that fits an array of {dtype}, got {name}; convert one of them", given=name, needed=dtype
            )
        if isinstance(value, Value):
            return convert(value, dtype)
        array = np.asarray(value, dtype)
        return self._x.builder.lift(array) if isinstance(self._x, Value) else array

    def _is_unique(self) -> bool:
        chosen = self._chosen
        if chosen.indices is None:
            return True
        return are_distinct(chosen.indices, chosen.merged[chosen.place])

    def _replaced(self, elements: Any) -> Any:
        """Return the array with the elements replaced by others of their shape and dtype.

        What is replaced is masked by `where`, so that its partials are 0 even where they are infinite.
        """
        chosen = self._chosen
        if chosen.indices is None:
            return self._restored(elements)
        part, place, length = chosen.part(self._x), chosen.place, chosen.merged[chosen.place]
        indices = _constant(part, chosen.indices)
        base = filled(0, TensorType(Dtype.of(part.dtype), chosen.merged), part)
        given = call(_scatter, base, indices, elements, axis=place, batch=0)
        ones = filled(1, TensorType(Dtype.BOOL, chosen.indices.shape), part)
        hit = call(_scatter, filled(0, TensorType(Dtype.BOOL, (length,)), part), indices, ones, axis=0, batch=0)
        mask = broadcast_to(reshape(hit, (length, *(1,) * (len(chosen.merged) - place - 1))), chosen.merged)
        return self._restored(where(mask, given, part))

    def _restored(self, part: Any) -> Any:
        """Return the array with its part replaced."""
        chosen = self._chosen
        if chosen.is_whole:
            return chosen.spread(part)
        mask = chosen.spread(filled(1, TensorType(Dtype.BOOL, chosen.merged), part))
        return where(mask, chosen.spread(part), self._x)

    def _extreme(self, primitive: Primitive, plain: Any, value: Any) -> Any:
        chosen, fitted = self._chosen, self._fitted(value)
        part = chosen.part(self._x)
        if chosen.indices is None:
            return self._restored(plain(part, fitted))
        return self._restored(call(primitive, part, _constant(part, chosen.indices), fitted, axis=chosen.place, batch=0))

    def _product(self, value: Any) -> Any:
        """Return, for each element that is selected, the product of all values given for it."""
        fitted, chosen = self._fitted(value), self._chosen
        if self._is_unique():
            return fitted
        indices = _constant(fitted, chosen.indices)
        length, place = chosen.merged[chosen.place], chosen.place
        products = _products(fitted, where(less(indices, 0), add(indices, length), indices), length, place)
        return take_flat(products, indices, place)


def _constant(like: Any, indices: Any) -> Any:
    return constant(like, indices) if isinstance(indices, np.ndarray) else indices


def _products(values: Any, indices: Any, length: int, axis: int) -> Any:
    """Return the product of the values of each index along an axis of a length, 1 where there is none.

    Values are sorted by index; in each run of equal indices the products run up, and the last of a run is the one that stays.
    """
    count = math.prod(indices.shape)
    shape: Shape = (*values.shape[:axis], count, *values.shape[axis + indices.ndim :])
    flat = reshape(indices, (count,))
    order = argsort(flat)
    numbers, factors = take_flat(flat, order, 0), take_flat(reshape(values, shape), order, axis)
    if count:
        continues = equal(cut(numbers, 0, 1, count), cut(numbers, 0, 0, count - 1))
        is_first = constant(numbers, np.zeros(1, np.bool_))
        along = reshape(concatenate([is_first, continues]), (count, *(1,) * (len(shape) - axis - 1)))
        along = broadcast_to(along, shape)
        factors = recur(where(along, factors, 0), where(along, 0, factors), axis)
    ones = filled(1, TensorType(Dtype.of(values.dtype), (*shape[:axis], length, *shape[axis + 1 :])), factors)
    return call(_scatter, ones, numbers, factors, axis=axis, batch=0)


@implements(Value.at)
def at(x: Any) -> At:
    """Return what updates elements of an array, traced or not: `at(x)[index].set(value)`."""
    return At(x if isinstance(x, Value) else np.asarray(x))
