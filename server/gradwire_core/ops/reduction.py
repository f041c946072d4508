"""Reductions over axes: sum, product, maximum, minimum, all, any.

The primitives remove the axes they reduce; `keepdims` is a reshape. Where a maximum is reached several times, each place has an
equal share of the derivative.
"""

from __future__ import annotations

import builtins
import functools
import math
from typing import Any

import numpy as np

from gradwire_core.builder import implements
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
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
    normalize_axes,
    size_flops,
)
from gradwire_core.ops.elementwise import equal, isnan, logical_or, where
from gradwire_core.ops.shaping import broadcast_to, pad_with_zeros, reshape, slice_axes, stack, transpose
from gradwire_core.program import Primitive
from gradwire_core.types import Array, Dtype, Shape, TensorType

Integers = tuple[int, ...]
NO_VALUE = np._NoValue  # noqa: SLF001  # what NumPy passes for an argument left out


def _infer(
    x: TensorType, *, axes: Integers, where: str, result: Dtype | None = None, needs_elements: bool = False
) -> tuple[TensorType, ...]:
    if normalize_axes(where, axes, x.ndim) != axes:
        raise ShapeError(f"{where}: needed sorted non-negative axes of {x}, got {axes}; sort them", given=axes)
    if needs_elements and builtins.any(x.shape[axis] == 0 for axis in axes):
        raise ShapeError(f"{where}: needed at least one element along axes {axes}, got {x}; it has no value on nothing", given=x)
    shape = tuple(length for axis, length in enumerate(x.shape) if axis not in axes)
    return (TensorType(result or x.dtype, shape),)


def kept_shape(shape: Shape, axes: Integers) -> Shape:
    """Return a shape with the given axes of length 1."""
    return tuple(1 if axis in axes else length for axis, length in enumerate(shape))


def spread(y: Any, shape: Shape, axes: Integers) -> Any:
    """Return a reduction's result repeated along the axes it reduced."""
    return broadcast_to(reshape(y, kept_shape(shape, axes)), shape)


def _shifted(axes: Integers) -> Integers:
    return tuple(axis + 1 for axis in axes)


def _samples(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((draw(rng, 2, 3, 4),), {"axes": (0, 2)}),
        Sample((draw(rng, 5),), {"axes": (0,)}),
        Sample((draw(rng, 2, 3, dtype="float32"),), {"axes": (1,)}),
        Sample((draw(rng, 2),), {"axes": ()}),
    ]


# -- sum ---------------------------------------------------------------------------------------------------------------------


def _sum_kernel(x: Array, *, axes: Integers) -> Any:
    return np.add.reduce(x, axis=axes, dtype=x.dtype)


_sum: Primitive = declare(
    Primitive(
        name="sum",
        kernel=_sum_kernel,
        infer=functools.partial(_infer, where="sum"),
        derivative=by_position(Linear(lambda ct, x, *, axes: spread(ct, x.shape, axes))),
        batch=lambda batched, operands, params: call(_sum, operands[0], axes=_shifted(params["axes"])),
        arity=1,
        params=("axes",),
        doc="Sum of x over axes.",
        samples=_samples,
        flops=size_flops,
    )
)


@implements(np.sum)
def sum(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, **kwargs: Any) -> Any:
    """Return the sum of x over axes, by default all; a bool or int32 is summed as int64."""
    if dtype is None and x.dtype.kind in "bi":
        dtype = Dtype.INT64
    return _reduce(_sum, x if dtype is None else convert(x, dtype), axis, keepdims, out, kwargs)


def _reduce(primitive: Primitive, x: Any, axis: Any, keepdims: Any, out: Any, kwargs: dict[str, Any]) -> Any:
    extra = [key for key, value in kwargs.items() if value is not None and value is not NO_VALUE]
    if out is not None or extra:
        given = ", ".join(extra) or "out"
        raise ArgumentError(
            f"{primitive.name}: needed only axis, dtype and keepdims, got {given}; use np.where before it", given=given
        )
    axes = normalize_axes(primitive.name, axis, x.ndim)
    result = call(primitive, x, axes=axes)
    return reshape(result, kept_shape(x.shape, axes)) if keepdims is not NO_VALUE and keepdims else result


@implements(np.mean)
def mean(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, **kwargs: Any) -> Any:
    """Return the mean of x over axes, by default all: the sum over the number of elements; NaN of nothing."""
    count = math.prod(x.shape[item] for item in normalize_axes("mean", axis, x.ndim))
    if dtype is None and x.dtype.kind in "bi":
        dtype = Dtype.FLOAT64
    return sum(x, axis, dtype, out, keepdims, **kwargs) / float(count)


# -- product -----------------------------------------------------------------------------------------------------------------


def _product_of_others(x: Any) -> Any:
    """Return, for each element along the last axis, the product of all others: a tree, without division."""
    length = x.shape[-1]
    if length <= 1:
        return filled(1, x.type if hasattr(x, "type") else TensorType.of(x), x)
    if length % 2:
        padded = _append_one(x)
        return _last(_product_of_others(padded), 0, length, 1)
    left, right = _last(x, 0, length, 2), _last(x, 1, length, 2)
    others = _product_of_others(left * right)
    return reshape(stack([others * right, others * left], -1), x.shape)


def _append_one(x: Any) -> Any:
    """Return x with a 1 appended along the last axis."""
    zeros = (0,) * x.ndim
    high = (*zeros[:-1], 1)
    hot = pad_with_zeros(constant(x, np.ones((1,), x.dtype)), (x.shape[-1],), (0,), (0,))
    return pad_with_zeros(x, zeros, high, zeros) + hot


