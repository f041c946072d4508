"""NumPy's statistics beyond mean and variance: averages, covariances, comparisons of arrays, and reductions that leave NaN out.

`gradwire.numpy` imports this, which registers each under NumPy's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gradwire_core.builder import Value, implements
from gradwire_core.errors import ArgumentError, ShapeError
from gradwire_core.ops._declare import normalize_axes
from gradwire_core.ops.elementwise import where

Axis = int | tuple[int, ...] | None


def _shape(a: Any) -> tuple[int, ...]:
    return a.shape if isinstance(a, Value) else np.shape(a)


# -- other names ---------------------------------------------------------------------------------------------------------------


@implements(np.amax)
def amax(a: Any, axis: Axis = None, out: Any = None, keepdims: bool = False) -> Any:
    """Return the maximum over axes."""
    return np.max(a, axis, out, keepdims)


@implements(np.amin)
def amin(a: Any, axis: Axis = None, out: Any = None, keepdims: bool = False) -> Any:
    """Return the minimum over axes."""
    return np.min(a, axis, out, keepdims)


@implements(np.around)
def around(a: Any, decimals: int = 0, out: Any = None) -> Any:
    """Return the elements rounded to a number of decimals."""
    return np.round(a, decimals, out)


# -- averages and covariances --------------------------------------------------------------------------------------------------


@implements(np.average)
def average(a: Any, axis: Axis = None, weights: Any = None, returned: bool = False, *, keepdims: bool = False) -> Any:
    """Return the weighted mean over axes; with `returned`, also the sum of the weights."""
    if weights is None:
        mean = np.mean(a, axis, keepdims=keepdims)
        return (mean, np.full_like(mean, math.prod(_shape(a)) / max(math.prod(_shape(mean)), 1))) if returned else mean
    if _shape(weights) != _shape(a):
        axes = normalize_axes("average", axis, len(_shape(a)))
        if axis is None or _shape(weights) != tuple(_shape(a)[item] for item in np.atleast_1d(axis)):
            given = f"{list(_shape(weights))} for {list(_shape(a))}"
            raise ShapeError(f"average: needed weights of the shape of the array, or of the axes named, got {given}", given=given)
        order = np.argsort(np.argsort([item % len(_shape(a)) for item in np.atleast_1d(axis)]))
        turned = np.transpose(weights, np.argsort(order)) if len(order) > 1 else weights
        weights = np.reshape(turned, [length if place in axes else 1 for place, length in enumerate(_shape(a))])
        weights = np.broadcast_to(weights, _shape(a))
    total = np.sum(weights, axis, keepdims=keepdims)
    mean = np.sum(np.multiply(a, weights), axis, keepdims=keepdims) / total
    return (mean, np.broadcast_to(total, _shape(mean))) if returned else mean


@implements(np.cov)
def cov(
    m: Any,
    y: Any = None,
    rowvar: bool = True,
    bias: bool = False,
    ddof: int | None = None,
    fweights: Any = None,
    aweights: Any = None,
    **kwargs: Any,
) -> Any:
    """Return the covariance matrix of variables, the rows of m (and of y)."""
    if fweights is not None or aweights is not None or any(item is not None for item in kwargs.values()):
        raise ArgumentError("cov: needed neither weights nor a dtype, got one; weigh the observations before")
    rows = [_variables(item, rowvar) for item in (m, y) if item is not None]
    x = np.concatenate(rows, 0) if len(rows) > 1 else rows[0]
    count = _shape(x)[1] - ((0 if bias else 1) if ddof is None else ddof)
    centered = x - np.mean(x, 1, keepdims=True)
    found = np.matmul(centered, np.conjugate(np.transpose(centered))) / max(count, 0)
    return np.squeeze(found)


def _variables(m: Any, rowvar: bool) -> Any:
    ndim = len(_shape(m))
    if ndim > 2:
        raise ShapeError(f"cov: needed at most 2 axes, got shape {list(_shape(m))}; reshape it", given=_shape(m))
    matrix = np.reshape(m, (1, -1)) if ndim < 2 else m
    return np.transpose(matrix) if not rowvar and ndim == 2 and _shape(matrix)[0] != 1 else matrix


@implements(np.corrcoef)
def corrcoef(x: Any, y: Any = None, rowvar: bool = True, **kwargs: Any) -> Any:
    """Return the matrix of correlation coefficients of variables, the rows of x (and of y)."""
    if any(item is not None for item in kwargs.values()):
        raise ArgumentError(f"corrcoef: needed x, y and rowvar, got {', '.join(kwargs)}; leave them out", given=kwargs)
    found = cov(x, y, rowvar)
    if not _shape(found):
        return found / found
    deviation = np.sqrt(np.real(np.diagonal(found)))
    return found / deviation[:, None] / deviation[None, :]


# -- comparisons ---------------------------------------------------------------------------------------------------------------


@implements(np.isclose)
def isclose(a: Any, b: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False) -> Any:
    """Return where two arrays are equal within tolerances."""
    near = np.logical_and(np.less_equal(np.abs(np.subtract(a, b)), atol + rtol * np.abs(b)), np.isfinite(b))
    close = np.logical_or(near, np.equal(a, b))
    return np.logical_or(close, np.logical_and(np.isnan(a), np.isnan(b))) if equal_nan else close


@implements(np.allclose)
def allclose(a: Any, b: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False) -> Any:
    """Return whether two arrays are equal within tolerances."""
    return np.all(isclose(a, b, rtol, atol, equal_nan))


@implements(np.array_equal)
def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> Any:
    """Return whether two arrays have one shape and equal elements."""
    if _shape(a1) != _shape(a2):
        return False
    same = np.equal(a1, a2)
    return np.all(np.logical_or(same, np.logical_and(np.isnan(a1), np.isnan(a2))) if equal_nan else same)


@implements(np.array_equiv)
def array_equiv(a1: Any, a2: Any) -> Any:
    """Return whether two arrays broadcast to equal ones."""
    try:
        np.broadcast_shapes(_shape(a1), _shape(a2))
    except ValueError:
        return False
    return np.all(np.equal(a1, a2))


@implements(np.isin)
def isin(element: Any, test_elements: Any, assume_unique: bool = False, invert: bool = False, *, kind: Any = None) -> Any:  # noqa: ARG001
    """Return where elements are among others."""
    found = np.any(np.equal(np.reshape(element, (*_shape(element), 1)), np.ravel(test_elements)), -1)
    return np.logical_not(found) if invert else found


# -- reductions that leave NaN out ---------------------------------------------------------------------------------------------


def _missing(a: Any) -> Any:
    return np.isnan(a)


def _replacing(function: Callable[..., Any], number: float, name: str) -> Callable[..., Any]:
    def reduce(a: Any, axis: Any = None, *args: Any, **kwargs: Any) -> Any:
        return function(where(_missing(a), number, a) if a.dtype.kind in "fc" else a, axis, *args, **kwargs)

    reduce.__name__ = name
    reduce.__doc__ = f"Call `numpy.{function.__name__}` with {number} in place of NaN."
    return reduce


nansum = implements(np.nansum)(_replacing(np.sum, 0.0, "nansum"))
nanprod = implements(np.nanprod)(_replacing(np.prod, 1.0, "nanprod"))
nancumsum = implements(np.nancumsum)(_replacing(np.cumsum, 0.0, "nancumsum"))
nancumprod = implements(np.nancumprod)(_replacing(np.cumprod, 1.0, "nancumprod"))


def _extreme(function: Callable[..., Any], number: float, name: str) -> Callable[..., Any]:
    def reduce(a: Any, axis: Axis = None, out: Any = None, keepdims: Any = False) -> Any:
        if a.dtype.kind != "f":
            return function(a, axis, out, keepdims is True)
        found = function(where(_missing(a), number, a), axis, out, keepdims is True)
        return where(np.all(_missing(a), axis, keepdims=keepdims is True), np.nan, found)

    reduce.__name__ = name
    reduce.__doc__ = f"Call `numpy.{function.__name__}` on the elements that are not NaN; NaN where there are none."
    return reduce


nanmax = implements(np.nanmax)(_extreme(np.max, -np.inf, "nanmax"))
nanmin = implements(np.nanmin)(_extreme(np.min, np.inf, "nanmin"))


@implements(np.nanmean)
def nanmean(a: Any, axis: Axis = None, dtype: Any = None, out: Any = None, keepdims: Any = False, **kwargs: Any) -> Any:
    """Return the mean of the elements that are not NaN; NaN where there are none."""
    if out is not None or any(item is not None for item in kwargs.values()):
        raise ArgumentError("nanmean: needed a, axis, dtype and keepdims, got more; leave it out")
    present = np.logical_not(_missing(a))
    count = np.sum(present, axis, keepdims=keepdims is True)
    total = np.sum(where(present, a, 0.0), axis, dtype, keepdims=keepdims is True)
    return total / count.astype(total.dtype)


@implements(np.nanvar)
def nanvar(
    a: Any, axis: Axis = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: Any = False, **kwargs: Any
) -> Any:
    """Return the variance of the elements that are not NaN; NaN where there are no more than `ddof`."""
    if out is not None or any(item is not None for item in kwargs.values()):
        raise ArgumentError("nanvar: needed a, axis, dtype, ddof and keepdims, got more; leave it out")
    present = np.logical_not(_missing(a))
    centered = where(present, a - nanmean(a, axis, dtype, keepdims=True), 0.0)
    count = np.sum(present, axis, keepdims=keepdims is True).astype(centered.dtype) - float(ddof)
    total = np.sum(np.square(centered), axis, keepdims=keepdims is True)
    return total / where(np.less_equal(count, 0), np.nan, count)


@implements(np.nanstd)
def nanstd(
    a: Any, axis: Axis = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: Any = False, **kwargs: Any
) -> Any:
    """Return the standard deviation of the elements that are not NaN; its derivative where they are equal is 0."""
    variance = nanvar(a, axis, dtype, out, ddof, keepdims, **kwargs)
    is_zero = np.equal(variance, 0)
    return where(is_zero, 0.0, np.sqrt(where(is_zero, 1.0, variance)))
