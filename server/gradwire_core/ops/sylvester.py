"""Sylvester equations and the square root of a matrix, whose derivative solves one; batched over leading axes.

No kernel raises: what does not exist is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.errors import DtypeError, ShapeError
from gradwire_core.ops._declare import Linear, Sample, Tangent, by_position, call, declare, draw
from gradwire_core.ops.contraction import matmul
from gradwire_core.ops.elementwise import negative
from gradwire_core.ops.linalg import check_square, swap
from gradwire_core.ops.shaping import broadcast_to
from gradwire_core.ops.triangular import check_matrices, finite_matrices, floating, matrix_flops
from gradwire_core.program import Primitive
from gradwire_core.types import Array, TensorType

# -- a y + y b = q -----------------------------------------------------------------------------------------------------------


def _solve_sylvester(a: Array, b: Array, q: Array) -> Array:
    out = np.full(q.shape, np.nan, q.dtype)
    if q.size:
        for index in np.ndindex(*q.shape[:-2]):
            if np.isfinite(a[index]).all() and np.isfinite(b[index]).all():
                out[index] = _solve_one(a[index], b[index], q[index])
    return out


def _solve_one(a: Array, b: Array, q: Array) -> Array:
    """Solve by the real Schur forms of both matrices (Bartels and Stewart, 1972)."""
    from scipy.linalg import get_lapack_funcs, schur

    left, u = schur(a, "real", check_finite=False)
    right, v = schur(b.T, "real", check_finite=False)
    trsyl = get_lapack_funcs("trsyl", (left, right, q))
    y, scale, info = trsyl(left, right, u.T @ q @ v, tranb="T")  # type: ignore[operator]  # one name gives one function
    return u @ (y / scale) @ v.T if info == 0 else np.full_like(q, np.nan)


def _infer_sylvester(a: TensorType, b: TensorType, q: TensorType) -> tuple[TensorType, ...]:
    given = f"{a}, {b} and {q}"
    for item in (a, b):
        check_matrices("solve_sylvester", item)
        check_square("solve_sylvester", item)
    if not a.dtype is b.dtype is q.dtype:
        raise DtypeError(f"solve_sylvester: needed operands of one dtype, got {given}; convert them", given=given)
    if q.shape != (*a.shape[:-1], b.shape[-1]) or a.shape[:-2] != b.shape[:-2]:
        raise ShapeError(
            f"solve_sylvester: needed a [...,m,m], b [...,n,n], q [...,m,n], got {given}; make them agree", given=given
        )
    return (q,)


def _batch_sylvester(batched: Sequence[bool], operands: Sequence[Any], params: Any) -> Any:
    count = next(item.shape[0] for item, flag in zip(operands, batched, strict=True) if flag)
    full = [item if flag else broadcast_to(item, (count, *item.shape)) for item, flag in zip(operands, batched, strict=True)]
    return call(sylvester_primitive, *full)


def _sylvester_samples(rng: np.random.Generator) -> list[Sample]:
    def sample(m: int, n: int, *lead: int, dtype: str = "float64") -> Sample:
        a, b = draw(rng, *lead, m, m) + 4 * np.eye(m), draw(rng, *lead, n, n) + 3 * np.eye(n)
        return Sample(tuple(item.astype(dtype) for item in (a, b, draw(rng, *lead, m, n))))

    return [sample(3, 2), sample(2, 2, 2), sample(1, 3), sample(2, 2, dtype="float32")]


sylvester_primitive: Primitive = declare(
    Primitive(
        name="solve_sylvester",
        kernel=_solve_sylvester,
        infer=_infer_sylvester,
        derivative=by_position(
            Tangent(lambda t, y, a, b, q: negative(call(sylvester_primitive, a, b, matmul(t, y)))),
            Tangent(lambda t, y, a, b, q: negative(call(sylvester_primitive, a, b, matmul(y, t)))),
            Linear(lambda ct, a, b, q: call(sylvester_primitive, swap(a), swap(b), ct)),
        ),
        batch=_batch_sylvester,
        arity=3,
        params=(),
        doc="The solution y of a y + y b = q; NaN where a and -b share an eigenvalue.",
        samples=_sylvester_samples,
        flops=lambda a, b, q: 25.0 * (a.size * a.shape[-1] + b.size * b.shape[-1]),
    )
)


def solve_sylvester(a: Any, b: Any, q: Any) -> Any:
    """Return the solution y of a y + y b = q."""
    a, b, q = floating("solve_sylvester", a, b, q)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2], q.shape[:-2])
    return call(sylvester_primitive, *[broadcast_to(item, (*lead, *item.shape[-2:])) for item in (a, b, q)])


# -- sqrtm -------------------------------------------------------------------------------------------------------------------


def _sqrtm(x: Array) -> Array:
    out = np.full(x.shape, np.nan, x.dtype)
    finite = finite_matrices(x)[..., 0, 0]
    for index in np.ndindex(*x.shape[:-2]):
        if x.size and finite[index]:
            out[index] = _root_of(x[index])
    return out


def _root_of(x: Array) -> Array:
    """Take the root of the Schur form, column by column (Bjorck and Hammarling, 1983)."""
    from scipy.linalg import rsf2csf, schur

    blocks, turned = schur(x, "real", check_finite=False)
    below = np.concatenate([[0], np.diag(blocks, -1), [0]])
    is_alone = (below[:-1] == 0) & (below[1:] == 0)
    if (is_alone & (np.diag(blocks) < 0)).any():
        return np.full_like(x, np.nan)
    form, u = rsf2csf(blocks, turned, check_finite=False)
    root = np.diag(np.sqrt(np.diag(form)))
    for column in range(1, len(x)):
        for row in range(column - 1, -1, -1):
            between = slice(row + 1, column)
            rest = form[row, column] - root[row, between] @ root[between, column]
            root[row, column] = rest / (root[row, row] + root[column, column]) if rest != 0 else 0
    return (u @ root @ u.conj().T).real  # type: ignore[no-any-return]


def _infer_sqrtm(x: TensorType) -> tuple[TensorType, ...]:
    check_matrices("sqrtm", x)
    check_square("sqrtm", x)
    return (x,)


sqrtm_primitive: Primitive = declare(
    Primitive(
        name="sqrtm",
        kernel=_sqrtm,
        infer=_infer_sqrtm,
        derivative=by_position(Tangent(lambda t, y, x: call(sylvester_primitive, y, y, t))),
        batch=lambda batched, operands, params: call(sqrtm_primitive, *operands),
        arity=1,
        params=(),
        doc="Principal square root y of a matrix, y y = x; NaN where that is not real.",
        samples=lambda rng: [
            Sample((draw(rng, 3, 3) + 5 * np.eye(3),)),
            Sample((draw(rng, 2, 2, 2) + 5 * np.eye(2),)),
            Sample((draw(rng, 1, 1) + 5,)),
            Sample(((draw(rng, 2, 2) + 5 * np.eye(2)).astype(np.float32),)),
        ],
        flops=matrix_flops(30),
    )
)


def sqrtm(a: Any) -> Any:
    """Return the principal square root of matrices; NaN where it is not real."""
    (a,) = floating("sqrtm", a)
    return call(sqrtm_primitive, a)