def _last(x: Any, start: int, stop: int, step: int) -> Any:
    lead = x.ndim - 1
    return slice_axes(x, (*(0,) * lead, start), (*x.shape[:-1], stop), (*(1,) * lead, step))


def _product_tangent(t: Any, y: Any, x: Any, *, axes: Integers) -> Any:
    kept = tuple(axis for axis in range(x.ndim) if axis not in axes)
    order = (*kept, *axes)
    moved = transpose(x, order)
    flat = reshape(moved, (*(x.shape[axis] for axis in kept), math.prod(x.shape[axis] for axis in axes)))
    others = reshape(_product_of_others(flat), moved.shape)
    return call(_sum, t * transpose(others, tuple(int(axis) for axis in np.argsort(order))), axes=axes)


_prod: Primitive = declare(
    Primitive(
        name="prod",
        kernel=lambda x, *, axes: np.multiply.reduce(x, axis=axes, dtype=x.dtype),
        infer=functools.partial(_infer, where="prod"),
        derivative=by_position(Tangent(_product_tangent)),
        batch=lambda batched, operands, params: call(_prod, operands[0], axes=_shifted(params["axes"])),
        arity=1,
        params=("axes",),
        doc="Product of x over axes; the derivative is the product of the other elements, exact where some are 0.",
        samples=_samples,
        flops=size_flops,
    )
)


@implements(np.prod)
def prod(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, **kwargs: Any) -> Any:
    """Return the product of x over axes, by default all; a bool or int32 is multiplied as int64."""
    if dtype is None and x.dtype.kind in "bi":
        dtype = Dtype.INT64
    return _reduce(_prod, x if dtype is None else convert(x, dtype), axis, keepdims, out, kwargs)


# -- maximum and minimum -----------------------------------------------------------------------------------------------------


def _extreme_tangent(t: Any, y: Any, x: Any, *, axes: Integers) -> Any:
    extreme = spread(y, x.shape, axes)
    reached = equal(x, extreme)
    numbers = convert(reached, Dtype.of(x.dtype))
    share = numbers / spread(call(_sum, numbers, axes=axes), x.shape, axes)
    # The share alone would not do: the partials of what is not taken may be inf.
    return call(_sum, where(logical_or(reached, isnan(extreme)), t * share, 0.0), axes=axes)


def _extreme(ufunc: np.ufunc, name: str, text: str) -> Primitive:
    primitive = declare(
        Primitive(
            name=name,
            kernel=lambda x, *, axes: ufunc.reduce(x, axis=axes),
            infer=functools.partial(_infer, where=name, needs_elements=True),
            derivative=by_position(Tangent(_extreme_tangent)),
            batch=lambda batched, operands, params: call(primitive, operands[0], axes=_shifted(params["axes"])),
            arity=1,
            params=("axes",),
            doc=f"{text} of x over axes, NaN if an element is; places that reach it share the derivative equally.",
            samples=_samples,
            flops=size_flops,
        )
    )
    return primitive


_max = _extreme(np.maximum, "max", "Maximum")
_min = _extreme(np.minimum, "min", "Minimum")


@implements(np.max)
def max(x: Any, axis: Any = None, out: Any = None, keepdims: bool = False, **kwargs: Any) -> Any:
    """Return the maximum of x over axes, by default all."""
    return _reduce(_max, x, axis, keepdims, out, kwargs)


@implements(np.min)
def min(x: Any, axis: Any = None, out: Any = None, keepdims: bool = False, **kwargs: Any) -> Any:
    """Return the minimum of x over axes, by default all."""
    return _reduce(_min, x, axis, keepdims, out, kwargs)


# -- all and any -------------------------------------------------------------------------------------------------------------


def _infer_logic(x: TensorType, *, axes: Integers, where: str) -> tuple[TensorType, ...]:
    if x.dtype is not Dtype.BOOL:
        raise DtypeError(f"{where}: needed a bool operand, got {x}; compare it first", given=x)
    return _infer(x, axes=axes, where=where)


def _logic(ufunc: np.ufunc, name: str, text: str) -> Primitive:
    primitive = declare(
        Primitive(
            name=name,
            kernel=lambda x, *, axes: ufunc.reduce(x, axis=axes),
            infer=functools.partial(_infer_logic, where=name),
            derivative=by_position(Constant()),
            batch=lambda batched, operands, params: call(primitive, operands[0], axes=_shifted(params["axes"])),
            arity=1,
            params=("axes",),
            doc=f"Whether {text} element of x over axes holds.",
            samples=lambda rng: [Sample((draw(rng, 2, 3, dtype="bool"),), {"axes": (1,)})],
            flops=size_flops,
        )
    )
    return primitive


_all = _logic(np.logical_and, "all", "every")
_any = _logic(np.logical_or, "any", "any")


@implements(np.all)
def all(x: Any, axis: Any = None, out: Any = None, keepdims: bool = False, **kwargs: Any) -> Any:
    """Return whether every element of x over axes is true."""
    return _reduce(_all, convert(x, Dtype.BOOL), axis, keepdims, out, kwargs)


@implements(np.any)
def any(x: Any, axis: Any = None, out: Any = None, keepdims: bool = False, **kwargs: Any) -> Any:
    """Return whether any element of x over axes is true."""
    return _reduce(_any, convert(x, Dtype.BOOL), axis, keepdims, out, kwargs)
