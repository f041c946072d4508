"""Triangular matrices: solving with one, and the factorizations into them, cholesky, qr and lu; batched over leading axes.

No kernel raises: what does not exist is inf or NaN. Derivatives solve with the factors and never invert; they are written over
primitives, so that all orders follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import implements
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.ops._declare import Linear, Sample, Tangent, by_position, call, constant, convert, declare, draw
from gradwire_core.ops.contraction import matmul
from gradwire_core.ops.elementwise import negative, where
from gradwire_core.ops.linalg import check_square, swap
from gradwire_core.ops.shaping import broadcast_to, concatenate, expand_dims, promote, reshape, squeeze, transpose
from gradwire_core.program import Param, Primitive
from gradwire_core.types import Array, Dtype, TensorType

SMALL = 8


def floating(where_: str, *arrays: Any) -> list[Any]:
    """Return arrays of one floating dtype; integers become float64."""
    found = promote(where_, arrays)
    return found if Dtype.of(found[0].dtype).is_inexact else [convert(item, Dtype.FLOAT64) for item in found]


def check_matrices(where_: str, x: TensorType) -> None:
    """Check that a type is of floating matrices.

    Raises:
        ShapeError: it has fewer than two axes.
        DtypeError: its elements are integers or complex.
    """
    if x.ndim < 2:
        raise ShapeError(f"{where_}: needed matrices [...,m,n], got {x}; reshape it", given=x)
    if x.dtype not in (Dtype.FLOAT64, Dtype.FLOAT32):
        raise DtypeError(f"{where_}: needed float64 or float32, got {x}; convert it with astype", given=x)


def guarded(function: Callable[..., Any], x: Array) -> Any:
    """Return what a function of NumPy's gives for matrices, NaN for those at which it raises."""
    try:
        return function(x)
    except np.linalg.LinAlgError:
        if x.ndim > 2:
            parts = [guarded(function, item) for item in x]
            return tuple(map(np.stack, zip(*parts, strict=True))) if isinstance(parts[0], tuple) else np.stack(parts)
        harmless = function(np.eye(*x.shape, dtype=x.dtype))
        if isinstance(harmless, tuple):
            return tuple([np.full_like(item, np.nan) for item in harmless])
        return np.full_like(harmless, np.nan)


def _triangle(x: Any, offset: int) -> Any:
    rows, columns = x.shape[-2:]
    return constant(x, np.tri(rows, columns, offset, dtype=np.bool_))


def lower_of(x: Any, offset: int = 0) -> Any:
    """Return the lower triangle of matrices up to a diagonal, zeros above."""
    return where(_triangle(x, offset), x, 0.0)


def upper_of(x: Any, offset: int = 0) -> Any:
    """Return the upper triangle of matrices from a diagonal on, zeros below."""
    return where(_triangle(x, offset - 1), 0.0, x)


def symmetrized(x: Any) -> Any:
    """Return (x + x^T) / 2."""
    return (x + swap(x)) * 0.5


def matrix_flops(factor: float) -> Callable[..., float]:
    """Return a cost: a factor times rows times columns times the fewer of them, for each matrix."""

    def flops(x: TensorType, **params: Param) -> float:
        return float(factor * x.size * min(x.shape[-2:]))

    return flops


# -- solving with a triangular matrix ----------------------------------------------------------------------------------------


def _triangular_solve(a: Array, b: Array, *, lower: bool, transpose: bool, unit_diagonal: bool) -> Array:
    count, n = int(np.prod(b.shape[:-2])), b.shape[-2]
    if count > SMALL >= n or b.size == 0:
        return _substitute(np.swapaxes(a, -1, -2) if transpose else a, b, lower != transpose, unit_diagonal)
    from scipy.linalg import get_blas_funcs

    (trsm,) = get_blas_funcs(("trsm",), (a, b))
    out = np.empty_like(b)
    for index in np.ndindex(*b.shape[:-2]):
        # The transposed equation: its arrays are column-major, as BLAS wants them, without a copy.
        out[index] = trsm(1.0, a[index].T, b[index].T, side=1, lower=not lower, trans_a=transpose, diag=unit_diagonal).T
    return out


def _substitute(a: Array, b: Array, is_lower: bool, is_unit: bool) -> Array:  # called above alone
    """Substitute row by row, in all matrices of a batch at once."""
    n = b.shape[-2]
    y = b.copy()
    for row in range(n) if is_lower else range(n - 1, -1, -1):
        known = slice(0, row) if is_lower else slice(row + 1, n)
        y[..., row, :] -= np.einsum("...j,...jk->...k", a[..., row, known], y[..., known, :])
        if not is_unit:
            y[..., row, :] /= a[..., row, row, None]
    return y


