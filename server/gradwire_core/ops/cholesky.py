"""The Cholesky factorization and its derivative; batched over leading axes.

No kernel raises: what does not exist is NaN. The tangent of the factor L of x is

    F(t) = L phi(L^-1 (t + t^T)/2 L^-T),    phi: the lower triangle, half its diagonal

(Murray, "Differentiation of the Cholesky decomposition", 2016). It is a primitive of its own, as is its transpose

    G(ct) = (K + K^T)/2,  K = L^-T phi(L^T ct) L^-1

by the param `transpose`: G walks back over the blocks of the factorization, at a third of the operations that the formula takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import implements
from gradwire_core.errors import DtypeError, ShapeError
from gradwire_core.ops._declare import Linear, Sample, Tangent, by_position, call, constant, declare, draw
from gradwire_core.ops.contraction import matmul
from gradwire_core.ops.linalg import check_square, swap
from gradwire_core.ops.shaping import broadcast_to
from gradwire_core.ops.triangular import (
    check_matrices,
    floating,
    guarded,
    lower_of,
    matrix_flops,
    solve_triangle,
    symmetrized,
    triangular_solve,
)
from gradwire_core.program import Primitive
from gradwire_core.types import Array, TensorType

# Matrices of so many rows are taken block by block.
BLOCK = 64


# -- the factor ----------------------------------------------------------------------------------------------------------------


def _cholesky(x: Array) -> Array:
    return guarded(np.linalg.cholesky, (x + np.swapaxes(x, -1, -2)) * x.dtype.type(0.5))  # type: ignore[no-any-return]


def _infer_cholesky(x: TensorType) -> tuple[TensorType, ...]:
    check_matrices("cholesky", x)
    check_square("cholesky", x)
    return (x,)


def _definite(rng: np.random.Generator, *shape: int, dtype: str = "float64") -> Array:
    x = draw(rng, *shape, shape[-1], low=-1, high=1)
    return np.asarray(x @ np.swapaxes(x, -1, -2) + 2 * np.eye(shape[-1])).astype(dtype)


cholesky_primitive: Primitive = declare(
    Primitive(
        name="cholesky",
        kernel=_cholesky,
        infer=_infer_cholesky,
        derivative=by_position(Tangent(lambda t, y, x: call(tangent_primitive, y, t, transpose=False))),
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


# -- its tangent, and the transpose of that ------------------------------------------------------------------------------------


def _cholesky_tangent(factor: Array, t: Array, *, transpose: bool) -> Array:
    if not t.size:
        return t.copy()
    if transpose and t.shape[-1] > BLOCK:
        out = np.tril(t)
        for index in np.ndindex(*t.shape[:-2]):
            _pull_back(factor if factor.ndim == 2 else factor[index], out[index])
        return out
    factor = np.tril(factor)
    if transpose:
        return _symmetrized(_between(factor, _halved(np.swapaxes(factor, -1, -2) @ t), transpose=True))
    return np.asarray(factor @ _halved(_between(factor, _symmetrized(t), transpose=False)))


def _symmetrized(x: Array) -> Array:
    return np.asarray((x + np.swapaxes(x, -1, -2)) * x.dtype.type(0.5))


def _between(factor: Array, x: Array, *, transpose: bool) -> Array:
    """Return L^-1 x L^-T, or L^-T x L^-1."""
    left = _solve(factor, x, transpose=transpose)
    return np.swapaxes(_solve(factor, np.swapaxes(left, -1, -2), transpose=transpose), -1, -2)


def _solve(factor: Array, b: Array, *, transpose: bool) -> Array:
    """Return L^-1 b or L^-T b, where one factor may be given for a batch of b."""
    given = {"lower": True, "transpose": transpose, "unit_diagonal": False}
    if factor.ndim == b.ndim:
        return solve_triangle(factor, np.ascontiguousarray(b), **given)
    n = b.shape[-1]
    columns = np.moveaxis(b, -2, 0)
    solved = solve_triangle(factor, np.ascontiguousarray(columns.reshape(n, -1)), **given)
    return np.moveaxis(solved.reshape(columns.shape), 0, -2)


def _halved(x: Array) -> Array:
    """Return phi(x)."""
    out = np.tril(x)
    diagonal = np.arange(x.shape[-1])
    out[..., diagonal, diagonal] *= x.dtype.type(0.5)
    return out


def _pull_back(factor: Array, found: Array) -> None:
    """Turn the lower triangle of ct into G(ct), from the last block of columns to the first.

    The factorization of a block of columns, where R is what is left of its diagonal block D, and B, C what is below R, D:

        D D^T = x_D - R R^T        C = (x_C - B R^T) D^-T
    """
    n, half = len(factor), factor.dtype.type(0.5)
    for stop in range(n, 0, -BLOCK):
        start = max(stop - BLOCK, 0)
        rows, before, below = slice(start, stop), slice(0, start), slice(stop, n)
        d, r, b, c = np.tril(factor[rows, rows]), factor[rows, before], factor[below, before], factor[below, rows]
        by_d, by_r = found[rows, rows], found[rows, before]
        by_c = _solve(d, found[below, rows].T, transpose=True)  # transposed
        found[below, rows] = by_c.T
        found[below, before] -= by_c.T @ r
        by_r -= by_c @ b
        inner = _between(d, _halved(d.T @ (by_d - by_c @ c)), transpose=True)
        inner += inner.T
        by_r -= inner @ r
        np.multiply(inner, half, out=by_d)
        found[below, rows] *= half
        found[rows, below] = found[below, rows].T


def _infer_tangent(factor: TensorType, t: TensorType, *, transpose: bool) -> tuple[TensorType, ...]:
    del transpose
    for item in (factor, t):
        check_matrices("cholesky_tangent", item)
        check_square("cholesky_tangent", item)
    if factor.dtype is not t.dtype:
        given = f"{factor} and {t}"
        raise DtypeError(f"cholesky_tangent: needed operands of one dtype, got {given}; convert one", given=given)
    if factor.shape not in (t.shape, t.shape[-2:]):
        given = f"{factor} and {t}"
        raise ShapeError(
            f"cholesky_tangent: needed t [...,n,n] and a factor [...,n,n] or [n,n], got {given}; make them agree", given=given
        )
    return (t,)


def _phi(x: Any) -> Any:
    half = np.tri(x.shape[-1], dtype=x.dtype) - np.eye(x.shape[-1], dtype=x.dtype) / 2
    return lower_of(x * broadcast_to(constant(x, half), x.shape))


def _inverse_times(factor: Any, x: Any, *, transpose: bool = False) -> Any:
    return triangular_solve(factor, x, transpose=transpose)


def _times_inverse(x: Any, factor: Any, *, transpose: bool = False) -> Any:
    return swap(triangular_solve(factor, swap(x), transpose=not transpose))


def _tangent_by_factor(t: Any, y: Any, factor: Any, x: Any, *, transpose: bool) -> Any:
    """Differentiate F and G in L, whose tangent is t: d(L^-1) = -L^-1 t L^-1."""
    t, factor = lower_of(t), lower_of(factor)
    if transpose:
        inner = _phi(matmul(swap(factor), x))
        whole = _times_inverse(_inverse_times(factor, inner, transpose=True), factor)
        turned = matmul(whole, t)
        moved = _phi(matmul(swap(t), x)) - matmul(matmul(swap(t), whole), factor)
        return symmetrized(_times_inverse(_inverse_times(factor, moved, transpose=True) - turned, factor))
    whole = _times_inverse(_inverse_times(factor, symmetrized(x)), factor, transpose=True)
    turned = matmul(_inverse_times(factor, t), whole)
    return matmul(t, _phi(whole)) - matmul(factor, _phi(turned + swap(turned)))


def _batch_tangent(batched: Sequence[bool], operands: Sequence[Any], params: Any) -> Any:
    factor, t = operands
    count = (factor if batched[0] else t).shape[0]
    if not batched[1]:
        t = broadcast_to(t, (count, *t.shape))
    if not batched[0] and factor.ndim > 2:
        factor = broadcast_to(factor, t.shape)
    elif batched[0] and factor.ndim < t.ndim:
        factor = broadcast_to(factor.reshape(count, *(1,) * (t.ndim - 3), *factor.shape[1:]), t.shape)
    return call(tangent_primitive, factor, t, **params)


def _tangent_samples(rng: np.random.Generator) -> list[Sample]:
    def sample(t: Array, *lead: int, transpose: bool, dtype: str = "float64") -> Sample:
        n = t.shape[-1]
        return Sample((np.linalg.cholesky(_definite(rng, *lead, n)).astype(dtype), t.astype(dtype)), {"transpose": transpose})

    return [
        sample(draw(rng, *shape), *lead, transpose=transpose)
        for transpose in (False, True)
        for lead, shape in (((), (3, 3)), ((2,), (2, 3, 3)), ((), (2, 3, 3)), ((), (1, 1)))
    ] + [sample(draw(rng, 3, 3), transpose=transpose, dtype="float32") for transpose in (False, True)]


tangent_primitive: Primitive = declare(
    Primitive(
        name="cholesky_tangent",
        kernel=_cholesky_tangent,
        infer=_infer_tangent,
        derivative=by_position(
            Tangent(_tangent_by_factor),
            Linear(lambda ct, factor, t, transpose: call(tangent_primitive, factor, ct, transpose=not transpose)),
        ),
        batch=_batch_tangent,
        arity=2,
        params=("transpose",),
        doc="Derivative, along the symmetric part of t, of the Cholesky factor that is given first; or the transpose of that map.",
        samples=_tangent_samples,
        flops=lambda factor, t, *, transpose: (1.5 if transpose else 4.0) * t.size * t.shape[-1],
    )
)
