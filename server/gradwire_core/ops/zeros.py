"""Arrays that declare where they are zero, so that structure may be built on it: sparse derivatives, triangular blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, Value, implements
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.ops._declare import Constant, Sample, Tangent, by_position, call, constant, declare, draw, size_flops
from gradwire_core.ops.elementwise import where
from gradwire_core.ops.shaping import broadcast_to, reshape
from gradwire_core.program import Literal, Primitive
from gradwire_core.types import Array, Dtype, Shape, TensorType

FEWEST_ELEMENTS = 16
LEAST_SHARE = 0.25  # of zeros among the elements of an array that declares them by itself: somewhat less than a triangle has


def _zeros_outside(x: Array, mask: Array) -> Array:
    outside = np.asarray(x != 0)
    np.greater(outside, mask, out=outside)
    if outside.any():
        place = tuple([int(item) for item in np.argwhere(outside)[0]])
        text = f"zeros_outside: needed 0 at {list(place)}, where the mask is false, got {x[place]}; correct the array or the mask"
        raise ArgumentError(text)
    return x


def _infer(x: TensorType, mask: TensorType) -> tuple[TensorType, ...]:
    given = f"{x} and {mask}"
    if mask.dtype is not Dtype.BOOL:
        raise DtypeError(f"zeros_outside: needed a bool mask, got {given}; compare it first", given=given)
    if mask.shape != x.shape[max(0, x.ndim - mask.ndim) :]:
        raise ShapeError(f"zeros_outside: needed a mask of the last axes of the array, got {given}; broadcast it", given=given)
    return (x,)


def _batch(batched: Sequence[bool], operands: Sequence[Any], params: Any) -> Any:
    x, mask = operands
    if batched[1]:
        count, *lengths = mask.shape
        shape: Shape = x.shape if batched[0] else (count, *x.shape)
        mask = broadcast_to(reshape(mask, (count, *(1,) * (len(shape) - 1 - len(lengths)), *lengths)), shape)
        x = broadcast_to(x, shape)
    return call(_primitive, x, mask)


_primitive: Primitive = declare(
    Primitive(
        name="zeros_outside",
        kernel=_zeros_outside,
        infer=_infer,
        derivative=by_position(Tangent(lambda t, y, x, mask: where(mask, t, 0.0)), Constant()),
        batch=_batch,
        arity=2,
        params=(),
        doc="x, declared to be 0 where the mask, of its last axes, is false; an error of the call where it is not.",
        samples=lambda rng: [
            Sample((draw(rng, 2, 3), np.ones((2, 3), np.bool_))),
            Sample((draw(rng, 2, 3), np.ones(3, np.bool_))),
            Sample((draw(rng, 4, dtype="float32"), np.ones((), np.bool_))),
        ],
        flops=lambda x, mask: size_flops(x),
    )
)


def zeros_outside(x: Any, mask: Any) -> Any:
    """Return x, declared to be 0 wherever a mask is false: derivatives and determinants are built on that pattern.

    The mask belongs to the program; the numbers of x are checked against it at each call. Tangents of x are masked as well:
    x varies only where it may differ from 0. Arrays a function captures declare many exact zeros by themselves.

    Args:
        x: an array, traced or not.
        mask: booleans that broadcast to the shape of x, known while tracing.

    Returns:
        x.

    Raises:
        ArgumentError: x is not 0 where the mask is false, or the mask is a traced array. For a traced x, the call of the
            traced function raises.
        DtypeError: the mask is not of bools.
        ShapeError: the mask does not broadcast to the shape of x.

    Example:
        >>> import numpy as np, gradwire as gw
        >>> lower = np.tri(3, dtype=bool)
        >>> f = lambda w, x: gw.zeros_outside(w, lower) @ x
        >>> gw.jacobian(f, argnums=1)(np.tri(3), np.ones(3))
        array([[1., 0., 0.],
               [1., 1., 0.],
               [1., 1., 1.]])
    """
    if isinstance(mask, Value):
        if not isinstance(mask.operand, Literal):
            raise ArgumentError(f"zeros_outside: needed a mask known while tracing, got a traced {mask.type}; pass an array")
        mask = mask.operand.value
    mask, x = np.asarray(mask), x if isinstance(x, Value) else np.asarray(x)
    try:
        fitted = np.broadcast_to(mask, x.shape)
    except ValueError:
        given = f"{list(mask.shape)} for {list(x.shape)}"
        text = f"zeros_outside: needed a mask that broadcasts to the array, got shape {given}; reshape it"
        raise ShapeError(text, given=given) from None
    return call(_primitive, x, constant(x, fitted))


@implements(Builder.lift)
def _declare_zeros(x: Value, array: Array) -> Value:
    """Return a captured array with its zeros declared, if it has many."""
    if array.size < FEWEST_ELEMENTS or array.dtype.kind not in "fc":
        return x
    mask = array != 0
    if np.count_nonzero(mask) > (1 - LEAST_SHARE) * array.size:
        return x
    declared: Value = call(_primitive, x, x.builder.structure(mask))
    return declared
