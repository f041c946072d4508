"""Singular values, and the pseudo-inverse made of them; batched over leading axes.

No kernel raises: what does not converge is NaN. Where singular values are equal their own first derivatives are finite, those of
the singular vectors inf or NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire_core.builder import implements
from gradwire_core.errors import ArgumentError
from gradwire_core.ops._declare import Sample, Tangent, by_position, call, declare, draw
from gradwire_core.ops.contraction import einsum, matmul
from gradwire_core.ops.eigen import as_columns, as_rows, off_diagonal_reciprocal
from gradwire_core.ops.elementwise import reciprocal
from gradwire_core.ops.factorization import complement, qr_primitive
from gradwire_core.ops.linalg import swap
from gradwire_core.ops.shaping import concatenate
from gradwire_core.ops.triangular import check_matrices, finite_matrices, floating, guarded, matrix_flops
from gradwire_core.program import Primitive
from gradwire_core.types import Array, TensorType

# -- svd ---------------------------------------------------------------------------------------------------------------------


def _svd_all(x: Array) -> tuple[Array, Array, Array]:
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    return u, s, vh


def _svdvals_all(x: Array) -> Array:
    return np.linalg.svd(x, compute_uv=False)


def _svd(x: Array) -> tuple[Array, Array, Array]:
    finite, nan = finite_matrices(x), x.dtype.type(np.nan)
    u, s, vh = guarded(_svd_all, np.where(finite, x, 0))
    return np.where(finite, u, nan), np.where(finite[..., 0], s, nan), np.where(finite, vh, nan)


def _svdvals(x: Array) -> Array:
    finite = finite_matrices(x)
    return np.where(finite[..., 0], guarded(_svdvals_all, np.where(finite, x, 0)), x.dtype.type(np.nan))  # type: ignore[no-any-return]


def _infer_svd(x: TensorType) -> tuple[TensorType, ...]:
    check_matrices("svd", x)
    *lead, m, n = x.shape
    k = min(m, n)
    return x.with_shape((*lead, m, k)), x.with_shape((*lead, k)), x.with_shape((*lead, k, n))


def _infer_svdvals(x: TensorType) -> tuple[TensorType, ...]:
    check_matrices("svdvals", x)
    return (x.with_shape((*x.shape[:-2], min(x.shape[-2:]))),)


def _svd_tangent(t: Any, y: Any, x: Any) -> Any:
    u, s, vh = y
    m, n = x.shape[-2:]
    right, left = matmul(t, swap(vh)), matmul(swap(u), t)
    inner = matmul(swap(u), right)
    # A difference of squares, as a product: nothing cancels.
    weights = off_diagonal_reciprocal((as_rows(s) - as_columns(s)) * (as_rows(s) + as_columns(s)))
    one, other = inner * as_rows(s), as_columns(s) * inner
    du = matmul(u, weights * (one + swap(one)))
    dvh = matmul(swap(weights * (other + swap(other))), vh)
    if m > n:
        du = du + (right - matmul(u, inner)) * as_rows(reciprocal(s))
    if m < n:
        dvh = dvh + as_columns(reciprocal(s)) * (left - matmul(inner, vh))
    return du, einsum("...ij,...ij->...j", u, right), dvh


def _svdvals_tangent(t: Any, y: Any, x: Any) -> Any:
    u, _, vh = call(svd_primitive, x)
    return einsum("...ij,...ij->...j", u, matmul(t, swap(vh)))


def _svd_samples(rng: np.random.Generator) -> list[Sample]:
    def near(m: int, n: int, *lead: int) -> Array:
        spread = np.zeros((m, n))
        np.fill_diagonal(spread, 1.5 + 2.0 * np.arange(min(m, n))[::-1])
        return draw(rng, *lead, m, n, low=-0.3, high=0.3) + spread

    return [Sample((near(3, 3),)), Sample((near(4, 2, 2),)), Sample((near(2, 4),)), Sample((near(3, 2).astype(np.float32),))]


svd_primitive: Primitive = declare(
    Primitive(
        name="svd",
        kernel=_svd,
        infer=_infer_svd,
        derivative=by_position(Tangent(_svd_tangent)),
        batch=lambda batched, operands, params: call(svd_primitive, *operands),
        arity=1,
        params=(),
        doc="The reduced u, s, v^T of x = u diag(s) v^T; where two of s are equal the derivative of u and v is inf or NaN.",
        samples=_svd_samples,
        flops=matrix_flops(20),
    )
)
svdvals_primitive: Primitive = declare(
    Primitive(
        name="svdvals",
        kernel=_svdvals,
        infer=_infer_svdvals,
        derivative=by_position(Tangent(_svdvals_tangent)),
        batch=lambda batched, operands, params: call(svdvals_primitive, *operands),
        arity=1,
        params=(),
        doc="Descending singular values; the first derivative is finite where some are equal.",
        samples=_svd_samples,
        flops=matrix_flops(4),
    )
)
SVDResult: Any = type(np.linalg.svd(np.ones((1, 1))))


@implements(np.linalg.svd)
def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Any:  # NumPy's
    """Return u, s and vh of a = u diag(s) vh, or s alone.

    With full matrices, the columns that complete u (and v) are those of a qr of it.
    """
    (a,) = floating("svd", a)
    if not compute_uv:
        return svdvals(a)
    u, s, vh = call(svd_primitive, a)
    if full_matrices:
        u, vh = _completed(u), swap(_completed(swap(vh)))
    return SVDResult(u, s, vh)


def _completed(u: Any) -> Any:
    """Return orthonormal columns completed to a square matrix."""
    m, k = u.shape[-2:]
    return u if m == k else concatenate([u, complement(call(qr_primitive, u)[0])], -1)


@implements(np.linalg.svdvals)
def svdvals(x: Any) -> Any:
    """Return the descending singular values of matrices."""
    (x,) = floating("svdvals", x)
    return call(svdvals_primitive, x)


# -- pinv --------------------------------------------------------------------------------------------------------------------


def _pinv(x: Array, *, rtol: float) -> Array:
    finite = finite_matrices(x)
    u, s, vh = guarded(_svd_all, np.where(finite, x, 0))
    kept = s > rtol * s.max(axis=-1, keepdims=True, initial=0)
    inverse = np.where(kept, 1 / np.where(kept, s, 1), 0)
    return np.where(finite, np.swapaxes(vh, -1, -2) @ (inverse[..., :, None] * np.swapaxes(u, -1, -2)), x.dtype.type(np.nan))  # type: ignore[no-any-return]


def _infer_pinv(x: TensorType, *, rtol: float) -> tuple[TensorType, ...]:
    check_matrices("pinv", x)
    return (x.with_shape((*x.shape[:-2], x.shape[-1], x.shape[-2])),)


def _pinv_tangent(t: Any, y: Any, x: Any, *, rtol: float) -> Any:
    # Golub and Pereyra (1973), for a rank that stays; the parts beyond the ranges of x vanish where it has full rank.
    total = -matmul(matmul(y, t), y)
    flipped = swap(t)
    rest = flipped - matmul(matmul(flipped, x), y)
    total = total + matmul(y, matmul(swap(y), rest))
    rest = flipped - matmul(y, matmul(x, flipped))
    return total + matmul(matmul(rest, swap(y)), y)


pinv_primitive: Primitive = declare(
    Primitive(
        name="pinv",
        kernel=_pinv,
        infer=_infer_pinv,
        derivative=by_position(Tangent(_pinv_tangent)),
        batch=lambda batched, operands, params: call(pinv_primitive, *operands, **params),
        arity=1,
        params=("rtol",),
        doc="Pseudo-inverse, singular values up to rtol times the largest taken as 0; the derivative is that at constant rank.",
        samples=lambda rng: [Sample(sample.operands, {"rtol": 1e-6}) for sample in _svd_samples(rng)],
        flops=matrix_flops(24),
    )
)


@implements(np.linalg.pinv)
def pinv(a: Any, rcond: Any = None, hermitian: bool = False, *, rtol: Any = 1e-15) -> Any:  # NumPy's
    """Return the pseudo-inverse of matrices; its derivative is that at constant rank."""
    (a,) = floating("pinv", a)
    cutoff = rtol if rcond is None else rcond
    return call(pinv_primitive, a, rtol=rank_tolerance(a) if cutoff is None else static("pinv", cutoff))


def rank_tolerance(a: Any) -> float:
    """Return the relative tolerance below which NumPy counts a singular value as zero."""
    return float(max(a.shape[-2:]) * np.finfo(a.dtype).eps)


def static(where_: str, number: Any) -> float:
    """Return a number that is known while tracing.

    Raises:
        ArgumentError: it is not one number.
    """
    if np.ndim(number):
        raise ArgumentError(f"{where_}: needed one tolerance, got shape {np.shape(number)}; pass a number", given=number)
    return float(number)
