"""NumPy's functions that only move elements, written over those that gradwire traces: nothing here computes.

`gradwire.numpy` imports this, which registers each under NumPy's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import Value, implements
from gradwire_core.errors import ArgumentError, ShapeError, TracingError
from gradwire_core.ops._declare import normalize_axes
from gradwire_core.ops.shaping import pad_with_zeros
from gradwire_core.ops.updates import at


def _shape(a: Any) -> tuple[int, ...]:
    return a.shape if isinstance(a, Value) else np.shape(a)


def _ndim(a: Any) -> int:
    return len(_shape(a))


def _axis(where: str, axis: int, ndim: int) -> int:
    return normalize_axes(where, int(axis), ndim)[0]


def _cut(a: Any, axis: int, piece: slice) -> Any:
    whole: list[Any] = [slice(None)] * _ndim(a)
    whole[axis] = piece
    return a[tuple(whole)]


# -- order of elements and axes ------------------------------------------------------------------------------------------------


@implements(np.flipud)
def flipud(m: Any) -> Any:
    """Return the array with the order along the first axis reversed."""
    return np.flip(m, 0)


@implements(np.fliplr)
def fliplr(m: Any) -> Any:
    """Return the array with the order along the second axis reversed."""
    return np.flip(m, 1)


@implements(np.rot90)
def rot90(m: Any, k: int = 1, axes: Sequence[int] = (0, 1)) -> Any:
    """Return the array turned k times by 90 degrees, from the first towards the second of two axes."""
    one, other = (_axis("rot90", axis, _ndim(m)) for axis in axes)
    if one == other:
        raise ShapeError(f"rot90: needed two different axes, got {tuple(axes)}; name two", given=tuple(axes))
    turns = k % 4
    if turns == 0:
        return m
    if turns == 2:
        return np.flip(m, (one, other))
    if turns == 1:
        return np.swapaxes(np.flip(m, other), one, other)
    return np.flip(np.swapaxes(m, one, other), other)


@implements(np.rollaxis)
def rollaxis(a: Any, axis: int, start: int = 0) -> Any:
    """Return the array with an axis moved before another."""
    ndim = _ndim(a)
    place = _axis("rollaxis", axis, ndim)
    before = start + ndim if start < 0 else start
    if not 0 <= before <= ndim:
        raise ShapeError(f"rollaxis: needed a start from {-ndim} to {ndim}, got {start}; correct it", given=start)
    return np.moveaxis(a, place, before - (place < before))


@implements(np.copy)
def copy(a: Any, order: str = "K", subok: bool = False) -> Any:  # noqa: ARG001  # NumPy's signature
    """Return the array itself: a traced array never changes."""
    return a


# -- parts ---------------------------------------------------------------------------------------------------------------------


@implements(np.hsplit)
def hsplit(ary: Any, indices_or_sections: Any) -> list[Any]:
    """Return the parts of an array along its second axis; of a vector along its first."""
    return np.split(ary, indices_or_sections, 1 if _ndim(ary) > 1 else 0)


@implements(np.vsplit)
def vsplit(ary: Any, indices_or_sections: Any) -> list[Any]:
    """Return the parts of an array along its first axis."""
    return np.split(ary, indices_or_sections, 0)


@implements(np.dsplit)
def dsplit(ary: Any, indices_or_sections: Any) -> list[Any]:
    """Return the parts of an array along its third axis."""
    return np.split(ary, indices_or_sections, 2)


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    """Return the slices of an array along an axis, which they lack."""
    return tuple(np.moveaxis(x, axis, 0))


if hasattr(np, "unstack"):  # from NumPy 2.1 on
    implements(np.unstack)(unstack)


@implements(np.delete)
def delete(arr: Any, obj: Any, axis: int | None = None) -> Any:
    """Return the array without the elements at static indices along an axis; with None, of the array flattened."""
    a, place = _flattened("delete", arr, axis)
    if isinstance(obj, Value):
        text = "delete: needed indices known while tracing, got traced ones, so that the length is not static; use np.where"
        raise TracingError(text, given=obj.type)
    return np.take(a, np.delete(np.arange(_shape(a)[place]), obj), place)


@implements(np.insert)
def insert(arr: Any, obj: Any, values: Any, axis: int | None = None) -> Any:
    """Return the array with values inserted before static indices along an axis; with None, of the array flattened."""
    a, place = _flattened("insert", arr, axis)
    if isinstance(obj, Value):
        raise TracingError("insert: needed indices known while tracing, got traced ones; use np.concatenate or np.where")
    length = _shape(a)[place]
    others = [n for number, n in enumerate(_shape(a)) if number != place]
    numbers = np.arange(length)[obj] if isinstance(obj, slice) else np.asarray(obj)
    if numbers.dtype == np.bool_:
        numbers = np.flatnonzero(numbers)
    given = values if isinstance(values, Value) else np.asarray(values)
    block: Any = np.reshape(given, (*(1,) * (_ndim(a) - _ndim(given)), *_shape(given)))
    if numbers.ndim == 0:
        # NumPy lays the first axis of the values along the axis where the index is a number, not where it is a list.
        block = np.moveaxis(block, 0, place)
    count = _shape(block)[place] if numbers.size == 1 else numbers.size
    order = np.insert(np.arange(length), np.broadcast_to(numbers, (count,)), length + np.arange(count))
    full = np.broadcast_to(block, (*others[:place], count, *others[place:])).astype(a.dtype)
    return np.take(np.concatenate([a, full], place), order, place)


def _flattened(where: str, a: Any, axis: int | None) -> tuple[Any, int]:
    given = a if isinstance(a, Value) else np.asarray(a)
    return (np.reshape(given, (-1,)), 0) if axis is None else (given, _axis(where, axis, _ndim(given)))


# -- joining -------------------------------------------------------------------------------------------------------------------


@implements(np.append)
def append(arr: Any, values: Any, axis: int | None = None) -> Any:
    """Return two arrays joined along an axis; with None, both flattened."""
    return np.concatenate([arr, values], axis)


@implements(np.block)
def block(arrays: Any) -> Any:
    """Return nested lists of arrays joined: the innermost along the last axis, the next along the one before, and so on."""
    depth = _depth(arrays)
    rank = max(depth, *[_ndim(leaf) for leaf in _leaves(arrays)])
    return _join(arrays, depth, rank)


def _depth(items: Any) -> int:
    if not isinstance(items, list):
        return 0
    if not items:
        raise ShapeError("block: needed lists with arrays in them, got an empty one; leave it out")
    depths = {_depth(item) for item in items}
    if len(depths) > 1:
        raise ShapeError(f"block: needed lists nested to one depth, got depths {sorted(depths)}; nest all alike", given=depths)
    return 1 + depths.pop()


def _leaves(items: Any) -> list[Any]:
    return [leaf for item in items for leaf in _leaves(item)] if isinstance(items, list) else [items]


def _join(items: Any, depth: int, rank: int) -> Any:
    if depth == 0:
        return np.reshape(items, (*(1,) * (rank - _ndim(items)), *_shape(items)))
    return np.concatenate([_join(item, depth - 1, rank) for item in items], -depth)


@implements(np.meshgrid)
def meshgrid(
    *xi: Any,
    copy: bool = True,  # noqa: ARG001  # NumPy's signature
    sparse: bool = False,
    indexing: str = "xy",
) -> tuple[Any, ...]:
    """Return the coordinates of the points of a grid, one array for each vector."""
    if indexing not in ("xy", "ij"):
        raise ArgumentError(f"meshgrid: needed indexing 'xy' or 'ij', got {indexing!r}; choose one", given=indexing)
    lengths = [int(np.prod(_shape(item), dtype=int)) for item in xi]
    count = len(xi)
    grids = [np.reshape(item, [lengths[place] if axis == place else 1 for axis in range(count)]) for place, item in enumerate(xi)]
    if not sparse:
        grids = [np.broadcast_to(grid, lengths) for grid in grids]
    return tuple(np.swapaxes(grid, 0, 1) for grid in grids) if indexing == "xy" and count > 1 else tuple(grids)


@implements(np.diagflat)
def diagflat(v: Any, k: int = 0) -> Any:
    """Return the matrix that has the elements, flattened, on its k-th diagonal."""
    return np.diag(np.ravel(v), k)


@implements(np.resize)
def resize(a: Any, new_shape: Any) -> Any:
    """Return the elements in another shape, repeated or cut to fill it."""
    lengths = tuple(np.atleast_1d(new_shape).tolist())
    count = int(np.prod(_shape(a), dtype=int))
    wanted = int(np.prod(lengths, dtype=int))
    if count == 0:
        return np.zeros_like(a, shape=lengths)
    return np.reshape(np.take(np.ravel(a), np.arange(wanted) % count), lengths)


@implements(np.vander)
def vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:  # noqa: N803  # NumPy's name
    """Return the matrix of the powers of the elements of a vector, falling or rising."""
    count = _shape(x)[0] if N is None else N
    powers = np.cumprod(np.concatenate([np.ones_like(x, shape=(_shape(x)[0], min(count, 1))), *[x[:, None]] * (count - 1)], 1), 1)
    return powers if increasing else powers[:, ::-1]


# -- padding -------------------------------------------------------------------------------------------------------------------

REARRANGING = ("edge", "reflect", "symmetric", "wrap")
PAD_OPTIONS: dict[str, set[str]] = {
    "constant": {"constant_values"},
    "edge": set(),
    "empty": set(),
    "linear_ramp": {"end_values"},
    "reflect": {"reflect_type"},
    "symmetric": {"reflect_type"},
    "wrap": set(),
}


@implements(np.pad)
def pad(array: Any, pad_width: Any, mode: str = "constant", **kwargs: Any) -> Any:
    """Return an array with elements before and after it along each axis, by the modes of `numpy.pad` except functions and means.

    Modes constant, edge, reflect and symmetric (even), wrap, linear_ramp and empty (zeros here).
    """
    widths = _widths(array, pad_width)
    if mode not in PAD_OPTIONS or set(kwargs) - PAD_OPTIONS[mode] or kwargs.get("reflect_type", "even") != "even":
        given = f"mode {mode!r}, {kwargs}"
        raise ArgumentError(f"pad: needed mode {', '.join(PAD_OPTIONS)} and its options, got {given}; compose it", given=given)
    if mode in REARRANGING:
        for axis, width in enumerate(widths):
            array = np.take(array, np.pad(np.arange(_shape(array)[axis]), width, mode), axis) if any(width) else array  # type: ignore[call-overload]
        return array
    fills = kwargs.get("constant_values", kwargs.get("end_values", 0))
    if isinstance(fills, (int, float)) and fills == 0 and mode != "linear_ramp":
        low, high = zip(*widths, strict=True) if widths else ((), ())
        return pad_with_zeros(array, low, high, (0,) * len(widths))
    ends = (
        np.broadcast_to(np.asarray(fills), (len(widths), 2))
        if not isinstance(fills, Value)
        else np.broadcast_to(fills, (len(widths), 2))
    )
    for axis, width in enumerate(widths):
        array = _pad_axis(array, axis, width, (ends[axis, 0], ends[axis, 1]), mode)
    return array


def _widths(array: Any, pad_width: Any) -> list[tuple[int, int]]:
    ndim = _ndim(array)
    if isinstance(pad_width, dict):
        by_axis = {axis % ndim: width for axis, width in pad_width.items()}
        pad_width = [np.broadcast_to(by_axis.get(axis, 0), 2) for axis in range(ndim)]
    try:
        widths = np.broadcast_to(np.asarray(pad_width), (ndim, 2))
    except ValueError:
        raise ShapeError(
            f"pad: needed widths that broadcast to {(ndim, 2)}, got {pad_width}; correct them", given=pad_width
        ) from None
    if widths.dtype.kind not in "iu" or (widths < 0).any():
        raise ArgumentError(f"pad: needed non-negative integer widths, got {pad_width}; correct them", given=pad_width)
    return [(int(low), int(high)) for low, high in widths]


def _pad_axis(a: Any, axis: int, width: tuple[int, int], ends: tuple[Any, Any], mode: str) -> Any:
    """Return an array padded along one axis by numbers, or by ramps from its edges to numbers."""
    parts = []
    for count, end, is_low in zip(width, ends, (True, False), strict=True):
        shape = tuple(count if place == axis else n for place, n in enumerate(_shape(a)))
        if mode == "linear_ramp" and count:
            edge = _cut(a, axis, slice(0, 1) if is_low else slice(-1, None))
            steps = np.arange(count) / count if is_low else np.arange(count, 0, -1) / count - 1 / count
            along = np.reshape(steps, [-1 if place == axis else 1 for place in range(len(shape))])
            parts.append((end + (edge - end) * along).astype(a.dtype))
        else:
            number = end if isinstance(end, Value) else np.asarray(end, a.dtype)
            parts.append(np.broadcast_to(number, shape).astype(a.dtype))
    return np.concatenate([parts[0], a, parts[1]], axis)


# -- ranges between traced ends ------------------------------------------------------------------------------------------------


@implements(np.linspace)
def linspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    retstep: bool = False,
    dtype: Any = None,
    axis: int = 0,
    **kwargs: Any,
) -> Any:
    """Return evenly spaced numbers from start to stop along a new axis, as `numpy.linspace`."""
    if any(item is not None for item in kwargs.values()):
        raise ArgumentError(f"linspace: needed no device, got {kwargs}; leave it out", given=kwargs)
    gaps = num - 1 if endpoint else num
    first = np.add(start, 0.0)
    step = (stop - first) / max(gaps, 1)
    counts = np.reshape(np.arange(0.0, num), (num, *(1,) * _ndim(step)))
    points = counts * step + first
    if endpoint and num > 1:
        last = np.broadcast_to(np.add(stop, 0.0), _shape(step))
        points = np.concatenate([points[:-1], last[None]], 0)
    points = np.moveaxis(points, 0, axis) if axis else points
    points = points if dtype is None else points.astype(dtype)
    return (points, step) if retstep else points


@implements(np.logspace)
def logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10.0, dtype: Any = None, axis: int = 0
) -> Any:
    """Return powers of a base whose exponents are evenly spaced, as `numpy.logspace`."""
    points = np.power(base, linspace(start, stop, num, endpoint, axis=axis))
    return points if dtype is None else points.astype(dtype)


@implements(np.geomspace)
def geomspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0) -> Any:
    """Return numbers of one sign, each a constant multiple of the one before, as `numpy.geomspace`."""
    sign = np.sign(start)
    points = sign * np.exp(linspace(np.log(start * sign), np.log(stop * sign), num, endpoint, axis=axis))
    return points if dtype is None else points.astype(dtype)


# -- what depends on shapes and dtypes alone -----------------------------------------------------------------------------------


@implements(np.tril_indices_from)
def tril_indices_from(arr: Any, k: int = 0) -> Any:
    """Return the indices of the lower triangle of a matrix."""
    return np.tril_indices(_shape(arr)[-2], k, _shape(arr)[-1])


@implements(np.triu_indices_from)
def triu_indices_from(arr: Any, k: int = 0) -> Any:
    """Return the indices of the upper triangle of a matrix."""
    return np.triu_indices(_shape(arr)[-2], k, _shape(arr)[-1])


@implements(np.diag_indices_from)
def diag_indices_from(arr: Any) -> Any:
    """Return the indices of the main diagonal of an array of equal lengths."""
    if len(set(_shape(arr))) != 1 or _ndim(arr) < 2:
        raise ShapeError(
            f"diag_indices_from: needed at least 2 equal axes, got shape {list(_shape(arr))}; cut it", given=_shape(arr)
        )
    return np.diag_indices(_shape(arr)[0], _ndim(arr))


@implements(np.result_type)
def result_type(*arrays_and_dtypes: Any) -> Any:
    """Return the dtype that promotion gives."""
    return np.result_type(*[item.dtype if isinstance(item, Value) else item for item in arrays_and_dtypes])


@implements(np.shares_memory, np.may_share_memory)
def shares_memory(a: Any, b: Any, max_work: Any = None) -> bool:  # noqa: ARG001  # NumPy's signature
    """Return False: traced arrays have no memory."""
    return False


# -- updates -------------------------------------------------------------------------------------------------------------------


def put_along_axis(arr: Any, indices: Any, values: Any, axis: int | None) -> Any:
    """Return the array with values at indices that go along one axis, as `numpy.put_along_axis` leaves it.

    Example:
        >>> import numpy as np, gradwire.numpy as gnp
        >>> gnp.put_along_axis(np.zeros((2, 2)), np.array([[1], [0]]), 5.0, 1)
        array([[0., 5.],
               [5., 0.]])
    """
    a = arr if isinstance(arr, Value) else np.asarray(arr)
    if axis is None:
        return np.reshape(put_along_axis(np.reshape(a, (-1,)), indices, values, 0), a.shape)
    place = _axis("put_along_axis", axis, a.ndim)
    lengths = [n if number == place else None for number, n in enumerate(_shape(indices))]
    grids = [
        indices if length is not None else np.reshape(np.arange(a.shape[number]), [-1 if k == number else 1 for k in range(a.ndim)])
        for number, length in enumerate(lengths)
    ]
    return at(a)[tuple(grids)].set(values)


def fill_diagonal(a: Any, val: Any, wrap: bool = False) -> Any:
    """Return the array with a value on its main diagonal, as `numpy.fill_diagonal` leaves it.

    Example:
        >>> import numpy as np, gradwire.numpy as gnp
        >>> gnp.fill_diagonal(np.ones((2, 2)), 0.0)
        array([[0., 1.],
               [1., 0.]])
    """
    array = a if isinstance(a, Value) else np.asarray(a)
    marked = np.zeros(array.shape, np.int64)
    np.fill_diagonal(marked, 1, wrap)
    places = np.flatnonzero(marked)
    given = val if isinstance(val, Value) else np.asarray(val)
    values = np.take(np.ravel(given), np.arange(places.size) % max(given.size, 1))
    return np.reshape(at(np.reshape(array, (-1,)))[places].set(values), array.shape)
