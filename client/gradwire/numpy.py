"""NumPy's names, for arrays and traced arrays alike; what is here is written over the primitives of gradwire.

Functions that NumPy dispatches need no import from here: `np.var` of a traced array comes to the `var` below by itself. Import
this module for what NumPy lacks (`softmax`, `logsumexp`, `logistic`) or cannot dispatch (`array` of traced arrays). Every
other name is NumPy's own.

Example:
    >>> import numpy as np, gradwire as gw, gradwire.numpy as gnp
    >>> gw.grad(gnp.logsumexp)(np.zeros(4))
    array([0.25, 0.25, 0.25, 0.25])
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire import _order, _refusals, _sequences, _shapes, _statistics  # noqa: F401  # importing them registers them
from gradwire import linalg as linalg  # noqa: PLC0414  # served here too; importing it registers it
from gradwire_core import ops
from gradwire_core.builder import Value, implements
from gradwire_core.errors import ShapeError
from gradwire_core.ops._declare import constant
from gradwire_core.ops.shaping import embed, pad_with_zeros, take_diagonal

Axis = int | tuple[int, ...] | None
logistic = ops.elementwise.logistic
at, take = ops.updates.at, ops.indexing.take
cummax, cummin, cumlogsumexp = ops.cumulative.cummax, ops.cumulative.cummin, ops.cumulative.cumlogsumexp
avg_pool, conv1d, conv2d, max_pool = _sequences.avg_pool, _sequences.conv1d, _sequences.conv2d, _sequences.max_pool
fill_diagonal, put_along_axis, top_k = _shapes.fill_diagonal, _shapes.put_along_axis, _order.top_k


def __getattr__(name: str) -> Any:
    return getattr(np, name)


# -- constants: of the shape of an array, whatever its values --------------------------------------------------------------------


@implements(np.shape)
def shape(a: Any) -> tuple[int, ...]:
    """Return the lengths of the axes."""
    return a.shape if isinstance(a, Value) else np.shape(a)


@implements(np.ndim)
def ndim(a: Any) -> int:
    """Return the number of axes."""
    return len(shape(a))


@implements(np.size)
def size(a: Any, axis: int | None = None) -> int:
    """Return the number of elements, in all or along an axis."""
    return int(np.prod(shape(a), dtype=int)) if axis is None else shape(a)[axis]


@implements(np.full_like)
def full_like(a: Any, fill_value: Any, dtype: Any = None, *, shape: Any = None) -> Any:
    """Return an array of one value, of the shape and dtype of another."""
    if not isinstance(a, Value) and not isinstance(fill_value, Value):
        return np.full_like(a, fill_value, dtype, shape=shape)
    lengths = a.shape if shape is None else tuple(np.atleast_1d(shape).tolist())
    number = fill_value if isinstance(fill_value, Value) else constant(a, np.asarray(fill_value, a.dtype))
    return np.broadcast_to(number, lengths).astype(a.dtype if dtype is None else dtype)


@implements(np.zeros_like, np.empty_like)
def zeros_like(a: Any, dtype: Any = None, **kwargs: Any) -> Any:
    """Return zeros of the shape and dtype of an array."""
    return full_like(a, 0, dtype, **kwargs)


@implements(np.ones_like)
def ones_like(a: Any, dtype: Any = None, **kwargs: Any) -> Any:
    """Return ones of the shape and dtype of an array."""
    return full_like(a, 1, dtype, **kwargs)


def array(items: Any, dtype: Any = None) -> Any:
    """Return nested lists of numbers and traced arrays as one array, which `np.array` cannot.

    Example:
        >>> import numpy as np, gradwire as gw, gradwire.numpy as gnp
        >>> gw.jacobian(lambda r: gnp.array([r, r * r]))(3.0)
        array([1., 6.])
    """
    if isinstance(items, (list, tuple)) and _holds_values(items):
        items = np.stack([item if isinstance(item, Value) else array(item) for item in items])
    if not isinstance(items, Value):
        return np.array(items, dtype) if dtype is not None else np.array(items)
    return items if dtype is None else items.astype(dtype)  # type: ignore[attr-defined]  # methods are installed by table


asarray = array


def _holds_values(items: Any) -> bool:
    return any(isinstance(item, Value) or (isinstance(item, (list, tuple)) and _holds_values(item)) for item in items)


# -- shapes --------------------------------------------------------------------------------------------------------------------


@implements(np.ravel)
def ravel(a: Any, order: str = "C") -> Any:
    """Return the elements along one axis, in row-major order."""
    return np.reshape(a, (-1,), order=order)  # type: ignore[call-overload]


@implements(np.swapaxes)
def swapaxes(a: Any, axis1: int, axis2: int) -> Any:
    """Return the array with two axes exchanged."""
    axes = list(range(ndim(a)))
    axes[axis1], axes[axis2] = axes[axis2], axes[axis1]
    return np.transpose(a, axes)


@implements(np.moveaxis)
def moveaxis(a: Any, source: Any, destination: Any) -> Any:
    """Return the array with axes moved to other places; the others keep their order."""
    sources, places = (
        [item + ndim(a) if item < 0 else item for item in np.atleast_1d(axes).tolist()] for axes in (source, destination)
    )
    order = [axis for axis in range(ndim(a)) if axis not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return np.transpose(a, order)


@implements(np.atleast_1d)
def atleast_1d(*arrays: Any) -> Any:
    """Return arrays of one axis at least."""
    return _each(arrays, lambda a: a if ndim(a) else np.reshape(a, (1,)))


@implements(np.atleast_2d)
def atleast_2d(*arrays: Any) -> Any:
    """Return arrays of two axes at least; a vector becomes a row."""
    return _each(arrays, lambda a: a if ndim(a) >= 2 else np.reshape(a, (1, size(a))))


@implements(np.atleast_3d)
def atleast_3d(*arrays: Any) -> Any:
    """Return arrays of three axes at least; a vector lies along the second."""
    return _each(arrays, lambda a: a if ndim(a) >= 3 else a[..., None] if ndim(a) == 2 else np.reshape(a, (1, size(a), 1)))


def _each(arrays: Sequence[Any], function: Any) -> Any:
    items = [function(item if isinstance(item, Value) else np.asarray(item)) for item in arrays]
    return items[0] if len(items) == 1 else tuple(items)


@implements(np.vstack)
def vstack(tup: Any) -> Any:
    """Return arrays stacked as rows."""
    return np.concatenate([atleast_2d(item) for item in tup], 0)


@implements(np.hstack)
def hstack(tup: Any) -> Any:
    """Return arrays joined along the second axis; vectors along the first."""
    items = [atleast_1d(item) for item in tup]
    return np.concatenate(items, 0 if ndim(items[0]) == 1 else 1)


@implements(np.dstack)
def dstack(tup: Any) -> Any:
    """Return arrays stacked along the third axis."""
    return np.concatenate([atleast_3d(item) for item in tup], 2)


@implements(np.column_stack)
def column_stack(tup: Any) -> Any:
    """Return vectors as the columns of a matrix; matrices are joined as they are."""
    return np.concatenate([item if ndim(item) >= 2 else np.reshape(item, (size(item), 1)) for item in tup], 1)


@implements(np.broadcast_arrays)
def broadcast_arrays(*args: Any) -> tuple[Any, ...]:
    """Return arrays broadcast against each other."""
    common = np.broadcast_shapes(*map(shape, args))
    return tuple(np.broadcast_to(item, common) for item in args)


@implements(np.roll)
def roll(a: Any, shift: Any, axis: Any = None) -> Any:
    """Return the array with elements moved along axes, from the end to the start."""
    if axis is None:
        return np.reshape(roll(ravel(a), shift, 0), shape(a))
    for count, place in zip(np.atleast_1d(shift).tolist(), np.atleast_1d(axis).tolist(), strict=True):
        a = np.take(a, (np.arange(shape(a)[place]) - count) % max(shape(a)[place], 1), place)
    return a


@implements(np.tile)
def tile(A: Any, reps: Any) -> Any:  # noqa: N803  # NumPy's name
    """Return the array repeated along its axes."""
    counts = np.atleast_1d(reps).tolist()
    rank = max(len(counts), ndim(A))
    lengths = (*(1,) * (rank - ndim(A)), *shape(A))
    counts = [*[1] * (rank - len(counts)), *counts]
    spread = np.broadcast_to(
        np.reshape(A, [part for length in lengths for part in (1, length)]),
        [part for pair in zip(counts, lengths, strict=True) for part in pair],
    )
    return np.reshape(spread, [count * length for count, length in zip(counts, lengths, strict=True)])


@implements(np.repeat)
def repeat(a: Any, repeats: Any, axis: int | None = None) -> Any:
    """Return the array with each element repeated along an axis."""
    if axis is None:
        a, axis = ravel(a), 0
    return np.take(a, np.repeat(np.arange(shape(a)[axis]), _known(repeats)), axis)


@implements(np.split)
def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    """Return the parts of an array along an axis, equally long or between given places."""
    return _parts(ary, np.split(np.arange(shape(ary)[axis]), _known(indices_or_sections)), axis)


@implements(np.array_split)
def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    """Return the parts of an array along an axis, as equally long as can be."""
    return _parts(ary, np.array_split(np.arange(shape(ary)[axis]), _known(indices_or_sections)), axis)


def _known(count: Any) -> Any:
    """Return numbers that decide a shape; traced ones are refused."""
    return operator.index(count) if isinstance(count, Value) else count


def _parts(ary: Any, places: Sequence[Any], axis: int) -> list[Any]:
    whole: list[Any] = [slice(None)] * ndim(ary)
    parts = []
    for place in places:
        whole[axis] = slice(int(place[0]), int(place[-1]) + 1) if place.size else slice(0, 0)
        parts.append(ary[tuple(whole)])
    return parts


# -- diagonals -------------------------------------------------------------------------------------------------------------------


@implements(np.diagonal)
def diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """Return the elements with equal index in two axes, along a last axis."""
    matrix = moveaxis(a, (axis1, axis2), (-2, -1))
    rows, columns = shape(matrix)[-2:]
    top, left = max(-offset, 0), max(offset, 0)
    length = max(min(rows - top, columns - left), 0)
    square = matrix[..., top : top + length, left : left + length]
    rank = ndim(square)
    return take_diagonal(square, (*range(rank - 1), rank - 2))


@implements(np.diag)
def diag(v: Any, k: int = 0) -> Any:
    """Return the k-th diagonal of a matrix, or the matrix that has a vector there and zeros elsewhere."""
    if ndim(v) == 2:
        return diagonal(v, k)
    if ndim(v) != 1:
        raise ShapeError(f"diag: needed a vector or a matrix, got shape {shape(v)}; reshape it", given=shape(v))
    square = embed(v, (0, 0))
    low, high = (max(-k, 0), max(k, 0)), (max(k, 0), max(-k, 0))
    return square if k == 0 else pad_with_zeros(square, low, high, (0, 0))


@implements(np.trace)
def trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """Return the sum of a diagonal, `sum_i a_ii`."""
    return np.sum(diagonal(a, offset, axis1, axis2), -1)


@implements(np.tril)
def tril(m: Any, k: int = 0) -> Any:
    """Return the lower triangle: zeros above the k-th diagonal."""
    return np.where(_triangle(m, k), m, 0.0)


@implements(np.triu)
def triu(m: Any, k: int = 0) -> Any:
    """Return the upper triangle: zeros below the k-th diagonal."""
    return np.where(_triangle(m, k - 1), 0.0, m)


def _triangle(m: Any, k: int) -> Any:
    rows, columns = shape(m)[-2:]
    return constant(m, np.tri(rows, columns, k, dtype=np.bool_))


# -- statistics ------------------------------------------------------------------------------------------------------------------


@implements(np.var)
def var(a: Any, axis: Axis = None, *, ddof: float = 0, keepdims: bool = False, mean: Any = None) -> Any:
    """Return the variance, `mean(|a - mean(a)|^2)`, with the count less `ddof`."""
    centered = a - (np.mean(a, axis, keepdims=True) if mean is None else mean)
    squares = np.square(np.real(centered)) + np.square(np.imag(centered)) if np.iscomplexobj(centered) else np.square(centered)
    total = np.sum(squares, axis, keepdims=keepdims)
    count = size(a) // max(size(total), 1)
    return total / (count - ddof)


@implements(np.std)
def std(a: Any, axis: Axis = None, *, ddof: float = 0, keepdims: bool = False, mean: Any = None) -> Any:
    """Return the standard deviation; its derivative where all elements are equal is 0."""
    return _root(var(a, axis, ddof=ddof, keepdims=keepdims, mean=mean))


def _root(a: Any) -> Any:
    """Return the square root, whose derivative at 0 is taken as 0."""
    is_zero = np.equal(a, 0)
    return np.where(is_zero, 0.0, np.sqrt(np.where(is_zero, 1.0, a)))


@implements(np.clip)
def clip(a: Any, a_min: Any = None, a_max: Any = None, **kwargs: Any) -> Any:
    """Return the elements kept between two bounds; at a bound the derivative is shared by halves."""
    low, high = kwargs.get("min", a_min), kwargs.get("max", a_max)
    kept = a if low is None else np.maximum(a, low)
    return kept if high is None else np.minimum(kept, high)


# -- what NumPy lacks --------------------------------------------------------------------------------------------------------------


def logsumexp(a: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return `ln sum_i exp(a_i)` without overflow; where all a_i are -inf it is -inf, and its derivative 0.

    Example:
        >>> import numpy as np, gradwire.numpy as gnp
        >>> gnp.logsumexp(np.array([1000.0, 1000.0])) == 1000 + np.log(2)
        np.True_
    """
    peak = _peak(a, axis)
    total = np.sum(np.exp(a - peak), axis, keepdims=True)
    is_zero = np.equal(total, 0)
    total = np.where(is_zero, -np.inf, np.log(np.where(is_zero, 1.0, total)) + peak)
    return total if keepdims else np.squeeze(total, axis) if axis is not None else np.reshape(total, ())


def softmax(a: Any, axis: Axis = -1) -> Any:
    """Return `exp(a_i) / sum_j exp(a_j)` without overflow.

    Example:
        >>> import numpy as np, gradwire.numpy as gnp
        >>> gnp.softmax(np.array([1000.0, 1000.0]))
        array([0.5, 0.5])
    """
    raised = np.exp(a - _peak(a, axis))
    return raised / np.sum(raised, axis, keepdims=True)


def _peak(a: Any, axis: Axis) -> Any:
    """Return the maximum where it is finite, else 0; what is shifted by it does not vary with it."""
    peak = np.max(ops.rounding.stop_gradient(a), axis, keepdims=True)
    return np.where(np.isfinite(peak), peak, 0.0)
