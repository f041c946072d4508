"""The exponential of matrices and its Frechet derivative; batched over leading axes."""

from __future__ import annotations

import math
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

# The coefficients of the numerator of the Pade approximant of degree 13, and the norm up to which it and its derivative are exact
# to double precision.
B0, B1, B2, B3, B4 = 64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0, 129060195264000.0
B5, B6, B7, B8, B9 = 10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0, 40840800.0
B10, B11, B12, B13 = 960960.0, 16380.0, 182.0, 1.0
RADIUS = 4.74
# Matrices with zeros that are halved more often are looked at block by block.
MOST_TOGETHER = 8
# The logarithm of the first coefficient of its backward error, over the unit roundoff.
LOG2_ERROR = 53 - math.log2(113250775606021113483283660800000000.0)


def _expm(x: Array) -> Array:
    return _exponentials(x, None)[0]


def _expm_frechet(a: Array, e: Array) -> Array:
    return _exponentials(a, e)[1]


def _exponentials(a: Array, e: Array | None) -> tuple[Array, Array]:
    """Return the exponentials of matrices and their derivatives along e, all at once, by scaling and squaring."""
    if a.size == 0:
        return a.copy(), a.copy()
    finite = finite_matrices(a)
    nan = a.dtype.type(np.nan)
    a = np.where(finite, a, 0)
    most = np.ceil(np.maximum(_log2_norm(a) - math.log2(RADIUS), 0))
    small = a * np.exp2(-most).astype(a.dtype)
    small2 = small @ small
    small4 = small2 @ small2
    small6 = small4 @ small2
    halvings = _halvings(small, small4, small6, most)
    rise = np.exp2(most - halvings).astype(a.dtype)
    powers = (small * rise, small2 * rise**2, small4 * rise**4, small6 * rise**6)
    first = y, dy = _pade(*powers, None if e is None else e * np.exp2(-halvings).astype(a.dtype))
    for count in range(int(halvings.max())):
        goes_on = count < halvings
        if e is not None:
            dy = np.where(goes_on, y @ dy + dy @ y, dy)
        y = np.where(goes_on, y @ y, y)
    for index in np.argwhere((halvings > MOST_TOGETHER)[..., 0, 0] & (a == 0).any(axis=(-2, -1))):
        place = tuple(index)
        one, along = first[0][place], None if e is None else first[1][place]
        y[place], dy[place] = _square_by_blocks(a[place], one, along, int(halvings[place].item()))
    return np.where(finite, y, nan), np.where(finite, dy, nan)


def _square_by_blocks(a: Array, y: Array, dy: Array | None, halvings: int) -> tuple[Array, Array]:
    """Return what squaring gives, for a matrix whose blocks differ in size: the smaller ones are not squared as often.

    Diagonal blocks, in an order in which the matrix is block triangular, are exponentials of their own. So they are computed anew
    after each squaring, as long as they are small; numbers always.

    Args:
        a: the matrix.
        y: the exponential of 2^-halvings of it.
        dy: the derivative of that.
        halvings: how often to square it.
    """
    is_reached, blocks = _find_blocks(a)
    alone = [block[0] for block in blocks if len(block) == 1]
    others = [np.ix_(block, block) for block in blocks if 1 < len(block) < len(a)]
    for left in range(halvings - 1, -1, -1):
        scale = a.dtype.type(math.ldexp(1.0, -left))
        if dy is not None:
            dy = y @ dy + dy @ y
        y = np.where(is_reached, y @ y, 0)
        y[alone, alone] = np.exp(a[alone, alone] * scale)
        for block in others:
            part = a[block] * scale
            if _norm(part) <= RADIUS:
                y[block] = _exponentials(part, None)[0]
    return y, y if dy is None else dy


def _find_blocks(a: Array) -> tuple[Array, list[list[int]]]:
    """Return where powers of a matrix may differ from zero, and its indices in blocks: those that reach each other."""
    is_reached: Array = (a != 0) | np.eye(len(a), dtype=np.bool_)
    for _ in range((len(a) - 1).bit_length()):
        is_reached = is_reached.astype(np.float32) @ is_reached.astype(np.float32) > 0
    firsts = (is_reached & is_reached.T).argmax(axis=1)
    return is_reached, [np.flatnonzero(firsts == first).tolist() for first in np.unique(firsts)]


def _norm(x: Array) -> Array:
    return np.abs(x).sum(axis=-2, keepdims=True).max(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def _log2_norm(x: Array) -> Array:
    """Return the logarithm of the norm of a matrix or its transpose, the smaller; either may overflow. At least 0 for zeros."""
    largest = np.abs(x).max(axis=(-2, -1), keepdims=True)
    scale = np.where(largest > 0, largest, x.dtype.type(1))
    scaled = x / scale
    norm = np.minimum(_norm(scaled), _norm(scaled.swapaxes(-1, -2)))
    return np.log2(scale) + np.log2(np.maximum(norm, 1))  # type: ignore[no-any-return]


def _halvings(x: Array, x4: Array, x6: Array, most: Array) -> Array:
    """Return how often to halve 2^most x: by the norms of powers, lest digits drown (Al-Mohy and Higham, 2009)."""
    if not most.any():
        return most
    sizes = [_norm(power) ** (1 / degree) for degree, power in ((6, x6), (8, x4 @ x4), (10, x4 @ x6))]
    size = np.minimum(np.maximum(sizes[0], sizes[1]), np.maximum(sizes[1], sizes[2]))
    fewest = np.ceil(np.maximum(np.log2(size / RADIUS) + most, 0))
    if (fewest >= most).all():
        return most
    # Where powers are small because elements cancel, the backward error, bounded with their absolute values, asks for more.
    row, absolute = np.ones_like(x[..., :1, :]), np.abs(x)
    for _ in range(27):
        row = row @ absolute
    log2_error = np.log2(row.max(axis=-1, keepdims=True) / _norm(x)) + 26 * (most - fewest) + LOG2_ERROR
    more = np.ceil(np.where(np.isfinite(log2_error), np.maximum(log2_error, 0), 0) / 26)
    return np.minimum(fewest + more, most)  # type: ignore[no-any-return]


def _pade(a: Array, a2: Array, a4: Array, a6: Array, e: Array | None) -> tuple[Array, Array]:
    """Return the Pade approximant of degree 13 of exponentials, by powers of a, and its derivative along e."""
    one = np.eye(a.shape[-1], dtype=a.dtype)
    w1, z1 = B13 * a6 + B11 * a4 + B9 * a2, B12 * a6 + B10 * a4 + B8 * a2
    w = a6 @ w1 + (B7 * a6 + B5 * a4 + B3 * a2 + B1 * one)
    u, v = a @ w, a6 @ z1 + (B6 * a6 + B4 * a4 + B2 * a2 + B0 * one)
    y = np.linalg.solve(v - u, v + u)
    if e is None:
        return y, y
    m2 = a @ e + e @ a
    m4 = a2 @ m2 + m2 @ a2
    m6 = a4 @ m2 + m4 @ a2
    dw = a6 @ (B13 * m6 + B11 * m4 + B9 * m2) + m6 @ w1 + (B7 * m6 + B5 * m4 + B3 * m2)
    du = a @ dw + e @ w
    dv = a6 @ (B12 * m6 + B10 * m4 + B8 * m2) + m6 @ z1 + (B6 * m6 + B4 * m4 + B2 * m2)
    return y, np.linalg.solve(v - u, du + dv + (du - dv) @ y)


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
