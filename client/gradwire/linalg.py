"""Linear algebra for arrays and traced arrays alike: the names of `numpy.linalg`, and those of `scipy.linalg` that NumPy lacks.

Everything takes matrices over the last two axes and batches over the others. What NumPy dispatches needs no import from here:
`np.linalg.cholesky` of a traced array comes to the `cholesky` below by itself. SciPy dispatches nothing, so its functions are
called by these names. Where both have a function (cholesky, qr, svd), this one is NumPy's. A name that is not here is
`numpy.linalg`'s own.

Nothing raises for a matrix that is singular or not definite: the result is inf or NaN.

Example:
    >>> import numpy as np, gradwire as gw, gradwire.linalg as gla
    >>> gw.grad(lambda a: gla.expm(a)[0, 1])(np.zeros((2, 2)))
    array([[0., 1.],
           [0., 0.]])
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import Value, implements
from gradwire_core.errors import ArgumentError, ShapeError
from gradwire_core.ops._declare import call, constant
from gradwire_core.ops.cholesky import cholesky
from gradwire_core.ops.contraction import matmul
from gradwire_core.ops.eigen import eig, eigh, eigvals, eigvalsh
from gradwire_core.ops.exponential import expm, frechet_primitive
from gradwire_core.ops.factorization import lu, qr
from gradwire_core.ops.linalg import det, inv, slogdet, solve
from gradwire_core.ops.shaping import pad_with_zeros, promote
from gradwire_core.ops.singular import pinv, rank_tolerance, svd, svdvals
from gradwire_core.ops.sylvester import solve_sylvester, sqrtm
from gradwire_core.ops.triangular import floating, triangular_solve

Axis = int | tuple[int, ...] | None

__all__ = [
    "block_diag", "cho_factor", "cho_solve", "cholesky", "cond", "cross", "det", "diagonal", "eig", "eigh", "eigvals",
    "eigvalsh", "expm", "expm_frechet", "inv", "kron", "lstsq", "lu", "matmul", "matrix_norm", "matrix_power", "matrix_rank",
    "matrix_transpose", "matvec", "multi_dot", "norm", "outer", "pinv", "qr", "slogdet", "solve", "solve_continuous_lyapunov",
    "solve_sylvester", "solve_triangular", "sqrtm", "svd", "svdvals", "tensordot", "tensorinv", "tensorsolve", "trace",
    "vecdot", "vecmat", "vector_norm",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    return getattr(np.linalg, name)


def _array(x: Any) -> Any:
    return x if isinstance(x, Value) else np.asarray(x)


def _ufunc(name: str) -> list[Any]:
    """Return a ufunc that not every supported NumPy has, as a list of one or none."""
    return [getattr(np, name)] if hasattr(np, name) else []


# -- solving -------------------------------------------------------------------------------------------------------------------


def solve_triangular(a: Any, b: Any, trans: Any = 0, *, lower: bool = False, unit_diagonal: bool = False) -> Any:
    """Return the solution y of a y = b for a triangular matrix, as `scipy.linalg.solve_triangular`.

    Args:
        a: matrices [..., n, n], of which one triangle is read.
        b: a vector [n] or matrices [..., n, k].
        trans: 0 or "N" to solve with a, 1 or "T" with its transpose.
        lower: whether the lower triangle is read.
        unit_diagonal: whether the diagonal is taken as ones, and not read.

    Example:
        >>> import gradwire.linalg as gla
        >>> gla.solve_triangular([[2.0, 0.0], [1.0, 4.0]], [2.0, 9.0], lower=True)
        array([1., 2.])
    """
    if trans not in (0, 1, "N", "T"):
        raise ArgumentError(f"solve_triangular: needed trans 0, 1, 'N' or 'T', got {trans!r}; choose one of those", given=trans)
    return triangular_solve(_array(a), _array(b), lower=lower, transpose=trans in (1, "T"), unit_diagonal=unit_diagonal)


def cho_factor(a: Any, *, lower: bool = False) -> tuple[Any, bool]:
    """Return the Cholesky factor of positive definite matrices and whether it is lower triangular, for `cho_solve`."""
    return cholesky(_array(a), upper=not lower), lower


def cho_solve(c_and_lower: tuple[Any, bool], b: Any) -> Any:
    """Return the solution y of a y = b, from the Cholesky factor of a that `cho_factor` gives.

    Example:
        >>> import numpy as np, gradwire.linalg as gla
        >>> a = np.array([[4.0, 2.0], [2.0, 5.0]])
        >>> np.allclose(gla.cho_solve(gla.cho_factor(a), a), np.eye(2))
        True
    """
    factor, lower = c_and_lower
    inner = solve_triangular(factor, b, trans=int(not lower), lower=lower)
    return solve_triangular(factor, inner, trans=int(lower), lower=lower)


@implements(np.linalg.lstsq)
def lstsq(a: Any, b: Any, rcond: Any = None) -> tuple[Any, Any, Any, Any]:
    """Return the shortest x for which |b - a x| is least, the squared residuals, the rank and the singular values of a.

    Derivatives are those at constant rank. The residuals are there where a has more rows than columns, whatever its rank.

    Args:
        a: matrices [..., m, n].
        b: a vector [m] or matrices [..., m, k].
        rcond: singular values up to this share of the largest are taken as 0; by default the machine precision times max(m, n).
    """
    a, b = floating("lstsq", _array(a), _array(b))
    tolerance = rank_tolerance(a) if rcond is None else max(float(rcond), float(np.finfo(a.dtype).eps))
    right = np.expand_dims(b, -1) if np.ndim(b) == 1 else b
    x = matmul(pinv(a, tolerance), right)
    rest = np.sum(np.square(right - matmul(a, x)), -2)
    values = svdvals(a)
    if a.shape[-2] <= a.shape[-1]:
        rest = rest[..., :0]
    return np.squeeze(x, -1) if np.ndim(b) == 1 else x, rest, _rank(values, tolerance), values


@implements(np.linalg.tensorsolve)
def tensorsolve(a: Any, b: Any, axes: Any = None) -> Any:
    """Return the solution x of `tensordot(a, x, ndim(x)) = b`."""
    a, b = floating("tensorsolve", _array(a), _array(b))
    if axes is not None:
        order = [axis for axis in range(a.ndim) if axis not in axes]
        a = np.transpose(a, (*order, *axes))
    shape = a.shape[b.ndim :]
    return np.reshape(solve(np.reshape(a, (b.size, math.prod(shape))), np.reshape(b, (b.size,))), shape)


@implements(np.linalg.tensorinv)
def tensorinv(a: Any, ind: int = 2) -> Any:
    """Return the inverse of `tensordot` with a over its first `ind` axes."""
    (a,) = floating("tensorinv", _array(a))
    left, right = a.shape[:ind], a.shape[ind:]
    return np.reshape(inv(np.reshape(a, (math.prod(left), math.prod(right)))), (*right, *left))


def solve_continuous_lyapunov(a: Any, q: Any) -> Any:
    """Return the solution y of a y + y a^T = q."""
    a = _array(a)
    return solve_sylvester(a, np.swapaxes(a, -1, -2), _array(q))


def expm_frechet(a: Any, e: Any, *, compute_expm: bool = True) -> Any:
    """Return the exponential of square matrices and its derivative along e, or that alone."""
    a, e = floating("expm_frechet", _array(a), _array(e))
    found = call(frechet_primitive, a, e)
    return (expm(a), found) if compute_expm else found


# -- norms ---------------------------------------------------------------------------------------------------------------------


@implements(np.linalg.norm)
def norm(x: Any, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return a norm, whose derivative where it is 0 is taken as 0.

    Args:
        x: vectors or matrices.
        ord: for vectors a number, inf or -inf; for matrices None, "fro", "nuc", 1, -1, 2, -2, inf or -inf.
        axis: the axis of vectors or the two axes of matrices; by default all.
        keepdims: whether these axes stay, of length 1.

    Example:
        >>> import numpy as np, gradwire as gw
        >>> gw.grad(np.linalg.norm)(np.array([3.0, 4.0]))
        array([0.6, 0.8])
    """
    (x,) = floating("norm", _array(x))
    if axis is None and (ord is None or x.ndim == 1):
        total = _vector_norm(np.reshape(x, (x.size,)), 2 if ord is None else ord, (0,), keepdims=False)
        return np.reshape(total, (1,) * x.ndim) if keepdims else total
    axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(int(item) % max(x.ndim, 1) for item in axes)
    if len(axes) == 2:
        return _matrix_norm(x, ord, axes, keepdims=keepdims)
    if len(axes) == 1:
        return _vector_norm(x, 2 if ord is None else ord, axes, keepdims=keepdims)
    raise ShapeError(f"norm: needed one axis or two, got {axis} of {x.ndim} axes; name them, or use vector_norm", given=axis)


