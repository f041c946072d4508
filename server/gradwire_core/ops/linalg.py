"""Linear algebra over the last two axes, batched over the leading ones: det, slogdet, inv, solve.

No kernel raises: a singular matrix has determinant 0 and an inverse of NaN. Derivatives of a determinant use the adjugate,
which exists for singular matrices too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import implements
from gradwire_core.errors import DtypeError, ShapeError
from gradwire_core.ops._declare import Linear, Sample, Tangent, by_position, call, convert, declare, draw
from gradwire_core.ops.complex import PARTS, is_complex, real
from gradwire_core.ops.contraction import einsum, matmul
from gradwire_core.ops.elementwise import negative
from gradwire_core.ops.shaping import broadcast_to, expand_dims, eye, promote, reshape, squeeze, transpose
from gradwire_core.ops.small import is_small_batch, small_adjugate, small_det, small_inv, small_slogdet, small_solve
from gradwire_core.program import Params, Primitive
from gradwire_core.types import Array, Dtype, TensorType

SAFE_CONDITION = 200.0


def check_square(where: str, x: TensorType) -> None:
    """Check that a type is of inexact square matrices.

    Raises:
        ShapeError: it has fewer than two axes, or the last two differ.
        DtypeError: its elements are integers.
    """
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"{where}: needed square matrices [...,n,n], got {x}; reshape or slice it", given=x)
    if not x.dtype.is_inexact:
        raise DtypeError(f"{where}: needed a floating dtype, got {x}; convert it with astype", given=x)


def as_floating(x: Any) -> Any:
    """Return x, converted to float64 where its elements are integers or bools."""
    return convert(x, Dtype.FLOAT64) if x.dtype.kind in "bi" else x


def swap(x: Any) -> Any:
    """Return x with its last two axes exchanged."""
    return transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _matrices(rng: np.random.Generator) -> list[Sample]:
    near = 3 * np.eye(3)
    return [
        Sample((draw(rng, 3, 3) + near,)),
        Sample((draw(rng, 2, 3, 3) + near,)),
        Sample((draw(rng, 1, 1) + 4,)),
        Sample(((draw(rng, 4, 4) + 5 * np.eye(4)).astype(np.float32),)),
        Sample((draw(rng, 2, 4, 4) + 1j * draw(rng, 2, 4, 4) + 5 * np.eye(4),)),
        Sample((draw(rng, 3, 3) + 1j * draw(rng, 3, 3) + near,)),
    ]


def _cubic(x: TensorType) -> float:
    return float(x.size * x.shape[-1])


def _inner(x: Any, y: Any) -> Any:
    return einsum("...ij,...ij->...", x, y)


# -- det and its derivative --------------------------------------------------------------------------------------------------


def _infer_det(x: TensorType) -> tuple[TensorType, ...]:
    check_square("det", x)
    return (x.with_shape(x.shape[:-2]),)


def _infer_matrices(where: str) -> Any:
    def infer(x: TensorType) -> tuple[TensorType, ...]:
        check_square(where, x)
        return (x,)

    return infer


def _det(x: Array) -> Array:
    return small_det(x) if is_small_batch(x.shape, x.dtype) else np.linalg.det(x)


det_primitive: Primitive = declare(
    Primitive(
        name="det",
        kernel=_det,
        infer=_infer_det,
        derivative=by_position(Tangent(lambda t, y, x: _inner(swap(call(_adjugate_primitive, x)), t))),
        batch=lambda batched, operands, params: call(det_primitive, *operands),
        arity=1,
        params=(),
        doc="Determinant; the derivative is the adjugate, also where the matrix is singular.",
        samples=_matrices,
        flops=_cubic,
    )
)


@implements(np.linalg.det)
def det(x: Any) -> Any:
    """Return the determinant of the matrices over the last two axes."""
    return call(det_primitive, as_floating(x))


def _adjugate(x: Array) -> Array:
    if x.shape[-1] == 1:
        return np.ones_like(x)
    if x.shape[-1] == 2:
        a, b, c, d = x[..., 0, 0], x[..., 0, 1], x[..., 1, 0], x[..., 1, 1]
        return np.stack([np.stack([d, -b], -1), np.stack([-c, a], -1)], -2)
    if x.shape[-1] == 3 and x.dtype.kind == "f":
        return small_adjugate(x)
    if not is_small_batch(x.shape, x.dtype):
        return _singular_adjugate(x)
    inverse = small_inv(x)
    found = small_det(x)[..., None, None] * inverse
    # The inverse of what is near a singular matrix has lost digits that the adjugate has.
    is_doubtful = ~(np.abs(x).max(axis=(-2, -1)) * np.abs(inverse).max(axis=(-2, -1)) < SAFE_CONDITION)
    if is_doubtful.any():
        found[is_doubtful] = _singular_adjugate(x[is_doubtful])
    return found


def _singular_adjugate(x: Array) -> Array:
    """Return adjugates by singular values, which may be 0."""
    finite = np.isfinite(x).all(axis=(-2, -1), keepdims=True)
    u, s, vh = np.linalg.svd(np.where(finite, x, 0))
    n = s.shape[-1]
    others = np.where(np.eye(n, dtype=bool), 1, s[..., None, :]).prod(axis=-1)
    sign = np.linalg.det(u) * np.linalg.det(vh)
    found = np.swapaxes(vh, -1, -2).conj() @ ((sign[..., None] * others)[..., :, None] * np.swapaxes(u, -1, -2).conj())
    return np.where(finite, found, np.nan).astype(x.dtype)


def _cross_rows(x: Any, y: Any) -> Any:
    """Return the vector products of the other two rows of 3 by 3 matrices, the first taken of x, the second of y."""
    one, two = np.array([1, 2, 0]), np.array([2, 0, 1])
    first, second = x[..., one, :], y[..., two, :]
    return first[..., one] * second[..., two] - first[..., two] * second[..., one]


def _adjugate_tangent(t: Any, y: Any, x: Any) -> Any:
    n = x.shape[-1]
    if n == 1:
        return None
    if n == 3:
        return swap(_cross_rows(t, x) + _cross_rows(x, t))
    identity = broadcast_to(eye(x.builder, n, n, Dtype.of(x.dtype)), x.shape)
    if n == 2:
        return identity * _as_matrix(einsum("...ii->...", t)) - t
    # adj(x) x = det(x) 1, differentiated, and multiplied by the inverse from the right.
    return matmul(identity * _as_matrix(_inner(swap(y), t)) - matmul(y, t), inv(x))


def _as_matrix(x: Any) -> Any:
    return expand_dims(expand_dims(x, -1), -1)


_adjugate_primitive: Primitive = declare(
    Primitive(
        name="adjugate",
        kernel=_adjugate,
        infer=_infer_matrices("adjugate"),
        derivative=by_position(Tangent(_adjugate_tangent)),
        batch=lambda batched, operands, params: call(_adjugate_primitive, *operands),
        arity=1,
        params=(),
        doc="Adjugate: det(x) inv(x), also where x is singular; its own derivative there is NaN from 4 rows on.",
        samples=_matrices,
        flops=lambda x: 20 * _cubic(x),
    )
)

# -- slogdet -----------------------------------------------------------------------------------------------------------------


_SlogdetResult: Any = type(np.linalg.slogdet(np.ones((1, 1))))


def _slogdet(x: Array) -> tuple[Array, Array]:
    if is_small_batch(x.shape, x.dtype):
        return small_slogdet(x)
    sign, log = np.linalg.slogdet(x)
    return sign, log


def _infer_slogdet(x: TensorType) -> tuple[TensorType, ...]:
    check_square("slogdet", x)
    sign = x.with_shape(x.shape[:-2])
    return (sign, sign.with_dtype(PARTS.get(x.dtype, x.dtype)))


def _slogdet_tangent(t: Any, y: Any, x: Any) -> Any:
    trace = _inner(swap(call(inv_primitive, x)), t)
    if not is_complex(x):
        return (None, trace)
    growth = real(trace)
    return (y[0] * (trace - growth), growth)


slogdet_primitive: Primitive = declare(
    Primitive(
        name="slogdet",
        kernel=_slogdet,
        infer=_infer_slogdet,
        derivative=by_position(Tangent(_slogdet_tangent)),
        batch=lambda batched, operands, params: call(slogdet_primitive, *operands),
        arity=1,
        params=(),
        doc="Sign and logarithm of the absolute value of the determinant; (0, -inf) and a derivative of NaN where singular.",
        samples=_matrices,
        flops=_cubic,
    )
)


@implements(np.linalg.slogdet)
def slogdet(x: Any) -> Any:
    """Return (sign, logabsdet) of the matrices over the last two axes."""
    return _SlogdetResult(*call(slogdet_primitive, as_floating(x)))


# -- inv and solve -----------------------------------------------------------------------------------------------------------


def _inv(x: Array) -> Array:
    if is_small_batch(x.shape, x.dtype):
        return small_inv(x)
    try:
        return np.linalg.inv(x)
    except np.linalg.LinAlgError:
        if x.ndim == 2:
            return np.full_like(x, np.nan)
        return np.stack([_inv(item) for item in x])


inv_primitive: Primitive = declare(
    Primitive(
        name="inv",
        kernel=_inv,
        infer=_infer_matrices("inv"),
        derivative=by_position(Tangent(lambda t, y, x: negative(matmul(matmul(y, t), y)))),
        batch=lambda batched, operands, params: call(inv_primitive, *operands),
        arity=1,
        params=(),
        doc="Inverse; NaN where the matrix is singular.",
        samples=_matrices,
        flops=lambda x: 3 * _cubic(x),
    )
)


@implements(np.linalg.inv)
def inv(x: Any) -> Any:
    """Return the inverse of the matrices over the last two axes."""
    return call(inv_primitive, as_floating(x))


def _solve(a: Array, b: Array) -> Array:
    if is_small_batch(a.shape, a.dtype) and b.shape[-1] <= a.shape[-1]:
        return small_solve(a, b)
    try:
        return np.linalg.solve(a, b)
    except np.linalg.LinAlgError:
        if a.ndim == 2:
            return np.full_like(b, np.nan)
        return np.stack([_solve(*pair) for pair in zip(a, b, strict=True)])


def _infer_solve(a: TensorType, b: TensorType) -> tuple[TensorType, ...]:
    check_square("solve", a)
    if a.dtype is not b.dtype:
        raise DtypeError(f"solve: needed operands of one dtype, got {a} and {b}; convert one", given=f"{a}, {b}")
    if b.ndim != a.ndim or b.shape[:-1] != a.shape[:-1]:
        raise ShapeError(f"solve: needed a [...,n,n] and b [...,n,k], got {a} and {b}; make them agree", given=f"{a}, {b}")
    return (b,)


def solve_columns(primitive: Primitive, a: Any, b: Any, axis: int, params: Params) -> Any:
    """Solve with one matrix along an axis of b: all other axes together are the columns."""
    order = (axis, *[item for item in range(b.ndim) if item != axis])
    flat = reshape(transpose(b, order), (b.shape[axis], math.prod(b.shape[:axis]) * math.prod(b.shape[axis + 1 :])))
    solved = reshape(call(primitive, a, flat, **params), tuple(b.shape[item] for item in order))
    return transpose(solved, tuple(int(item) for item in np.argsort(order)))


def batch_solve(primitive: Primitive, batched: Sequence[bool], operands: Sequence[Any], params: Params) -> Any:
    """Solve for a batch of right sides, at once where they share one matrix, or for a batch of both."""
    a, b = operands
    if not batched[0] and a.ndim == 2:
        return solve_columns(primitive, a, b, 1, params)
    count = (a if batched[0] else b).shape[0]
    a, b = [item if flag else broadcast_to(item, (count, *item.shape)) for item, flag in zip(operands, batched, strict=True)]
    return call(primitive, a, b, **params)


def solve_broadcast(primitive: Primitive, a: Any, b: Any, params: Params) -> Any:
    """Solve for b a vector or matrices over the last two axes, whose other axes broadcast with those of a."""
    if b.ndim == 1:
        return squeeze(solve_broadcast(primitive, a, expand_dims(b, -1), params), -1)
    if a.ndim == 2 and b.ndim > 2:
        return solve_columns(primitive, a, b, b.ndim - 2, params)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return call(primitive, *[broadcast_to(item, (*lead, *item.shape[-2:])) for item in (a, b)], **params)


solve_primitive: Primitive = declare(
    Primitive(
        name="solve",
        kernel=_solve,
        infer=_infer_solve,
        derivative=by_position(
            Tangent(lambda t, y, a, b: negative(call(solve_primitive, a, matmul(t, y)))),
            Linear(lambda ct, a, b: call(solve_primitive, swap(a), ct)),
        ),
        batch=lambda batched, operands, params: batch_solve(solve_primitive, batched, operands, params),
        arity=2,
        params=(),
        doc="The solution y of a y = b; NaN where a is singular.",
        samples=lambda rng: [
            Sample((draw(rng, 3, 3) + 4 * np.eye(3), draw(rng, 3, 2))),
            Sample((draw(rng, 2, 3, 3) + 4 * np.eye(3), draw(rng, 2, 3, 1))),
        ],
        flops=lambda a, b: _cubic(a) + 2 * b.size * a.shape[-1],
    )
)


@implements(np.linalg.solve)
def solve(a: Any, b: Any) -> Any:
    """Return the solution y of a y = b, for b a vector or matrices over the last two axes."""
    a, b = promote("solve", [a, b])
    if not Dtype.of(a.dtype).is_inexact:
        a, b = convert(a, Dtype.FLOAT64), convert(b, Dtype.FLOAT64)
    return solve_broadcast(solve_primitive, a, b, {})
