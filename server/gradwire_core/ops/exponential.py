"""The exponential of matrices and its Frechet derivative; batched over leading axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.errors import DtypeError, ShapeError
from gradwire_core.ops._declare import Linear, Sample, Tangent, by_position, call, constant, declare, draw
from gradwire_core.ops.linalg import check_square, swap
from gradwire_core.ops.shaping import broadcast_to, concatenate
from gradwire_core.ops.triangular import check_matrices, finite_matrices, floating, matrix_flops
from gradwire_core.program import Primitive
from gradwire_core.types import Array, TensorType


def _expm(x: Array) -> Array:
    from scipy.linalg import expm

    if x.size == 0:
        return x.copy()
    finite = finite_matrices(x)
    found = expm(np.where(finite, x, 0))
    return np.where(finite, found, x.dtype.type(np.nan))


def _expm_frechet(a: Array, e: Array) -> Array:
    n = a.shape[-1]
    # The direction is scaled to the size of the matrix by a power of two: no digit changes, and the exponential stays cheap.
    large, small = np.abs(e).max(axis=(-2, -1), keepdims=True, initial=0), np.abs(a).max(axis=(-2, -1), keepdims=True, initial=0)
    scale = np.exp2(np.ceil(np.log2(np.where(large > 0, large, 1) / np.where(small > 0, small, 1)))).astype(a.dtype)
    scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1)
    block = np.concatenate([np.concatenate([a, e / scale], -1), np.concatenate([np.zeros_like(a), a], -1)], -2)
    return _expm(block)[..., :n, n:] * scale  # type: ignore[no-any-return]


def _infer_expm(x: TensorType) -> tuple[TensorType, ...]:
    check_matrices("expm", x)
    check_square("expm", x)
    return (x,)


def _infer_frechet(a: TensorType, e: TensorType) -> tuple[TensorType, ...]:
    check_matrices("expm_frechet", a)
    check_square("expm_frechet", a)
    if a.dtype is not e.dtype:
        raise DtypeError(f"expm_frechet: needed operands of one dtype, got {a} and {e}; convert one", given=f"{a}, {e}")
    if a.shape != e.shape:
        raise ShapeError(f"expm_frechet: needed matrices of one shape, got {a} and {e}; make them agree", given=f"{a}, {e}")
    return (a,)


def _frechet_tangent(t: Any, y: Any, a: Any, e: Any) -> Any:
    # The derivative of one block of exp([[a, e], [0, a]]) along [[t, 0], [0, t]]: the same trick once more, for every order.
    n = a.shape[-1]
    zeros = constant(a, np.zeros(a.shape, a.dtype))
    big = concatenate([concatenate([a, e], -1), concatenate([zeros, a], -1)], -2)
    along = concatenate([concatenate([t, zeros], -1), concatenate([zeros, t], -1)], -2)
    return call(frechet_primitive, big, along)[..., :n, n:]


def _batch_frechet(batched: Sequence[bool], operands: Sequence[Any], params: Any) -> Any:
    count = next(item.shape[0] for item, flag in zip(operands, batched, strict=True) if flag)
    a, e = [item if flag else broadcast_to(item, (count, *item.shape)) for item, flag in zip(operands, batched, strict=True)]
    return call(frechet_primitive, a, e)


def _matrices(rng: np.random.Generator) -> list[Array]:
    return [draw(rng, 3, 3), draw(rng, 2, 2, 2), draw(rng, 1, 1), draw(rng, 2, 2).astype(np.float32)]


expm_primitive: Primitive = declare(
    Primitive(
        name="expm",
        kernel=_expm,
        infer=_infer_expm,
        derivative=by_position(Tangent(lambda t, y, x: call(frechet_primitive, x, t))),
        batch=lambda batched, operands, params: call(expm_primitive, *operands),
        arity=1,
        params=(),
        doc="Exponential of square matrices, the sum of x^k / k!.",
        samples=lambda rng: [Sample((item,)) for item in _matrices(rng)],
        flops=matrix_flops(30),
    )
)
frechet_primitive: Primitive = declare(
    Primitive(
        name="expm_frechet",
        kernel=_expm_frechet,
        infer=_infer_frechet,
        derivative=by_position(Tangent(_frechet_tangent), Linear(lambda ct, a, e: call(frechet_primitive, swap(a), ct))),
        batch=_batch_frechet,
        arity=2,
        params=(),
        doc="Derivative of the exponential of a square matrix a along e.",
        samples=lambda rng: [Sample((item, draw(rng, *item.shape, dtype=item.dtype.name))) for item in _matrices(rng)],
        flops=lambda a, e: 240.0 * a.size * a.shape[-1],
    )
)


def expm(a: Any) -> Any:
    """Return the exponential of square matrices."""
    (a,) = floating("expm", a)
    return call(expm_primitive, a)
