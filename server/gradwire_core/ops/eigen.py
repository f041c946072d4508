"""Eigenvalues and eigenvectors, of symmetric and of general matrices; batched over leading axes.

No kernel raises: what does not converge is NaN. Where eigenvalues of a symmetric matrix are equal their own first derivatives are
finite, those of the eigenvectors inf or NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire_core.builder import implements
from gradwire_core.ops._declare import Sample, Tangent, by_position, call, constant, convert, declare, draw
from gradwire_core.ops.complex import complex as complex_of
from gradwire_core.ops.contraction import einsum, matmul
from gradwire_core.ops.elementwise import equal, reciprocal, square, where
from gradwire_core.ops.linalg import check_square, solve, swap
from gradwire_core.ops.reduction import max as max_over
from gradwire_core.ops.reduction import sum as sum_over
from gradwire_core.ops.shaping import concatenate, expand_dims, take_diagonal
from gradwire_core.ops.triangular import check_matrices, finite_matrices, floating, guarded, matrix_flops, symmetrized
from gradwire_core.program import Primitive
from gradwire_core.types import Array, Dtype, TensorType


def diagonal_of(x: Any) -> Any:
    """Return the diagonals of square matrices."""
    return take_diagonal(x, (*range(x.ndim - 1), x.ndim - 2))


def as_rows(x: Any) -> Any:
    """Return vectors as the rows of matrices."""
    return expand_dims(x, -2)


def as_columns(x: Any) -> Any:
    """Return vectors as the columns of matrices."""
    return expand_dims(x, -1)


def off_diagonal_reciprocal(gaps: Any) -> Any:
    """Return 1 / gaps off the diagonal, and 0 on it."""
    on_diagonal = constant(gaps, np.eye(gaps.shape[-1], dtype=np.bool_))
    return where(on_diagonal, 0.0, reciprocal(where(on_diagonal, 1.0, gaps)))


# -- eigh --------------------------------------------------------------------------------------------------------------------


def _eigh_symmetric(x: Array) -> tuple[Array, Array]:
    w, v = np.linalg.eigh(x)
    return w, v


def _eigh(x: Array) -> tuple[Array, Array]:
    finite = finite_matrices(x)
    usable = np.where(finite, x, 0)
    w, v = guarded(_eigh_symmetric, (usable + np.swapaxes(usable, -1, -2)) * x.dtype.type(0.5))
    return np.where(finite[..., 0], w, x.dtype.type(np.nan)), np.where(finite, v, x.dtype.type(np.nan))


def _infer_eigh(x: TensorType) -> tuple[TensorType, ...]:
    check_matrices("eigh", x)
    check_square("eigh", x)
    return x.with_shape(x.shape[:-1]), x


def _eigh_tangent(t: Any, y: Any, x: Any) -> Any:
    w, v = y
    moved = matmul(t, v)
    inner = symmetrized(matmul(swap(v), moved))
    return einsum("...ij,...ij->...j", v, moved), matmul(v, inner * off_diagonal_reciprocal(as_rows(w) - as_columns(w)))


def _symmetric(rng: np.random.Generator, n: int, *lead: int, dtype: str = "float64") -> Array:
    return np.asarray(draw(rng, *lead, n, n, low=-0.5, high=0.5) + np.diag(2.0 * np.arange(n) - 1)).astype(dtype)


eigh_primitive: Primitive = declare(
    Primitive(
        name="eigh",
        kernel=_eigh,
        infer=_infer_eigh,
        derivative=by_position(Tangent(_eigh_tangent)),
        batch=lambda batched, operands, params: call(eigh_primitive, *operands),
        arity=1,
        params=(),
        doc="Ascending eigenvalues w, and eigenvectors v, of (x + x^T) / 2; where two are equal the derivative of v is inf or NaN.",
        samples=lambda rng: [
            Sample((_symmetric(rng, 3),)),
            Sample((_symmetric(rng, 3, 2),)),
            Sample((_symmetric(rng, 1),)),
            Sample((_symmetric(rng, 3, dtype="float32"),)),
        ],
        flops=matrix_flops(9),
    )
)
EighResult: Any = type(np.linalg.eigh(np.ones((1, 1))))


@implements(np.linalg.eigh)
def eigh(a: Any, UPLO: str = "L") -> Any:  # noqa: N803  # NumPy's name
    """Return ascending eigenvalues and eigenvectors of the symmetric part of matrices, whichever triangle is named."""
    (a,) = floating("eigh", a)
    return EighResult(*call(eigh_primitive, a))


@implements(np.linalg.eigvalsh)
def eigvalsh(a: Any, UPLO: str = "L") -> Any:  # noqa: N803  # NumPy's name
    """Return the ascending eigenvalues of the symmetric part of matrices."""
    return eigh(a)[0]


# -- eig ---------------------------------------------------------------------------------------------------------------------
# In real arithmetic: a complex array is a pair of its real and imaginary part, a complex matrix the real one [[r, -i], [i, r]].


def _eig_complex(x: Array) -> tuple[Array, Array]:
    w, v = np.linalg.eig(x)
    return w, v


def _eig(x: Array) -> tuple[Array, Array, Array, Array]:
    finite = finite_matrices(x)
    w, v = guarded(_eig_complex, np.where(finite, x, 0))
    undefined = complex(np.nan, np.nan)
    w, v = np.where(finite[..., 0], w, undefined), np.where(finite, v, undefined)
    return w.real.astype(x.dtype), w.imag.astype(x.dtype), v.real.astype(x.dtype), v.imag.astype(x.dtype)


def _infer_eig(x: TensorType) -> tuple[TensorType, ...]:
    w, v = _infer_eigh(x)
    return w, w, v, v


def _eig_tangent(t: Any, y: Any, x: Any) -> Any:
    wr, wi, vr, vi = y
    n = x.shape[-1]
    if n == 0:
        return None, None, None, None
    whole = concatenate([concatenate([vr, -vi], -1), concatenate([vi, vr], -1)], -2)
    inner = solve(whole, concatenate([matmul(t, vr), matmul(t, vi)], -2))
    mr, mi = inner[..., :n, :], inner[..., n:, :]
    is_real = equal(wi, 0)
    gap_r, gap_i = as_rows(wr) - as_columns(wr), as_rows(wi) - as_columns(wi)
    weights = off_diagonal_reciprocal(square(gap_r) + square(gap_i))
    pr, pi = weights * (mr * gap_r + mi * gap_i), weights * (mi * gap_r - mr * gap_i)
    zr, zi = matmul(vr, pr) - matmul(vi, pi), matmul(vr, pi) + matmul(vi, pr)
    zr, zi = _scaled_as_lapack(vr, vi, zr, zi)
    return diagonal_of(mr), where(is_real, 0.0, diagonal_of(mi)), zr, where(as_rows(is_real), 0.0, zi)


def _scaled_as_lapack(vr: Any, vi: Any, zr: Any, zi: Any) -> tuple[Any, Any]:
    """Return tangents of vectors that keep length 1, and keep the largest element, which is real, so."""
    growth = sum_over(vr * zr + vi * zi, -2, keepdims=True)
    zr, zi = zr - vr * growth, zi - vi * growth
    sizes = where(equal(vi, 0), square(vr), -1.0)
    largest = equal(sizes, max_over(sizes, -2, keepdims=True))
    # Of several largest elements each has a share.
    count = sum_over(convert(largest, Dtype.of(vr.dtype)), -2, keepdims=True)
    share = where(largest, reciprocal(where(largest, vr, 1.0)), 0.0) / count
    turn = sum_over(zi * share, -2, keepdims=True)
    return zr + vi * turn, zi - vr * turn


def _general(rng: np.random.Generator, n: int, *lead: int, dtype: str = "float64") -> Array:
    base = np.diag(2.0 * np.arange(n) - 1)
    base[:2, :2] = [[-2.0, -1.5], [1.0, -2.0]] if n > 2 else base[:2, :2]
    return np.asarray(draw(rng, *lead, n, n, low=-0.3, high=0.3) + base).astype(dtype)


eig_primitive: Primitive = declare(
    Primitive(
        name="eig",
        kernel=_eig,
        infer=_infer_eig,
        derivative=by_position(Tangent(_eig_tangent)),
        batch=lambda batched, operands, params: call(eig_primitive, *operands),
        arity=1,
        params=(),
        doc="Eigenvalues and eigenvectors of x, each as real and imaginary part; where two are equal, derivatives are inf or NaN.",
        samples=lambda rng: [
            Sample((_general(rng, 4),)),
            Sample((_general(rng, 2, 2),)),
            Sample((_general(rng, 1),)),
            Sample((_general(rng, 3, dtype="float32"),)),
        ],
        flops=matrix_flops(25),
    )
)
EigResult: Any = type(np.linalg.eig(np.ones((1, 1))))


@implements(np.linalg.eig)
def eig(a: Any) -> Any:
    """Return eigenvalues and eigenvectors of matrices, complex always."""
    (a,) = floating("eig", a)
    wr, wi, vr, vi = call(eig_primitive, a)
    return EigResult(complex_of(wr, wi), complex_of(vr, vi))


@implements(np.linalg.eigvals)
def eigvals(a: Any) -> Any:
    """Return the eigenvalues of matrices, complex always."""
    return eig(a)[0]
