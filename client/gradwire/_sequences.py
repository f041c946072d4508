"""NumPy's functions of neighbours: differences, integrals, polynomials, windows; and the convolutions and pools made of windows.

`gradwire.numpy` imports this, which registers each under NumPy's name and serves what NumPy lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import Value, implements
from gradwire_core.errors import ArgumentError, ShapeError
from gradwire_core.ops._declare import normalize_axes


def _shape(a: Any) -> tuple[int, ...]:
    return a.shape if isinstance(a, Value) else np.shape(a)


def _along(a: Any, axis: int, start: int | None, stop: int | None) -> Any:
    whole: list[Any] = [slice(None)] * len(_shape(a))
    whole[axis] = slice(start, stop)
    return a[tuple(whole)]


def _line(a: Any, axis: int, ndim: int) -> Any:
    """Return a vector that lies along one of several axes; numbers and full arrays as they are."""
    return np.reshape(a, [-1 if place == axis else 1 for place in range(ndim)]) if len(_shape(a)) == 1 else a


# -- differences ---------------------------------------------------------------------------------------------------------------


@implements(np.diff)
def diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """Return the n-th differences of neighbours along an axis."""
    if n < 0:
        raise ArgumentError(f"diff: needed n of at least 0, got {n}; correct it", given=n)
    if n == 0:
        return a
    (place,) = normalize_axes("diff", axis, len(_shape(a)))
    ends = [item for item in (prepend, append) if item is not None]
    if ends:
        edge = tuple(1 if number == place else length for number, length in enumerate(_shape(a)))
        before, after = (
            [] if item is None else [np.broadcast_to(item, edge) if not _shape(item) else item] for item in (prepend, append)
        )
        a = np.concatenate([*before, a, *after], place)
    for _ in range(n):
        high, low = _along(a, place, 1, None), _along(a, place, None, -1)
        a = np.not_equal(high, low) if a.dtype == np.bool_ else np.subtract(high, low)
    return a


@implements(np.ediff1d)
def ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Any:
    """Return the differences of neighbours of the elements, flattened, with others before and after."""
    flat = np.ravel(ary)
    inner = np.subtract(flat[1:], flat[:-1])
    parts = [item if item is inner else np.ravel(item) for item in (to_begin, inner, to_end) if item is not None]
    return np.concatenate(parts) if len(parts) > 1 else inner


@implements(np.gradient)
def gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    """Return second-order central differences along axes, one-sided at the ends, as `numpy.gradient`.

    Args:
        f: the values, on a grid.
        varargs: the distances: none (1), one for all axes, or one for each: a number, or the coordinates.
        axis: the axes; by default all.
        edge_order: the order of the differences at the ends, 1 or 2.
    """
    if edge_order not in (1, 2):
        raise ArgumentError(f"gradient: needed edge_order 1 or 2, got {edge_order}; choose one", given=edge_order)
    values: Any = f if isinstance(f, Value) else np.asarray(f)
    if values.dtype.kind not in "fc":
        values = values.astype(np.float64)
    axes = (
        list(range(values.ndim))
        if axis is None
        else [normalize_axes("gradient", item, values.ndim)[0] for item in np.atleast_1d(axis)]
    )
    if len(varargs) not in (0, 1, len(axes)):
        given = len(varargs)
        raise ArgumentError(f"gradient: needed no distance, one, or one for each of {len(axes)} axes, got {given}", given=given)
    spacings = [1.0] * len(axes) if not varargs else [*varargs] * (len(axes) if len(varargs) == 1 else 1)
    results = tuple(_gradient(values, place, spacing, edge_order) for place, spacing in zip(axes, spacings, strict=True))
    return results[0] if len(axes) == 1 else results


def _gradient(f: Any, axis: int, spacing: Any, edge_order: int) -> Any:
    length = f.shape[axis]
    if length <= edge_order:
        text = f"gradient: needed more than {edge_order} elements along axis {axis}, got shape {list(f.shape)}; lower edge_order"
        raise ShapeError(text, given=f.shape)
    steps = _steps(spacing, axis, length)
    low, middle, high = _along(f, axis, None, -2), _along(f, axis, 1, -1), _along(f, axis, 2, None)
    if not _shape(steps):
        inner = (high - low) / (2.0 * steps)
    else:
        one, two = (_line(item, axis, f.ndim) for item in (steps[:-1], steps[1:]))
        inner = -two / (one * (one + two)) * low + (two - one) / (one * two) * middle + one / (two * (one + two)) * high
    ends = [_end(f, axis, steps, edge_order, is_first=is_first) for is_first in (True, False)]
    return np.concatenate([ends[0], inner, ends[1]], axis)


def _steps(spacing: Any, axis: int, length: int) -> Any:
    """Return the distance of neighbours: one number, or one for each pair."""
    if not _shape(spacing):
        return spacing
    if _shape(spacing) != (length,):
        text = f"gradient: needed a number or {length} coordinates for axis {axis}, got shape {list(_shape(spacing))}"
        raise ShapeError(text, given=_shape(spacing))
    steps = np.subtract(spacing[1:], spacing[:-1])
    return steps if isinstance(steps, Value) or (steps != steps[0]).any() else steps[0]


def _end(f: Any, axis: int, steps: Any, edge_order: int, *, is_first: bool) -> Any:
    """Return the one-sided difference at an end, counted from it."""
    if edge_order == 1:
        pair = _along(f, axis, 0, 2) if is_first else _along(f, axis, -2, None)
        return diff(pair, axis=axis) / (steps if not _shape(steps) else steps[0 if is_first else -1])
    length = f.shape[axis]
    points = [_along(f, axis, place, place + 1) for place in (range(3) if is_first else range(length - 1, length - 4, -1))]
    one, two = (steps, steps) if not _shape(steps) else (steps[0], steps[1]) if is_first else (steps[-1], steps[-2])
    sign = 1.0 if is_first else -1.0
    weights = -(2.0 * one + two) / (one * (one + two)), (one + two) / (one * two), -one / (two * (one + two))
    return sum(sign * weight * point for weight, point in zip(weights, points, strict=True))


@implements(np.unwrap)
def unwrap(p: Any, discont: Any = None, axis: int = -1, *, period: Any = 2 * np.pi) -> Any:
    """Return angles along an axis with jumps of more than half a period, or than `discont`, taken out by whole periods."""
    (place,) = normalize_axes("unwrap", axis, len(_shape(p)))
    jumps = diff(p, axis=place)
    half = period / 2
    wrapped = np.remainder(jumps + half, period) - half
    wrapped = np.where(np.logical_and(np.equal(wrapped, -half), np.greater(jumps, 0)), half, wrapped)
    limit = half if discont is None else discont
    corrections = np.where(np.less(np.abs(jumps), limit), 0.0, wrapped - jumps)
    first = _along(p, place, 0, 1)
    return np.concatenate([first, _along(p, place, 1, None) + np.cumsum(corrections, place)], place)


@implements(np.trapezoid)
def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    """Return the integral along an axis by the trapezoidal rule."""
    ndim = len(_shape(y))
    (place,) = normalize_axes("trapezoid", axis, ndim)
    width = dx if x is None else _line(diff(x, axis=0 if len(_shape(x)) == 1 else place), place, ndim)
    return np.sum(width * (_along(y, place, 1, None) + _along(y, place, None, -1)) / 2.0, place)


# -- polynomials ---------------------------------------------------------------------------------------------------------------


@implements(np.polyval)
def polyval(p: Any, x: Any) -> Any:
    """Return the polynomial of given coefficients, the highest power first, by Horner's rule."""
    result: Any = np.multiply(x, 0)
    for place in range(_shape(p)[0]):
        result = result * x + p[place]
    return result