@implements(np.linalg.vector_norm)
def vector_norm(x: Any, /, *, axis: Axis = None, keepdims: bool = False, ord: Any = 2) -> Any:
    """Return the norm of vectors along an axis, several, or all; its derivative where it is 0 is taken as 0."""
    (x,) = floating("vector_norm", _array(x))
    axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return _vector_norm(x, ord, tuple(int(item) % max(x.ndim, 1) for item in axes), keepdims=keepdims)


@implements(np.linalg.matrix_norm)
def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    """Return the norm of matrices; its derivative where it is 0 is taken as 0."""
    (x,) = floating("matrix_norm", _array(x))
    return _matrix_norm(x, ord, (x.ndim - 2, x.ndim - 1), keepdims=keepdims)


def _root(x: Any) -> Any:
    """Return the square root, whose derivative at 0 is taken as 0."""
    is_zero = np.equal(x, 0)
    return np.where(is_zero, 0.0, np.sqrt(np.where(is_zero, 1.0, x)))


def _vector_norm(x: Any, order: Any, axes: tuple[int, ...], *, keepdims: bool) -> Any:
    x = np.abs(x) if x.dtype.kind == "c" else x
    if isinstance(order, str):
        raise ArgumentError(
            f"norm: needed a number as ord of a vector norm, got {order!r}; name two axes for matrices", given=order
        )
    if np.isinf(order):
        return (np.max if order > 0 else np.min)(np.abs(x), axes, keepdims=keepdims)
    if order == 0:
        return np.sum(np.not_equal(x, 0).astype(x.dtype), axes, keepdims=keepdims)
    if order == 1:
        return np.sum(np.abs(x), axes, keepdims=keepdims)
    if not math.prod(x.shape[item] for item in axes):
        return np.sum(x, axes, keepdims=keepdims)
    scale = _scale(x, axes)
    small = x / scale
    total = _square_norm(small, axes) if order == 2 else _power_norm(small, float(order), axes)
    whole = total * scale
    return whole if keepdims else np.squeeze(whole, axes)


