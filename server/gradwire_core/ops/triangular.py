"""Solving with triangular matrices, and what the other pages of linear algebra share; batched over leading axes.

No kernel raises: where the diagonal has a zero, a solution is inf or NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gradwire_core.errors import DtypeError, ShapeError
from gradwire_core.ops._declare import Linear, Sample, Tangent, by_position, call, constant, convert, declare, draw
from gradwire_core.ops.contraction import matmul
from gradwire_core.ops.elementwise import negative, where
from gradwire_core.ops.linalg import batch_solve, check_square, solve_broadcast, swap
from gradwire_core.ops.shaping import promote
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


def finite_matrices(x: Array) -> Array:
    """Return where the elements of matrices are all finite, over their leading axes; the last two have length 1."""
    return np.isfinite(x).all(axis=(-2, -1), keepdims=True)  # type: ignore[return-value]  # with keepdims it is an array


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


def solve_triangle(a: Array, b: Array, *, lower: bool, transpose: bool, unit_diagonal: bool) -> Array:
    count, n = int(np.prod(b.shape[:-2])), b.shape[-2]
    if count > SMALL >= n or b.size == 0:
        return _substitute(np.swapaxes(a, -1, -2) if transpose else a, b, lower != transpose, unit_diagonal)
    from scipy.linalg import get_blas_funcs

    (trsm,) = get_blas_funcs(("trsm",), (a, b))
    out = np.array(b, order="C")
    for index in np.ndindex(*b.shape[:-2]):
        # The transposed equation: its arrays are column-major, as BLAS wants them, without a copy; and so is a transposed matrix.
        matrix, is_column_major = a[index], a[index].flags.f_contiguous
        given = {"lower": lower == is_column_major, "trans_a": transpose != is_column_major, "diag": unit_diagonal}
        trsm(1.0, matrix if is_column_major else matrix.T, out[index].T, side=1, overwrite_b=True, **given)
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


def _triangular_samples(rng: np.random.Generator) -> list[Sample]:
    def sample(shape: tuple[int, ...], lower: bool, transpose: bool, unit_diagonal: bool, dtype: str = "float64") -> Sample:
        a = draw(rng, *shape[:-1], shape[-2]) + 3 * np.eye(shape[-2])
        params = {"lower": lower, "transpose": transpose, "unit_diagonal": unit_diagonal}
        return Sample((a.astype(dtype), draw(rng, *shape, dtype=dtype)), params)

    whole = sample((3, 2), True, True, False)
    return [
        Sample(tuple(item * (1 + 0.5j) + 0.25j for item in whole.operands), whole.params),
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
        kernel=solve_triangle,
        infer=_infer_triangular,
        derivative=by_position(Tangent(_triangular_tangent), Linear(_triangular_transpose)),
        batch=lambda batched, operands, params: batch_solve(triangular_primitive, batched, operands, params),
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
    return solve_broadcast(triangular_primitive, a, b, params)


def solve_right(x: Any, a: Any, *, lower: bool) -> Any:
    """Return x a^-1 for a triangular matrix a."""
    return swap(call(triangular_primitive, a, swap(x), lower=lower, transpose=True, unit_diagonal=False))