@implements(np.polyder)
def polyder(p: Any, m: int = 1) -> Any:
    """Return the coefficients of the m-th derivative of a polynomial, the highest power first."""
    for _ in range(m):
        p = p[:-1] * np.arange(_shape(p)[0] - 1, 0, -1.0)
    return p


@implements(np.polyint)
def polyint(p: Any, m: int = 1, k: Any = None) -> Any:
    """Return the coefficients of the m-th integral of a polynomial, with constants of integration k, by default 0."""
    constants = (
        np.broadcast_to(0.0 if k is None else np.asarray(k, float), (m,)) if not isinstance(k, Value) else np.broadcast_to(k, (m,))
    )
    for place in range(m):
        p = np.concatenate([np.divide(p, np.arange(_shape(p)[0], 0, -1.0)), constants[place : place + 1]])
    return p


@implements(np.polymul)
def polymul(a1: Any, a2: Any) -> Any:
    """Return the coefficients of the product of two polynomials; leading zeros stay."""
    return np.convolve(a1, a2)


def _polynomials(a1: Any, a2: Any) -> list[Any]:
    length = max(_shape(a1)[0], _shape(a2)[0])
    return [np.pad(item, (length - _shape(item)[0], 0)) for item in (a1, a2)]


@implements(np.polyadd)
def polyadd(a1: Any, a2: Any) -> Any:
    """Return the coefficients of the sum of two polynomials."""
    one, other = _polynomials(a1, a2)
    return np.add(one, other)


