"""Factorizations into triangular matrices: cholesky, qr and lu; batched over leading axes.

No kernel raises: what does not exist is inf or NaN. Derivatives solve with the factors and never invert; they are written over
primitives, so that all orders follow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire_core.builder import implements
from gradwire_core.errors import ArgumentError, ShapeError
from gradwire_core.ops._declare import Constant, Sample, Tangent, by_position, call, constant, declare, draw
from gradwire_core.ops.contraction import matmul
from gradwire_core.ops.linalg import solve, swap
from gradwire_core.ops.shaping import concatenate, expand_dims
from gradwire_core.ops.triangular import (
    SMALL,
    check_matrices,
    floating,
    lower_of,
    matrix_flops,
    solve_right,
    triangular_primitive,
    upper_of,
)
from gradwire_core.program import Primitive
from gradwire_core.types import Array, TensorType

# -- qr ----------------------------------------------------------------------------------------------------------------------


def _qr(x: Array) -> tuple[Array, Array]:
    q, r = np.linalg.qr(x)
    return q, r


def _infer_qr(x: TensorType) -> tuple[TensorType, ...]:
    check_matrices("qr", x)
    *lead, m, n = x.shape
    return x.with_shape((*lead, m, min(m, n))), x.with_shape((*lead, min(m, n), n))


def _qr_tangent(t: Any, y: Any, x: Any) -> Any:
    q, r = y
    m, n = x.shape[-2:]
    k = min(m, n)
    quotient = solve_right(t[..., :k], r[..., :k], lower=False)
    inner = matmul(swap(q), quotient)
    low = lower_of(inner, -1)
    turn = low - swap(low)
    dq = matmul(q, turn) if m <= n else matmul(q, turn - inner) + quotient
    return dq, upper_of(matmul(swap(q), t) - matmul(turn, r))


qr_primitive: Primitive = declare(
    Primitive(
        name="qr",
        kernel=_qr,
        infer=_infer_qr,
        derivative=by_position(Tangent(_qr_tangent)),
        batch=lambda batched, operands, params: call(qr_primitive, *operands),
        arity=1,
        params=(),
        doc="The reduced q and r of x = q r, orthonormal and upper triangular; the derivative is inf or NaN where r is singular.",
        samples=lambda rng: [
            Sample((draw(rng, 3, 3) + 2 * np.eye(3),)),
            Sample((draw(rng, 2, 4, 2) + 2 * np.eye(4, 2),)),
            Sample((draw(rng, 2, 4) + 2 * np.eye(2, 4),)),
            Sample(((draw(rng, 3, 2) + 2 * np.eye(3, 2)).astype(np.float32),)),
        ],
        flops=matrix_flops(4),
    )
)
QRResult: Any = type(np.linalg.qr(np.ones((1, 1))))


@implements(np.linalg.qr)
def qr(a: Any, mode: str = "reduced") -> Any:
    """Return q and r of a = q r, or r alone; complete where q is to be square.

    Raises:
        ArgumentError: the mode is "raw".
    """
    if mode not in ("reduced", "complete", "r"):
        raise ArgumentError(f"qr: needed mode 'reduced', 'complete' or 'r', got {mode!r}; choose one of those", given=mode)
    (a,) = floating("qr", a)
    q, r = call(qr_primitive, a)
    if mode == "r":
        return r
    m, k = q.shape[-2:]
    if mode == "complete" and m > k:
        q = concatenate([q, complement(q)], -1)
        zeros = np.zeros((*r.shape[:-2], m - k, r.shape[-1]), r.dtype)
        r = concatenate([r, constant(r, zeros)], -2)
    return QRResult(q, r)


def complement(q: Any) -> Any:
    """Return orthonormal columns that complete those of a qr to a square matrix, as LAPACK does.

    But for the signs of columns, the square matrix is a product of reflections, 1 - v w v^T with v unit lower triangular, hence a
    rational function of its first columns: with these (q_1; q_2), the others are e_2 + (e_1 - q) (1 - q_1)^-T q_2^T.
    """
    m, k = q.shape[-2:]
    first, last = np.eye(m, k, dtype=q.dtype), np.eye(m, m - k, -k, dtype=q.dtype)
    q = q * expand_dims(call(_signs_primitive, q), -2)
    moved = constant(q, first) - q
    return constant(q, last) + matmul(moved, solve(swap(moved[..., :k, :]), swap(q[..., k:, :])))


def _reflection_signs(q: Array) -> Array:
    k = q.shape[-1]
    rest, signs = q[..., :k, :].copy(), np.ones((*q.shape[:-2], k), q.dtype)
    for column in range(k):
        sign = np.where(rest[..., column, column] > 0, -1, 1).astype(q.dtype)
        signs[..., column] = sign
        moved = -sign[..., None] * rest[..., column + 1 :, column] / (1 - sign * rest[..., column, column])[..., None]
        rest[..., column + 1 :, column + 1 :] -= moved[..., :, None] * rest[..., column, None, column + 1 :]
    return signs


def _infer_signs(q: TensorType) -> tuple[TensorType, ...]:
    check_matrices("reflection_signs", q)
    if q.shape[-1] > q.shape[-2]:
        raise ShapeError(f"reflection_signs: needed at most as many columns as rows, got {q}; transpose it", given=q)
    return (q.with_shape((*q.shape[:-2], q.shape[-1])),)


_signs_primitive: Primitive = declare(
    Primitive(
        name="reflection_signs",
        kernel=_reflection_signs,
        infer=_infer_signs,
        derivative=by_position(Constant()),
        batch=lambda batched, operands, params: call(_signs_primitive, *operands),
        arity=1,
        params=(),
        doc="1 or -1 for each orthonormal column of q: times these, the columns are the first of a product of reflections.",
        samples=lambda rng: [
            Sample((np.linalg.qr(draw(rng, 4, 2))[0],)),
            Sample((np.linalg.qr(draw(rng, 2, 3, 3))[0] * np.array([1.0, -1.0, 1.0]),)),
        ],
        flops=matrix_flops(1),
    )
)


# -- lu ----------------------------------------------------------------------------------------------------------------------


def _lu(x: Array) -> tuple[Array, Array, Array]:
    m, n = x.shape[-2:]
    k = min(m, n)
    flat = x.reshape(int(np.prod(x.shape[:-2])), m, n)
    packed, rows = _eliminate(flat) if len(flat) > SMALL >= k else _getrf(flat)
    p = np.zeros((len(flat), m, m), x.dtype)
    p[np.arange(len(flat))[:, None], rows, np.arange(m)] = 1
    packed = packed.reshape(x.shape)
    lower = np.tril(packed[..., :k], -1) + np.eye(m, k, dtype=x.dtype)
    return p.reshape(*x.shape[:-1], m), lower, np.triu(packed[..., :k, :])


def _getrf(x: Array) -> tuple[Array, Array]:
    """Return both factors of each matrix in one, and the order of its rows, by LAPACK."""
    from scipy.linalg import get_lapack_funcs

    m, n = x.shape[-2:]
    packed, rows = x.copy(), np.tile(np.arange(m), (len(x), 1))
    getrf = get_lapack_funcs("getrf", (x,))
    for number in range(len(x) if m and n else 0):
        packed[number], pivots, _ = getrf(x[number])  # type: ignore[operator]  # one name gives one function
        order = list(range(m))
        for row, other in enumerate(pivots.tolist()):
            order[row], order[other] = order[other], order[row]
        rows[number] = order
    return packed, rows


def _eliminate(x: Array) -> tuple[Array, Array]:
    """Return the same for many small matrices, column by column in all of them at once."""
    m, n = x.shape[-2:]
    packed, rows = x.copy(), np.tile(np.arange(m), (len(x), 1))
    each = np.arange(len(x))
    for column in range(min(m, n)):
        best = np.abs(packed[:, column:, column]).argmax(-1) + column
        for array in (packed, rows):
            array[each, best], array[:, column] = array[:, column].copy(), array[each, best]
        pivot = packed[:, column, column]
        packed[:, column + 1 :, column] /= np.where(pivot == 0, 1, pivot)[:, None]
        packed[:, column + 1 :, column + 1 :] -= packed[:, column + 1 :, column, None] * packed[:, None, column, column + 1 :]
    return packed, rows


def _infer_lu(x: TensorType) -> tuple[TensorType, ...]:
    check_matrices("lu", x)
    *lead, m, n = x.shape
    k = min(m, n)
    return x.with_shape((*lead, m, m)), x.with_shape((*lead, m, k)), x.with_shape((*lead, k, n))


def _lu_tangent(t: Any, y: Any, x: Any) -> Any:
    p, l, u = y  # noqa: E741  # as the factors are called
    m, n = x.shape[-2:]
    k = min(m, n)
    moved = matmul(swap(p), t)
    corner, unit = l[..., :k, :], {"lower": True, "transpose": False, "unit_diagonal": True}
    inner = solve_right(call(triangular_primitive, corner, moved[..., :k, :k], **unit), u[..., :k], lower=False)
    dl, du = matmul(corner, lower_of(inner, -1)), matmul(upper_of(inner), u[..., :k])
    if m > n:
        dl = concatenate([dl, solve_right(moved[..., k:, :] - matmul(l[..., k:, :], du), u, lower=False)], -2)
    if m < n:
        du = concatenate([du, call(triangular_primitive, l, moved[..., k:] - matmul(dl, u[..., k:]), **unit)], -1)
    return None, dl, du


lu_primitive: Primitive = declare(
    Primitive(
        name="lu",
        kernel=_lu,
        infer=_infer_lu,
        derivative=by_position(Tangent(_lu_tangent)),
        batch=lambda batched, operands, params: call(lu_primitive, *operands),
        arity=1,
        params=(),
        doc="The p, l, u of x = p l u, rows permuted by p; the derivative of p is 0, that of l inf or NaN where u is singular.",
        samples=lambda rng: [
            Sample((draw(rng, 3, 3) + 4 * np.eye(3)[[2, 0, 1]],)),
            Sample((draw(rng, 2, 3, 2) + 4 * np.eye(3, 2),)),
            Sample((draw(rng, 2, 4) + 4 * np.eye(2, 4),)),
            Sample(((draw(rng, 2, 2) + 4 * np.eye(2)).astype(np.float32),)),
            Sample((draw(rng, 9, 3, 2) + 4 * np.eye(3, 2)[[2, 0, 1]],)),
        ],
        flops=matrix_flops(2 / 3),
    )
)


def lu(a: Any) -> Any:
    """Return p, l and u of a = p l u, with rows exchanged for the largest pivots."""
    (a,) = floating("lu", a)
    return call(lu_primitive, a)