def _scale(x: Any, axes: tuple[int, ...]) -> Any:
    """Return the power of two next to the largest element: divided by it, no power overflows, and no digit changes."""
    largest = np.max(np.abs(x), axes, keepdims=True)
    is_usual = np.logical_and(np.greater(largest, 0), np.isfinite(largest))
    return np.exp2(np.floor(np.log2(np.where(is_usual, largest, 1.0))))


def _square_norm(x: Any, axes: tuple[int, ...]) -> Any:
    return _root(np.sum(np.square(x), axes, keepdims=True))


def _power_norm(x: Any, order: float, axes: tuple[int, ...]) -> Any:
    # At an element 0 the derivative is taken as 0, where by the powers it may be inf.
    is_zero = np.equal(x, 0)
    powers = np.where(is_zero, 0.0 if order > 0 else np.inf, np.where(is_zero, 1.0, np.abs(x)) ** order)
    total = np.sum(powers, axes, keepdims=True)
    is_flat = np.logical_or(np.equal(total, 0), np.equal(total, np.inf))
    limit = np.where(np.equal(total, 0) == (order > 0), 0.0, np.inf).astype(x.dtype)
    return np.where(is_flat, limit, np.where(is_flat, 1.0, total) ** (1.0 / order))


def _matrix_norm(x: Any, order: Any, axes: tuple[int, ...], *, keepdims: bool) -> Any:
    if order is None or order == "fro":
        return _vector_norm(x, 2, axes, keepdims=keepdims)
    if order not in (1, -1, 2, -2, np.inf, -np.inf, "nuc"):
        text = f"norm: needed ord None, 'fro', 'nuc', 1, -1, 2, -2, inf or -inf for a matrix, got {order!r}; choose one of those"
        raise ArgumentError(text, given=order)
    if order == "nuc" or abs(order) == 2:
        values = svdvals(np.moveaxis(x, axes, (-2, -1)))
        # The derivative of a singular value 0 is taken as 0.
        values = np.where(np.equal(values, 0), 0.0, values)
        total = np.sum(values, -1) if order == "nuc" else np.max(values, -1) if order > 0 else np.min(values, -1)
        return np.expand_dims(total, axes) if keepdims else total
    inner, outer = axes if abs(order) == 1 else axes[::-1]
    sums = np.sum(np.abs(x), inner, keepdims=True)
    total = (np.max if order > 0 else np.min)(sums, outer, keepdims=True)
    return total if keepdims else np.squeeze(total, axes)


