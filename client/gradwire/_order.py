"""NumPy's functions of the order of elements, and of tables, written over sorting, search and gathering.

`gradwire.numpy` imports this, which registers each under NumPy's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import Value, implements
from gradwire_core.errors import ArgumentError, ShapeError
from gradwire_core.ops._declare import normalize_axes
from gradwire_core.ops.elementwise import where
from gradwire_core.ops.indexing import take

Axis = int | tuple[int, ...] | None


def _shape(a: Any) -> tuple[int, ...]:
    return a.shape if isinstance(a, Value) else np.shape(a)


# -- quantiles -----------------------------------------------------------------------------------------------------------------


def _sorted_lines(where_: str, a: Any, axis: Axis) -> tuple[Any, tuple[int, ...]]:
    """Return the elements to reduce sorted along one last axis, and the shape of a result that keeps the reduced axes."""
    axes = normalize_axes(where_, axis, a.ndim)
    rest = [item for item in range(a.ndim) if item not in axes]
    lines = np.reshape(
        np.transpose(a, (*rest, *axes)), (*[a.shape[item] for item in rest], math.prod(a.shape[item] for item in axes))
    )
    if lines.shape[-1] == 0:
        raise ShapeError(f"{where_}: needed at least one element along axis {axis}, got shape {list(a.shape)}", given=a.shape)
    if a.dtype.kind not in "fc":
        lines = lines.astype(np.float64)
    return np.sort(lines, -1), tuple(1 if item in axes else length for item, length in enumerate(a.shape))


def _or_nan(result: Any, lines: Any) -> Any:
    """Return a result, NaN where an element is; these are sorted last."""
    last = lines[..., -1]
    return where(np.isnan(last), last, result)


@implements(np.median)
def median(a: Any, axis: Axis = None, out: Any = None, overwrite_input: bool = False, keepdims: bool = False) -> Any:  # noqa: ARG001
    """Return the middle element in order over axes, or the mean of the two in the middle; NaN if an element is."""
    _check_out("median", out)
    lines, kept = _sorted_lines("median", a, axis)
    middle, odd = divmod(lines.shape[-1], 2)
    found = lines[..., middle] if odd else (lines[..., middle - 1] + lines[..., middle]) / 2
    result = _or_nan(found, lines)
    return np.reshape(result, kept) if keepdims else result


# Of a continuous method, the parameters alpha and beta: the quantile q stands at n q + alpha + q (1 - alpha - beta) - 1.
CONTINUOUS: dict[str, tuple[float, float]] = {
    "linear": (1, 1),
    "hazen": (0.5, 0.5),
    "weibull": (0, 0),
    "median_unbiased": (1 / 3, 1 / 3),
    "normal_unbiased": (3 / 8, 3 / 8),
    "interpolated_inverted_cdf": (0, 1),
}
DISCRETE: dict[str, Callable[[Any], Any]] = {
    "lower": np.floor,
    "higher": np.ceil,
    "nearest": np.rint,
    "midpoint": lambda place: 0.5 * (np.floor(place) + np.ceil(place)),
}


@implements(np.quantile)
def quantile(
    a: Any,
    q: Any,
    axis: Axis = None,
    out: Any = None,
    overwrite_input: bool = False,  # noqa: ARG001  # NumPy's signature
    method: str = "linear",
    keepdims: bool = False,
    **kwargs: Any,
) -> Any:
    """Return the quantiles of the elements over axes, interpolated between neighbours in order; NaN if an element is.

    Args:
        a: the elements.
        q: numbers from 0 to 1; traced ones too, for the method "linear".
        axis: the axes; by default all.
        out: not supported.
        overwrite_input: has no effect.
        method: one of `CONTINUOUS` or `DISCRETE`, as NumPy names them.
        keepdims: whether these axes stay, of length 1.
        **kwargs: weights and interpolation are not supported.
    """
    _check_out("quantile", out)
    if any(item is not None for item in kwargs.values()):
        text = f"quantile: needed neither weights nor interpolation, got {', '.join(kwargs)}; use method, or sort and weigh"
        raise ArgumentError(text, given=kwargs)
    if method not in CONTINUOUS and method not in DISCRETE:
        names = ", ".join([*CONTINUOUS, *DISCRETE])
        raise ArgumentError(f"quantile: needed a method of {names}, got {method!r}; choose one", given=method)
    if not isinstance(a, Value):
        a = np.asarray(a)
    lines, kept = _sorted_lines("quantile", a, axis)
    below, above, share = _traced_places(q, lines, method) if isinstance(q, Value) else _places(q, lines, method)
    count = len(_shape(q))
    rank = lines.ndim - 1
    low, high = (np.moveaxis(take(lines, item, -1), range(rank, rank + count), range(count)) for item in (below, above))
    weight = np.reshape(share, (*_shape(q), *(1,) * rank))
    gap = high - low
    result = _or_nan(where(np.less(weight, 0.5), low + gap * weight, high - gap * (1 - weight)), lines)
    return np.reshape(result, (*_shape(q), *kept)) if keepdims else result


def _places(q: Any, lines: Any, method: str) -> tuple[Any, Any, Any]:
    """Return the places below and above each quantile, and how far it is from the one below, from 0 to 1."""
    is_number = isinstance(q, (int, float))
    levels = np.asarray(q, lines.dtype if is_number else None)
    if np.any((levels < 0) | (levels > 1) | np.isnan(levels)):
        raise ArgumentError(f"quantile: needed levels from 0 to 1, got {q}; correct them", given=q)
    count = lines.shape[-1]
    alpha, beta = CONTINUOUS.get(method, (1, 1))
    place = np.clip(count * levels + (alpha + levels * (1 - alpha - beta)) - 1, 0, count - 1)
    if method in ("linear", *DISCRETE):
        place = (count - 1) * levels
    place = DISCRETE[method](place) if method in DISCRETE else place
    below = np.floor(place)
    share = (place - below).astype(np.result_type(lines.dtype, levels.dtype))
    return below.astype(np.int64), np.minimum(below + 1, count - 1).astype(np.int64), share


def _traced_places(q: Any, lines: Any, method: str) -> tuple[Any, Any, Any]:
    if method != "linear":
        raise ArgumentError(f"quantile: needed method 'linear' for a traced q, got {method!r}; use that", given=method)
    last = lines.shape[-1] - 1
    place = q * float(last)
    below = np.floor(place)
    whole = below.astype(np.int64)
    return whole, np.minimum(whole + 1, last), place - below


@implements(np.percentile)
def percentile(
    a: Any,
    q: Any,
    axis: Axis = None,
    out: Any = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: bool = False,
    **kwargs: Any,
) -> Any:
    """Return the quantiles at q / 100; see `quantile`."""
    levels = q / 100 if isinstance(q, (int, float)) else np.true_divide(q, 100)
    return quantile(a, levels, axis, out, overwrite_input, method, keepdims, **kwargs)


def _check_out(where_: str, out: Any) -> None:
    if out is not None:
        raise ArgumentError(f"{where_}: needed no out, got one; use the result")


@implements(np.ptp)
def ptp(a: Any, axis: Axis = None, out: Any = None, keepdims: bool = False) -> Any:
    """Return the maximum less the minimum over axes."""
    _check_out("ptp", out)
    return np.max(a, axis, keepdims=bool(keepdims)) - np.min(a, axis, keepdims=bool(keepdims))


def top_k(a: Any, k: int, axis: int = -1) -> tuple[Any, Any]:
    """Return the k largest elements along an axis, the largest first, and their indices; of equal ones the first is first.

    NaN is the largest, as NumPy sorts.

    Example:
        >>> import numpy as np, gradwire.numpy as gnp
        >>> values, indices = gnp.top_k(np.array([3.0, 1.0, 4.0, 1.5]), 2)
        >>> values, indices
        (array([4., 3.]), array([2, 0]))
    """
    array = a if isinstance(a, Value) else np.asarray(a)
    (place,) = normalize_axes("top_k", axis, array.ndim)
    length = array.shape[place]
    if not 0 <= k <= length:
        raise ArgumentError(f"top_k: needed k from 0 to {length}, got {k}; correct it", given=k)
    whole: list[Any] = [slice(None)] * array.ndim
    whole[place] = slice(length - k, None)
    # Reversed twice: the stable sort then keeps the order of equal elements.
    ascending = length - 1 - np.argsort(np.flip(array, place), place, kind="stable")
    indices = np.flip(ascending[tuple(whole)], place)
    return np.take_along_axis(array, indices, place), indices


# -- choices -------------------------------------------------------------------------------------------------------------------


@implements(np.select)
def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Any:
    """Return, for each element, that of the first choice whose condition holds, else the default."""
    if len(condlist) != len(choicelist) or not condlist:
        given = f"{len(condlist)} and {len(choicelist)}"
        raise ArgumentError(
            f"select: needed as many conditions as choices, at least one, got {given}; make them agree", given=given
        )
    result = default
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        result = where(condition, choice, result)
    return result


@implements(np.choose)
def choose(a: Any, choices: Any, out: Any = None, mode: str = "raise") -> Any:
    """Return, for each element, that of the choice its integer names."""
    _check_out("choose", out)
    count = len(choices)
    if mode not in ("raise", "wrap", "clip"):
        raise ArgumentError(f"choose: needed mode 'raise', 'wrap' or 'clip', got {mode!r}; choose one", given=mode)
    numbers = a if isinstance(a, Value) else np.asarray(a)
    if mode == "wrap":
        numbers = np.remainder(numbers, count)
    elif mode == "clip":
        numbers = np.minimum(np.maximum(numbers, 0), count - 1)
    else:
        # Here -1 is not the last choice, but out of range.
        numbers = where(np.less(numbers, 0), count, numbers)
    common = np.broadcast_shapes(_shape(numbers), *map(_shape, choices))
    table = np.stack([np.broadcast_to(item, common) for item in choices])
    return np.take_along_axis(table, np.broadcast_to(numbers, common)[None], 0)[0]


@implements(np.count_nonzero)
def count_nonzero(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """Return the number of elements over axes that are not 0."""
    return np.sum(np.not_equal(a, 0), axis, keepdims=keepdims)


# -- interpolation in a table --------------------------------------------------------------------------------------------------


@implements(np.interp)
def interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Any:
    """Return the piecewise linear function through points, as `numpy.interp`.

    At a point the derivative in x is that of the piece to its right, at the last point that to its left; outside it is 0.

    Args:
        x: where to evaluate.
        xp: the abscissas of the points, increasing; of a periodic function in any order.
        fp: their ordinates.
        left: the value below the first point; by default its ordinate.
        right: the value above the last point; by default its ordinate.
        period: the period in x; then `left` and `right` have no effect.
    """
    if len(_shape(xp)) != 1 or _shape(xp) != _shape(fp) or not _shape(xp)[0]:
        given = f"{list(_shape(xp))} and {list(_shape(fp))}"
        raise ShapeError(f"interp: needed points along one axis, as many abscissas as ordinates, got shapes {given}", given=given)
    if period is not None:
        x, xp = np.remainder(x, period), np.remainder(xp, period)
        order = np.argsort(xp, kind="stable")
        xp, fp = take(xp, order), take(fp, order)
        xp = np.concatenate([xp[-1:] - period, xp, xp[:1] + period])
        fp = np.concatenate([fp[-1:], fp, fp[:1]])
        left = right = None
    last = _shape(xp)[0] - 1
    first_value, last_value = fp[0] if left is None else left, fp[last] if right is None else right
    if last == 0:
        inside = np.broadcast_to(fp[0], _shape(x))
    else:
        place = np.minimum(np.maximum(np.searchsorted(xp, x, side="right") - 1, 0), last - 1)
        start, end = take(xp, place), take(xp, place + 1)
        low, high = take(fp, place), take(fp, place + 1)
        slope = (high - low) / where(np.equal(start, end), 1.0, end - start)
        inside = where(np.equal(x, xp[last]), high - slope * (end - x), low + slope * (x - start))
    return where(np.less(x, xp[0]), first_value, where(np.greater(x, xp[last]), last_value, inside))


@implements(np.lexsort)
def lexsort(keys: Any, axis: int = -1) -> Any:
    """Return the indices that sort by several keys, the last first."""
    rows = [keys[place] for place in range(_shape(keys)[0])] if not isinstance(keys, (list, tuple)) else list(keys)
    if not rows:
        raise ArgumentError("lexsort: needed at least one key, got none; pass some")
    order = np.argsort(rows[0], axis, kind="stable")
    for key in rows[1:]:
        order = np.take_along_axis(order, np.argsort(np.take_along_axis(key, order, axis), axis, kind="stable"), axis)
    return order


def _nan_place(function: Callable[..., Any], number: float, name: str) -> Callable[..., Any]:
    def find(a: Any, axis: int | None = None, out: Any = None, *, keepdims: Any = False) -> Any:
        return function(where(np.isnan(a), number, a), axis, out, keepdims=keepdims)

    find.__name__ = name
    find.__doc__ = f"Call `numpy.{function.__name__}` with {number} in place of NaN."
    return find


nanargmax = implements(np.nanargmax)(_nan_place(np.argmax, -np.inf, "nanargmax"))
nanargmin = implements(np.nanargmin)(_nan_place(np.argmin, np.inf, "nanargmin"))
