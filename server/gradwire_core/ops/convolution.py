"""Convolution along the last axis: one bilinear primitive, and NumPy's `convolve` and `correlate` over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import implements
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.ops._declare import Linear, Sample, by_position, call, declare, draw
from gradwire_core.ops.cumulative import part
from gradwire_core.ops.shaping import broadcast_to, flip, promote
from gradwire_core.program import Primitive
from gradwire_core.types import Array, Dtype, TensorType

MODES = ("full", "same", "valid")


def _convolve(x: Array, y: Array) -> Array:
    if x.ndim == 1:
        return np.convolve(x, y)
    if x.shape[-1] < y.shape[-1]:
        x, y = y, x
    length = x.shape[-1]
    out = np.zeros((*x.shape[:-1], length + y.shape[-1] - 1), x.dtype)
    for place in range(y.shape[-1]):
        out[..., place : place + length] += x * y[..., place : place + 1]
    return out


def _infer(x: TensorType, y: TensorType) -> tuple[TensorType, ...]:
    given = f"{x} and {y}"
    if x.dtype is not y.dtype or x.dtype is Dtype.BOOL:
        raise DtypeError(f"convolve: needed two operands of one dtype, not bool, got {given}; convert them", given=given)
    if x.ndim < 1 or x.ndim != y.ndim or x.shape[:-1] != y.shape[:-1]:
        raise ShapeError(
            f"convolve: needed operands that differ in their last axis alone, got {given}; broadcast them", given=given
        )
    if x.shape[-1] < 1 or y.shape[-1] < 1:
        raise ShapeError(f"convolve: needed at least one element along the last axis, got {given}; pad the empty one", given=given)
    return (x.with_shape((*x.shape[:-1], x.shape[-1] + y.shape[-1] - 1)),)


def _transpose(ct: Any, other: Any, length: int) -> Any:
    """Return the correlation of a cotangent with one operand: the cotangent of the other, of a length."""
    start = other.shape[-1] - 1
    return part(call(_primitive, ct, flip(other, -1)), ct.ndim - 1, start, start + length)


def _batch(batched: Sequence[bool], operands: Sequence[Any], params: Any) -> Any:
    count = next(item.shape[0] for item, flag in zip(operands, batched, strict=True) if flag)
    full = [item if flag else broadcast_to(item, (count, *item.shape)) for item, flag in zip(operands, batched, strict=True)]
    return call(_primitive, *full)


_primitive: Primitive = declare(
    Primitive(
        name="convolve",
        kernel=_convolve,
        infer=_infer,
        derivative=by_position(
            Linear(lambda ct, x, y: _transpose(ct, y, x.shape[-1])), Linear(lambda ct, x, y: _transpose(ct, x, y.shape[-1]))
        ),
        batch=_batch,
        arity=2,
        params=(),
        doc="The full convolution z_k = sum_j x_(k-j) y_j along the last axis.",
        samples=lambda rng: [
            Sample((draw(rng, 4), draw(rng, 3))),
            Sample((draw(rng, 2, 1), draw(rng, 2, 3))),
            Sample((draw(rng, 3, dtype="float32"), draw(rng, 3, dtype="float32"))),
            Sample((draw(rng, 3) + 1j * draw(rng, 3), draw(rng, 2) + 1j * draw(rng, 2))),
        ],
        flops=lambda x, y: 2.0 * x.size * y.shape[-1],
    )
)


def _operands(where: str, a: Any, v: Any, mode: str) -> list[Any]:
    if mode not in MODES:
        raise ArgumentError(f"{where}: needed mode 'full', 'same' or 'valid', got {mode!r}; choose one", given=mode)
    arrays = promote(where, [a, v])
    shapes = f"{list(arrays[0].shape)} and {list(arrays[1].shape)}"
    if any(item.ndim > 1 for item in arrays):
        raise ShapeError(f"{where}: needed two vectors, got shapes {shapes}; reshape them", given=shapes)
    return [broadcast_to(item, (1,)) if item.ndim == 0 else item for item in arrays]


def _window(full: Any, one: int, other: int, mode: str) -> Any:
    """Return the part of a full convolution of vectors of two lengths that a mode keeps."""
    longer, shorter = max(one, other), min(one, other)
    if mode == "full":
        return full
    if mode == "valid":
        return part(full, 0, shorter - 1, longer)
    start = shorter - 1 - shorter // 2
    return part(full, 0, start, start + longer)


@implements(np.convolve)
def convolve(a: Any, v: Any, mode: str = "full") -> Any:
    """Return the convolution of two vectors: all of it, as much as the longer has, or where they overlap wholly."""
    x, y = _operands("convolve", a, v, mode)
    return _window(call(_primitive, x, y), x.shape[0], y.shape[0], mode)


@implements(np.correlate)
def correlate(a: Any, v: Any, mode: str = "valid") -> Any:
    """Return the correlation c_k = sum_n a_(n+k) conj(v_n) of two vectors, of the mode's extent."""
    x, y = _operands("correlate", a, v, mode)
    full = call(_primitive, x, flip(np.conjugate(y)))
    if x.shape[0] >= y.shape[0]:
        return _window(full, x.shape[0], y.shape[0], mode)
    # NumPy exchanges the two, and turns the result around.
    return flip(_window(flip(full), x.shape[0], y.shape[0], mode))