@implements(np.linalg.cond)
def cond(x: Any, p: Any = None) -> Any:
    """Return the condition number of matrices, `norm(x, p) * norm(inv(x), p)`; by default the ratio of extreme singular values."""
    (x,) = floating("cond", _array(x))
    if p is None or p in (2, -2):
        values = svdvals(x)
        return values[..., -1] / values[..., 0] if p == -2 else values[..., 0] / values[..., -1]
    axes = (x.ndim - 2, x.ndim - 1)
    return _matrix_norm(x, p, axes, keepdims=False) * _matrix_norm(inv(x), p, axes, keepdims=False)


@implements(np.linalg.matrix_rank)
def matrix_rank(A: Any, tol: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Any:  # noqa: N803  # NumPy's name
    """Return the number of singular values above a tolerance; it has no derivative."""
    (matrix,) = floating("matrix_rank", _array(A))
    values = np.flip(np.sort(np.abs(eigvalsh(matrix)), -1), -1) if hermitian else svdvals(matrix)
    if tol is not None:
        return np.sum(np.greater(values, np.expand_dims(tol, -1)), -1)
    return _rank(values, rank_tolerance(matrix) if rtol is None else rtol)


def _rank(values: Any, tolerance: Any) -> Any:
    return np.sum(np.greater(values, tolerance * values[..., :1]), -1)


# -- products ------------------------------------------------------------------------------------------------------------------


@implements(np.linalg.matrix_power)
def matrix_power(a: Any, n: int) -> Any:
    """Return the n-th power of square matrices, by repeated squaring; of the inverse for negative n."""
    a = _array(a)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ShapeError(f"matrix_power: needed square matrices [...,n,n], got shape {list(a.shape)}; reshape it", given=a.shape)
    if n < 0:
        a, n = inv(floating("matrix_power", a)[0]), -n
    if n == 0:
        return np.broadcast_to(constant(a, np.eye(a.shape[-1], dtype=a.dtype)), a.shape)
    total = None
    while n:
        if n % 2:
            total = a if total is None else matmul(total, a)
        n //= 2
        a = matmul(a, a) if n else a
    return total


@implements(np.linalg.multi_dot)
def multi_dot(arrays: Sequence[Any]) -> Any:
    """Return the product of matrices, in the order that takes the fewest operations; the first and last may be vectors."""
    items = [_array(item) for item in arrays]
    if len(items) < 2:
        raise ArgumentError(f"multi_dot: needed at least two arrays, got {len(items)}; pass more", given=len(items))
    lengths = [1 if items[0].ndim == 1 else items[0].shape[0], *[item.shape[0] for item in items[1:]]]
    lengths = [*lengths, 1 if items[-1].ndim == 1 else items[-1].shape[-1]]

    @functools.cache
    def best(start: int, stop: int) -> tuple[int, int]:
        """Return the fewest operations for the product of a range, and where to part it."""
        if stop - start == 1:
            return 0, start
        sides = lengths[start] * lengths[stop]
        return min((best(start, cut)[0] + best(cut, stop)[0] + sides * lengths[cut], cut) for cut in range(start + 1, stop))

    def product(start: int, stop: int) -> Any:
        if stop - start == 1:
            return items[start]
        cut = best(start, stop)[1]
        return matmul(product(start, cut), product(cut, stop))

    return product(0, len(items))


@implements(np.kron)
def kron(a: Any, b: Any) -> Any:
    """Return the Kronecker product, `a_ij b_kl` at row (i, k) and column (j, l)."""
    a, b = _array(a), _array(b)
    rank = max(a.ndim, b.ndim)
    left, right = ((*(1,) * (rank - item.ndim), *item.shape) for item in (a, b))
    high = np.reshape(a, [part for length in left for part in (length, 1)])
    low = np.reshape(b, [part for length in right for part in (1, length)])
    return np.reshape(high * low, [one * other for one, other in zip(left, right, strict=True)])


@implements(np.cross, np.linalg.cross)
def cross(a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None) -> Any:
    """Return the vector product of vectors of three elements along an axis."""
    if axis is not None:
        axisa = axisb = axisc = axis
    a, b = np.moveaxis(_array(a), axisa, -1), np.moveaxis(_array(b), axisb, -1)
    if a.shape[-1] != 3 or b.shape[-1] != 3:
        given = f"{a.shape[-1]} and {b.shape[-1]}"
        raise ShapeError(f"cross: needed 3 elements along axis {axisa}, got {given}; pad them with zeros", given=given)
    one, two = np.array([1, 2, 0]), np.array([2, 0, 1])
    found = a[..., one] * b[..., two] - a[..., two] * b[..., one]
    return np.moveaxis(found, -1, axisc)


def block_diag(*arrays: Any) -> Any:
    """Return the matrix with the given matrices along its diagonal and zeros elsewhere; batched over leading axes.

    Example:
        >>> import gradwire.linalg as gla
        >>> gla.block_diag([[1.0, 2.0]], [[3.0]])
        array([[1., 2., 0.],
               [0., 0., 3.]])
    """
    blocks = promote("block_diag", map(_array, arrays))
    blocks = [np.reshape(item, (1,) * (2 - item.ndim) + tuple(item.shape)) if item.ndim < 2 else item for item in blocks]
    lead = np.broadcast_shapes(*[item.shape[:-2] for item in blocks])
    width = sum(item.shape[-1] for item in blocks)
    rows, left = [], 0
    for item in blocks:
        whole = np.broadcast_to(item, (*lead, *item.shape[-2:]))
        zeros = (0,) * (whole.ndim - 1)
        rows.append(pad_with_zeros(whole, (*zeros, left), (*zeros, width - left - item.shape[-1]), (*zeros, 0)))
        left += item.shape[-1]
    return np.concatenate(rows, -2)


# -- under the name of np.linalg, on the last two axes -------------------------------------------------------------------------


@implements(np.linalg.trace)
def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    """Return the sums of the diagonals of matrices."""
    return np.sum(diagonal(x, offset=offset), -1, dtype=dtype)


@implements(np.linalg.diagonal)
def diagonal(x: Any, /, *, offset: int = 0) -> Any:
    """Return the diagonals of matrices."""
    return np.diagonal(_array(x), offset, -2, -1)


@implements(np.linalg.matrix_transpose, np.matrix_transpose)
def matrix_transpose(x: Any, /) -> Any:
    """Return matrices transposed."""
    return np.swapaxes(_array(x), -1, -2)


def _conjugate(x: Any) -> Any:
    return np.conjugate(x) if x.dtype.kind == "c" else x


@implements(np.linalg.vecdot, *_ufunc("vecdot"))
def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """Return the dot products of vectors along an axis, the first conjugated."""
    return np.sum(_conjugate(_array(x1)) * _array(x2), axis)


@implements(*_ufunc("matvec"))
def matvec(x1: Any, x2: Any, /) -> Any:
    """Return the products of matrices and vectors over the last axes."""
    return np.squeeze(matmul(_array(x1), np.expand_dims(_array(x2), -1)), -1)


@implements(*_ufunc("vecmat"))
def vecmat(x1: Any, x2: Any, /) -> Any:
    """Return the products of vectors, conjugated, and matrices over the last axes."""
    return np.squeeze(matmul(np.expand_dims(_conjugate(_array(x1)), -2), _array(x2)), -2)


@implements(np.linalg.outer)
def outer(x1: Any, x2: Any, /) -> Any:
    """Return the matrix of all products of elements of two vectors."""
    return np.outer(_array(x1), _array(x2))


@implements(np.linalg.tensordot)
def tensordot(x1: Any, x2: Any, /, *, axes: Any = 2) -> Any:
    """Return the product summed over pairs of axes."""
    return np.tensordot(_array(x1), _array(x2), axes)


implements(np.linalg.matmul)(matmul)