@implements(np.polysub)
def polysub(a1: Any, a2: Any) -> Any:
    """Return the coefficients of the difference of two polynomials."""
    one, other = _polynomials(a1, a2)
    return np.subtract(one, other)


# -- windows -------------------------------------------------------------------------------------------------------------------


def _windows(x: Any, axis: int, size: int, stride: int, dilation: int) -> Any:
    """Return the windows along an axis: in its place their number, and behind it the elements of each."""
    length = _shape(x)[axis]
    count = (length - (size - 1) * dilation - 1) // stride + 1
    if count < 1 or size < 1:
        given = f"{size} (dilation {dilation})"
        raise ShapeError(f"windows: needed a window of 1 to {length} elements, got {given}; pad the array", given=size)
    places = np.arange(count)[:, None] * stride + np.arange(size) * dilation
    return np.take(x, places, axis)


@implements(np.lib.stride_tricks.sliding_window_view)
def sliding_window_view(x: Any, window_shape: Any, axis: Any = None, **kwargs: Any) -> Any:
    """Return all windows of a shape in an array, the axes of the windows last."""
    if any(kwargs.values()):
        raise ArgumentError(
            f"sliding_window_view: needed a view that is not written to, got {kwargs}; leave them out", given=kwargs
        )
    sizes = tuple(np.atleast_1d(window_shape).tolist())
    ndim = len(_shape(x))
    axes = tuple(range(ndim)) if axis is None else tuple(np.atleast_1d(axis).tolist())
    if len(sizes) != len(axes):
        given = f"{len(sizes)} and {len(axes)}"
        raise ShapeError(f"sliding_window_view: needed as many lengths as axes, got {given}; make them agree", given=given)
    for size, place in zip(sizes, axes, strict=True):
        number = place % ndim
        x = np.moveaxis(_windows(x, number, size, 1, 1), number + 1, -1)
    return x


def _each(item: Any, rank: int, what: str) -> tuple[Any, ...]:
    given = (item,) * rank if isinstance(item, (int, str)) else tuple(item)
    if len(given) != rank:
        raise ArgumentError(f"{what}: needed a number or {rank} of them, got {item}; correct it", given=item)
    return given