def _infer_triangular(a: TensorType, b: TensorType, *, lower: bool, transpose: bool, unit_diagonal: bool) -> tuple[TensorType, ...]:
    check_square("triangular_solve", a)
    if a.dtype is not b.dtype:
        raise DtypeError(f"triangular_solve: needed operands of one dtype, got {a} and {b}; convert one", given=f"{a}, {b}")
    if b.ndim != a.ndim or b.shape[:-1] != a.shape[:-1]:
        raise ShapeError(
            f"triangular_solve: needed a [...,n,n] and b [...,n,k], got {a} and {b}; make them agree", given=f"{a}, {b}"
        )
    return (b,)


def _triangular_tangent(t: Any, y: Any, a: Any, b: Any, *, lower: bool, transpose: bool, unit_diagonal: bool) -> Any:
    part = lower_of(t, -int(unit_diagonal)) if lower else upper_of(t, int(unit_diagonal))
    right = matmul(swap(part) if transpose else part, y)
    return negative(call(triangular_primitive, a, right, lower=lower, transpose=transpose, unit_diagonal=unit_diagonal))


def _triangular_transpose(ct: Any, a: Any, b: Any, *, lower: bool, transpose: bool, unit_diagonal: bool) -> Any:
    return call(triangular_primitive, a, ct, lower=lower, transpose=not transpose, unit_diagonal=unit_diagonal)


def _batch_triangular(batched: Sequence[bool], operands: Sequence[Any], params: Any) -> Any:
    a, b = operands
    if not batched[0] and a.ndim == 2:
        return solve_columns(triangular_primitive, a, b, 1, params)
    count = (a if batched[0] else b).shape[0]
    a, b = [item if flag else broadcast_to(item, (count, *item.shape)) for item, flag in zip(operands, batched, strict=True)]
    return call(triangular_primitive, a, b, **params)


def solve_columns(primitive: Primitive, a: Any, b: Any, axis: int, params: Any) -> Any:
    """Solve with one matrix along an axis of b: all other axes together are the columns."""
    order = (axis, *[item for item in range(b.ndim) if item != axis])
    flat = reshape(transpose(b, order), (b.shape[axis], math.prod(b.shape[:axis]) * math.prod(b.shape[axis + 1 :])))
    solved = reshape(call(primitive, a, flat, **params), tuple(b.shape[item] for item in order))
    return transpose(solved, tuple(int(item) for item in np.argsort(order)))


def _triangular_samples(rng: np.random.Generator) -> list[Sample]:
    def sample(shape: tuple[int, ...], lower: bool, transpose: bool, unit_diagonal: bool, dtype: str = "float64") -> Sample:
        a = draw(rng, *shape[:-1], shape[-2]) + 3 * np.eye(shape[-2])
        params = {"lower": lower, "transpose": transpose, "unit_diagonal": unit_diagonal}
        return Sample((a.astype(dtype), draw(rng, *shape, dtype=dtype)), params)

    return [
        sample((3, 2), True, False, False),
        sample((2, 3, 1), False, False, False),
        sample((3, 2), True, True, True),
        sample((9, 2, 2), False, True, False),
        sample((4, 1), False, False, True),
        sample((3, 2), True, False, False, "float32"),
    ]


triangular_primitive: Primitive = declare(
    Primitive(
        name="triangular_solve",
        kernel=_triangular_solve,
        infer=_infer_triangular,
        derivative=by_position(Tangent(_triangular_tangent), Linear(_triangular_transpose)),
        batch=_batch_triangular,
        arity=2,
        params=("lower", "transpose", "unit_diagonal"),
        doc="The solution y of a y = b, or of a^T y = b, by one triangle of a; inf or NaN where its diagonal has a zero.",
        samples=_triangular_samples,
        flops=lambda a, b, **params: float(b.size * a.shape[-1]),
    )
)


def triangular_solve(a: Any, b: Any, *, lower: bool = True, transpose: bool = False, unit_diagonal: bool = False) -> Any:
    """Return the solution y of a y = b (or a^T y = b), for b a vector or matrices; reads one triangle of a."""
    a, b = floating("triangular_solve", a, b)
    params = {"lower": lower, "transpose": transpose, "unit_diagonal": unit_diagonal}
    if b.ndim == 1:
        return squeeze(triangular_solve(a, expand_dims(b, -1), **params), -1)
    if a.ndim == 2 and b.ndim > 2 and b.shape[-2] == a.shape[-1]:
        return solve_columns(triangular_primitive, a, b, b.ndim - 2, params)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = [broadcast_to(item, (*lead, *item.shape[-2:])) for item in (a, b)]
    return call(triangular_primitive, a, b, **params)