def _padded(x: Any, rank: int, padding: Any, sizes: Sequence[int], dilations: Sequence[int]) -> Any:
    widths = []
    for item, size, dilation in zip(_each(0 if padding == "valid" else padding, rank, "padding"), sizes, dilations, strict=True):
        span = (size - 1) * dilation
        if isinstance(item, str) and item != "same":
            raise ArgumentError(f"padding: needed 'valid', 'same' or widths, got {item!r}; choose one", given=item)
        widths.append((span // 2, span - span // 2) if item == "same" else (item, item) if isinstance(item, int) else tuple(item))
    return np.pad(x, [(0, 0)] * (len(_shape(x)) - rank) + widths)


def _convolve(x: Any, kernel: Any, rank: int, stride: Any, padding: Any, dilation: Any) -> Any:
    what = f"conv{rank}d"
    if len(_shape(kernel)) != rank + 2 or len(_shape(x)) < rank + 1 or _shape(x)[-rank - 1] != _shape(kernel)[1]:
        given = f"{list(_shape(x))} and {list(_shape(kernel))}"
        raise ShapeError(f"{what}: needed arrays [..., in, *space] and kernels [out, in, *window], got {given}", given=given)
    sizes = _shape(kernel)[2:]
    strides, dilations = _each(stride, rank, "stride"), _each(dilation, rank, "dilation")
    windows = _padded(x, rank, padding, sizes, dilations)
    first = len(_shape(windows)) - rank
    for number in reversed(range(rank)):
        windows = _windows(windows, first + number, sizes[number], strides[number], dilations[number])
    space, window = "uvw"[:rank], "xyz"[:rank]
    labels = "".join(one + other for one, other in zip(space, window, strict=True))
    return np.einsum(f"...c{labels},oc{window}->...o{space}", windows, kernel)


def conv1d(x: Any, kernel: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> Any:
    """Return the correlation of sequences with kernels, summed over input channels, as neural networks convolve.

    Args:
        x: [..., in, length].
        kernel: [out, in, size].
        stride: the distance of neighbouring windows.
        padding: zeros at both ends: a width, "valid" (none) or "same" (as many results as elements, at stride 1).
        dilation: the distance of neighbouring elements of a window.

    Returns:
        [..., out, windows].

    Example:
        >>> import numpy as np, gradwire.numpy as gnp
        >>> gnp.conv1d(np.array([[1.0, 2.0, 4.0, 8.0]]), np.array([[[-1.0, 1.0]]]))
        array([[1., 2., 4.]])
    """
    return _convolve(x, kernel, 1, stride, padding, dilation)


def conv2d(x: Any, kernel: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> Any:
    """Return the correlation of images with kernels, summed over input channels, as neural networks convolve.

    Args:
        x: [..., in, height, width].
        kernel: [out, in, rows, columns].
        stride: the distance of neighbouring windows: one number, or one for each axis.
        padding: zeros at all sides: a width, one for each axis, "valid" (none) or "same".
        dilation: the distance of neighbouring elements of a window.

    Returns:
        [..., out, windows down, windows across].
    """
    return _convolve(x, kernel, 2, stride, padding, dilation)


def _pool(x: Any, window: Any, stride: Any, reduce: Any) -> Any:
    sizes = (window,) if isinstance(window, int) else tuple(window)
    strides = _each(sizes if stride is None else stride, len(sizes), "stride")
    rank = len(sizes)
    first = len(_shape(x)) - rank
    for number in reversed(range(rank)):
        x = _windows(x, first + number, sizes[number], strides[number], 1)
    return reduce(x, tuple(first + 2 * number + 1 for number in range(rank)))


def max_pool(x: Any, window: Any, *, stride: Any = None) -> Any:
    """Return the maximum of each window over the last axes; elements that reach it share the derivative equally.

    Args:
        x: [..., *space].
        window: the lengths of a window, one for each axis of space; a number means one axis.
        stride: the distance of neighbouring windows; by default they do not overlap.

    Example:
        >>> import numpy as np, gradwire.numpy as gnp
        >>> gnp.max_pool(np.array([1.0, 5.0, 2.0, 3.0]), 2)
        array([5., 3.])
    """
    return _pool(x, window, stride, np.max)


def avg_pool(x: Any, window: Any, *, stride: Any = None) -> Any:
    """Return the mean of each window over the last axes; see `max_pool`."""
    return _pool(x, window, stride, np.mean)