def solve_right(x: Any, a: Any, *, lower: bool) -> Any:
    """Return x a^-1 for a triangular matrix a."""
    return swap(call(triangular_primitive, a, swap(x), lower=lower, transpose=True, unit_diagonal=False))


# -- cholesky ----------------------------------------------------------------------------------------------------------------


def _cholesky(x: Array) -> Array:
    return guarded(np.linalg.cholesky, (x + np.swapaxes(x, -1, -2)) * x.dtype.type(0.5))  # type: ignore[no-any-return]


def _infer_square(where_: str, count: int) -> Callable[..., tuple[TensorType, ...]]:
    def infer(x: TensorType) -> tuple[TensorType, ...]:
        check_matrices(where_, x)
        check_square(where_, x)
        return (x,) * count

    return infer


def _cholesky_tangent(t: Any, y: Any, x: Any) -> Any:
    params = {"lower": True, "transpose": False, "unit_diagonal": False}
    inner = call(triangular_primitive, y, swap(call(triangular_primitive, y, symmetrized(t), **params)), **params)
    half = np.tri(x.shape[-1], dtype=x.dtype) - np.eye(x.shape[-1], dtype=x.dtype) / 2
    return matmul(y, lower_of(inner * constant(x, half)))


def _definite(rng: np.random.Generator, *shape: int, dtype: str = "float64") -> Array:
    x = draw(rng, *shape, shape[-1], low=-1, high=1)
    return np.asarray(x @ np.swapaxes(x, -1, -2) + 2 * np.eye(shape[-1])).astype(dtype)


cholesky_primitive: Primitive = declare(
    Primitive(
        name="cholesky",
        kernel=_cholesky,
        infer=_infer_square("cholesky", 1),
        derivative=by_position(Tangent(_cholesky_tangent)),
        batch=lambda batched, operands, params: call(cholesky_primitive, *operands),
        arity=1,
        params=(),
        doc="The lower triangular y with y y^T = (x + x^T) / 2; NaN where that is not positive definite.",
        samples=lambda rng: [
            Sample((_definite(rng, 3),)),
            Sample((_definite(rng, 2, 3),)),
            Sample((_definite(rng, 1),)),
            Sample((_definite(rng, 3, dtype="float32"),)),
        ],
        flops=matrix_flops(1 / 3),
    )
)


@implements(np.linalg.cholesky)
def cholesky(a: Any, *, upper: bool = False) -> Any:
    """Return the Cholesky factor of the symmetric part of positive definite matrices, lower or upper triangular."""
    (a,) = floating("cholesky", a)
    found = call(cholesky_primitive, a)
    return swap(found) if upper else found


def cho_solve(factor: Any, b: Any, *, lower: bool = True) -> Any:
    """Return the solution y of a y = b for the Cholesky factor of a: two triangular solves."""
    first = triangular_solve(factor, b, lower=lower, transpose=not lower)
    return triangular_solve(factor, first, lower=lower, transpose=lower)


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
    """Return orthonormal columns that complete those of a qr to a square matrix.

    The square matrix is a product of reflections, 1 - v w v^T with v unit lower triangular, hence a rational function of its
    first columns: with these (q_1; q_2), the others are e_2 + (e_1 - q) (1 - q_1)^-T q_2^T. LAPACK's signs keep 1 - q_1 from
    being singular.
    """
    from gradwire_core.ops.linalg import solve

    m, k = q.shape[-2:]
    first, last = np.eye(m, k, dtype=q.dtype), np.eye(m, m - k, -k, dtype=q.dtype)
    moved = constant(q, first) - q
    return constant(q, last) + matmul(moved, solve(swap(moved[..., :k, :]), swap(q[..., k:, :])))


# -- lu ----------------------------------------------------------------------------------------------------------------------


def _lu(x: Array) -> tuple[Array, Array, Array]:
    from scipy.linalg import get_lapack_funcs

    *lead, m, n = x.shape
    k = min(m, n)
    p, packed = np.zeros((*lead, m, m), x.dtype), x.copy()
    getrf = get_lapack_funcs("getrf", (x,))
    for index in np.ndindex(*lead):
        rows = np.arange(m)
        if k:
            packed[index], pivots, _ = getrf(x[index])  # type: ignore[operator]  # one name gives one function
            for row, other in enumerate(pivots):
                rows[[row, other]] = rows[[other, row]]
        p[(*index, rows, np.arange(m))] = 1
    return p, np.tril(packed[..., :k], -1) + np.eye(m, k, dtype=x.dtype), np.triu(packed[..., :k, :])


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
        ],
        flops=matrix_flops(2 / 3),
    )
)


def lu(a: Any) -> Any:
    """Return p, l and u of a = p l u, with rows exchanged for the largest pivots."""
    (a,) = floating("lu", a)
    return call(lu_primitive, a)
