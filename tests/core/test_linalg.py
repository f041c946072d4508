"""Linear algebra: values as NumPy's and SciPy's, derivatives as in 60 digits, and nothing that raises."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import scipy.linalg

import gradwire as gw
import gradwire.linalg as gla
from gradwire_core.ops import PRIMITIVES
from gradwire_core.program import Program, Sample
from gradwire_core.testing import check_derivatives, interpret, primitive_program
from gradwire_core.transforms import jvp

rng = np.random.default_rng(7)
SQUARE = rng.normal(size=(4, 4)) + 4 * np.eye(4)
DEFINITE = SQUARE @ SQUARE.T / 4 + np.eye(4)
SYMMETRIC = np.diag([-3.0, -1.0, 1.5, 4.0]) + 0.2 * (SQUARE + SQUARE.T)
TALL = rng.normal(size=(5, 3)) + 3 * np.eye(5, 3)
WIDE = TALL.T.copy()
SPREAD = np.diag([1.0, 2.5, 4.0, 6.0]) + 0.3 * rng.normal(size=(4, 4))
TURNING = np.array([[-2.0, -1.5, 0.1, 0.2], [1.0, -2.0, 0.3, 0.1], [0.2, 0.1, 1.0, 0.4], [0.1, 0.3, -0.2, 3.0]])
RIGHT = rng.normal(size=(4, 3))


# -- derivatives to many digits ------------------------------------------------------------------------------------------------


def to_mp(array: np.ndarray) -> mpmath.matrix:
    return mpmath.matrix(np.atleast_2d(array).tolist())


def solved(a: mpmath.matrix, b: mpmath.matrix) -> mpmath.matrix:
    return mpmath.inverse(a) * b


def aligned(columns: mpmath.matrix, like: np.ndarray) -> list[int]:
    """Signs that turn columns towards given ones."""
    return [
        1 if sum(columns[row, place] * float(like[row, place]) for row in range(columns.rows)) > 0 else -1
        for place in range(columns.cols)
    ]


def scaled(matrix: mpmath.matrix, signs: list[int], *, rows: bool = False) -> mpmath.matrix:
    found = matrix.copy()
    for row in range(matrix.rows):
        for column in range(matrix.cols):
            found[row, column] *= signs[row if rows else column]
    return found


def mp_triangle(a: mpmath.matrix, *, lower: bool, unit: bool) -> mpmath.matrix:
    keeps = (lambda i, j: i > j) if lower else (lambda i, j: i < j)
    entry = lambda i, j: a[i, j] if keeps(i, j) or (i == j and not unit) else mpmath.mpf(i == j)
    return mpmath.matrix([[entry(i, j) for j in range(a.cols)] for i in range(a.rows)])


def mp_triangular(a: mpmath.matrix, b: mpmath.matrix, *, lower: bool, transpose: bool, unit_diagonal: bool) -> list:
    triangle = mp_triangle(a, lower=lower, unit=unit_diagonal)
    return [solved(triangle.T if transpose else triangle, b)]


def mp_qr(a: mpmath.matrix, q: np.ndarray, r: np.ndarray) -> list:
    """By Gram and Schmidt, for the leading columns."""
    k = q.shape[1]
    left = mpmath.matrix(a.rows, k)
    for column in range(k):
        vector = a[:, column]
        for known in range(column):
            vector -= left[:, known] * (left[:, known].T * a[:, column])[0]
        left[:, column] = vector / mpmath.norm(vector)
    left = scaled(left, aligned(left, q))
    return [left, left.T * a]


def mp_lu(a: mpmath.matrix, p: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> list:
    """By elimination, with the rows already exchanged."""
    u = to_mp(p.T) * a
    l = mpmath.eye(a.rows)  # noqa: E741
    for column in range(min(a.rows, a.cols)):
        for row in range(column + 1, a.rows):
            l[row, column] = u[row, column] / u[column, column]
            for place in range(a.cols):
                u[row, place] -= l[row, column] * u[column, place]
    k = lower.shape[1]
    return [to_mp(p), l[:, :k], u[:k, :]]


def mp_eigh(a: mpmath.matrix, w: np.ndarray, v: np.ndarray) -> list:
    values, vectors = mpmath.eigsy((a + a.T) / 2)
    order = sorted(range(len(values)), key=lambda place: values[place])
    columns = mpmath.matrix([[vectors[row, place] for place in order] for row in range(a.rows)])
    return [mpmath.matrix([[values[place] for place in order]]), scaled(columns, aligned(columns, v))]


def mp_eig(a: mpmath.matrix, wr: np.ndarray, wi: np.ndarray, vr: np.ndarray, vi: np.ndarray) -> list:
    values, vectors = mpmath.eig(a)
    nearest = [
        min(range(a.rows), key=lambda place, at=complex(one, other): abs(values[place] - at))
        for one, other in zip(wr, wi, strict=True)
    ]
    columns = []
    for number, place in enumerate(nearest):
        vector = vectors[:, place] / mpmath.norm(vectors[:, place])
        top = int(np.argmax(np.abs(vr[:, number] + 1j * vi[:, number])))
        phase = vector[top] / abs(vector[top]) * int(np.sign(vr[top, number]))
        columns.append(vector / phase)
    part = lambda take: mpmath.matrix([[take(column[row]) for column in columns] for row in range(a.rows)])
    line = lambda take: mpmath.matrix([[take(values[place]) for place in nearest]])
    return [line(mpmath.re), line(mpmath.im), part(mpmath.re), part(mpmath.im)]


def mp_svd(a: mpmath.matrix, u: np.ndarray, s: np.ndarray, vh: np.ndarray) -> list:
    left, values, right = mpmath.svd_r(a, full_matrices=False)
    signs = aligned(left, u)
    return [scaled(left, signs), values.T, scaled(right, signs, rows=True)]


def mp_pinv(a: mpmath.matrix, *, rtol: float) -> list:
    return [solved(a.T * a, a.T) if a.rows >= a.cols else a.T * mpmath.inverse(a * a.T)]


def mp_sylvester(a: mpmath.matrix, b: mpmath.matrix, q: mpmath.matrix) -> list:
    m, n = a.rows, b.rows
    whole = mpmath.matrix(m * n, m * n)
    for i in range(m):
        for j in range(n):
            for k in range(m):
                whole[i * n + j, k * n + j] += a[i, k]
            for k in range(n):
                whole[i * n + j, i * n + k] += b[k, j]
    y = solved(whole, mpmath.matrix([q[i, j] for i in range(m) for j in range(n)]))
    return [mpmath.matrix([[y[i * n + j] for j in range(n)] for i in range(m)])]


def mp_frechet(a: mpmath.matrix, e: mpmath.matrix) -> list:
    n = a.rows
    block = mpmath.matrix(2 * n, 2 * n)
    for i in range(n):
        for j in range(n):
            block[i, j] = block[n + i, n + j] = a[i, j]
            block[i, n + j] = e[i, j]
    return [mpmath.expm(block, method="taylor")[:n, n:]]


def mp_det(a: mpmath.matrix) -> list:
    return [mpmath.matrix([[mpmath.det(a)]])]


TRIANGULAR = [
    {"lower": lower, "transpose": transpose, "unit_diagonal": unit}
    for lower in (True, False)
    for transpose in (True, False)
    for unit in (True, False)
]
# Operands, params, and the function in many digits: it takes the operands, then, where signs or order are free, our results.
EXACT: dict[str, tuple[tuple, dict, Callable]] = {
    **{
        f"triangular_solve {number}": ((SQUARE, RIGHT), params, lambda a, b, *results, params=params: mp_triangular(a, b, **params))
        for number, params in enumerate(TRIANGULAR)
    },
    "cholesky": ((DEFINITE,), {}, lambda a, *results: [mpmath.cholesky((a + a.T) / 2)]),
    "det": ((SQUARE,), {}, lambda a, *results: mp_det(a)),
    "eig": ((TURNING,), {}, mp_eig),
    "eigh": ((SYMMETRIC,), {}, mp_eigh),
    "expm": ((TURNING,), {}, lambda a, *results: [mpmath.expm(a, method="taylor")]),
    "expm large": ((5 * TURNING,), {}, lambda a, *results: [mpmath.expm(a, method="taylor")]),
    "expm_frechet": ((TURNING, SQUARE), {}, lambda a, e, *results: mp_frechet(a, e)),
    "inv": ((SQUARE,), {}, lambda a, *results: [mpmath.inverse(a)]),
    "lu": ((SQUARE[[2, 0, 3, 1]],), {}, mp_lu),
    "lu tall": ((TALL,), {}, mp_lu),
    "lu wide": ((WIDE,), {}, mp_lu),
    "pinv": ((SQUARE,), {"rtol": 1e-9}, lambda a, *results: mp_pinv(a, rtol=0)),
    "pinv tall": ((TALL,), {"rtol": 1e-9}, lambda a, *results: mp_pinv(a, rtol=0)),
    "pinv wide": ((WIDE,), {"rtol": 1e-9}, lambda a, *results: mp_pinv(a, rtol=0)),
    "qr": ((SQUARE,), {}, mp_qr),
    "qr tall": ((TALL,), {}, mp_qr),
    "qr wide": ((WIDE,), {}, mp_qr),
    "solve": ((SQUARE, RIGHT), {}, lambda a, b, *results: [solved(a, b)]),
    "solve_sylvester": ((SQUARE, TURNING[2:, 2:], RIGHT[:, :2]), {}, lambda a, b, q, *results: mp_sylvester(a, b, q)),
    "sqrtm": ((SQUARE,), {}, lambda a, *results: [mpmath.sqrtm(a)]),
    "svd": ((SPREAD,), {}, mp_svd),
    "svd tall": ((TALL,), {}, mp_svd),
    "svd wide": ((WIDE,), {}, mp_svd),
    "svdvals": ((SPREAD,), {}, lambda a, *results: [mpmath.svd_r(a, compute_uv=False).T]),
}  # fmt: skip


def exact_program(name: str) -> tuple[Program, tuple[np.ndarray, ...]]:
    operands, params, _ = EXACT[name]
    return primitive_program(PRIMITIVES[name.split(maxsplit=1)[0]], Sample(operands, params)), operands


def many_digits(name: str, steps: list[tuple[int, np.ndarray]]) -> list[np.ndarray]:
    """Mixed derivatives along steps, each of an operand in a direction, by differences in 60 digits."""
    program, operands = exact_program(name)
    results = interpret(program, operands)
    size = mpmath.mpf(10) ** -18
    with mpmath.workdps(60):

        def at(signs: tuple[int, ...]) -> list[mpmath.matrix]:
            moved = [to_mp(item) for item in operands]
            for sign, (position, direction) in zip(signs, steps, strict=True):
                moved[position] += sign * size * to_mp(direction)
            return EXACT[name][2](*moved, *results)

        total = None
        for signs in np.ndindex(*[2] * len(steps)):
            signed = tuple(1 - 2 * sign for sign in signs)
            weight = mpmath.mpf(int(np.prod(signed))) / (2 * size) ** len(steps)
            parts = [weight * item for item in at(signed)]
            total = parts if total is None else [one + other for one, other in zip(total, parts, strict=True)]
        assert total is not None
        return [np.array(item.tolist(), dtype=float).reshape(result.shape) for item, result in zip(total, results, strict=True)]


def error_of(given: list[np.ndarray], needed: list[np.ndarray]) -> float:
    """The largest error, relative to the largest element of its result."""
    return max(float(abs(one - other).max() / max(abs(other).max(), 1e-3)) for one, other in zip(given, needed, strict=True))


@pytest.mark.parametrize("name", EXACT)
def test_first_derivatives_are_exact(name):
    program, operands = exact_program(name)
    for position, operand in enumerate(operands):
        direction = np.random.default_rng(1).normal(size=operand.shape)
        given = interpret(jvp(program, (position,)), [*operands, direction])
        error = error_of(given, many_digits(name, [(position, direction)]))
        print(f"{name}, operand {position}: {error:.1e}")
        assert error <= 1e-12


@pytest.mark.parametrize("name", EXACT)
def test_second_derivatives_are_exact(name):
    program, operands = exact_program(name)
    one, other = (np.random.default_rng(seed).normal(size=operands[0].shape) for seed in (2, 3))
    given = interpret(jvp(jvp(program, (0,)), (0,)), [*operands, one, other])
    error = error_of(given, many_digits(name, [(0, one), (0, other)]))
    print(f"{name}: {error:.1e}")
    assert error <= 1e-11


OVERSCALED = {
    "far above the diagonal": np.array([[1.0, 1e6], [0.0, -1.0]]),
    "nilpotent": np.array([[0.0, 1e10, 1.0], [0.0, 0.0, 1e10], [0.0, 0.0, 0.0]]),
    "graded": np.array([[1.0, 1e3, 1e5], [0.0, -1.0, 1e2], [0.0, 0.0, 2.0]]),
    "cancelling": np.array([[-49.0, 24.0], [-64.0, 31.0]]),
}


@pytest.mark.parametrize("name", OVERSCALED)
def test_exponentials_of_matrices_of_small_powers_keep_their_digits(name):
    a = OVERSCALED[name]
    along = np.ones_like(a)
    with mpmath.workdps(150):
        needed = [mpmath.expm(to_mp(a), method="taylor"), *mp_frechet(to_mp(a), to_mp(along))]
    program = primitive_program(PRIMITIVES["expm"], Sample((a,)))
    given = [*interpret(program, [a]), *interpret(jvp(program), [a, along])]
    assert error_of(given, [np.array(item.tolist(), dtype=float) for item in needed]) <= 1e-13


APART = {
    "numbers": np.diag([-1e200, 0.0]),
    "above": np.array([[-1e200, 1.0], [0.0, 0.0]]),
    "below": np.array([[-1e100, 0.0], [3.0, -2.0]]),
    "in no order": np.array([[0.5, 0.0, 2.0], [1.0, -1e9, 3.0], [0.0, 0.0, -1e4]]),
    "a turning block": np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 2.0], [0.0, 0.0, -1e12]]),
    "two blocks": np.block(
        [[np.array([[-3e5, 1e5], [1e5, -3e5]]), np.ones((2, 2))], [np.zeros((2, 2)), np.array([[1.0, 2.0], [3.0, -4.0]])]]
    ),
}


@pytest.mark.parametrize("name", APART)
def test_exponentials_of_blocks_of_very_different_size_keep_their_digits(name):
    a = APART[name]
    along = np.linspace(0.5, 1.0, a.size).reshape(a.shape)
    with mpmath.workdps(500):
        needed = [np.array(mpmath.expm(to_mp(a), method="taylor").tolist(), dtype=float)]
        needed += [np.array(item.tolist(), dtype=float) for item in mp_frechet(to_mp(a), to_mp(along))]
    program = primitive_program(PRIMITIVES["expm"], Sample((a,)))
    given = [*interpret(program, [a]), *interpret(jvp(program), [a, along])]
    assert error_of(given, needed) <= 1e-13
    batch = np.stack([np.eye(len(a)), a, 2.0 * np.eye(len(a))])
    np.testing.assert_array_equal(gw.evaluate(gla.expm)(batch)[1], given[0])


# -- values --------------------------------------------------------------------------------------------------------------------

BATCH = np.stack([SQUARE, SQUARE.T, SPREAD, TURNING + 3 * np.eye(4)])


def same(function: Callable, *operands: np.ndarray) -> tuple[Callable, Callable, tuple]:
    """A function that is NumPy's both for traced and for plain arrays."""
    return function, function, operands


# A name, the function of traced arrays, what it is to equal, and operands.
VALUES: dict[str, tuple[Callable, Callable, tuple]] = {
    "block_diag": (lambda x, y: gla.block_diag(x, y, x[0, :2]), lambda x, y: scipy.linalg.block_diag(x, y, x[0, :2]), (TALL, WIDE)),
    "cho_solve": (lambda a, b: gla.cho_solve(gla.cho_factor(a), b), np.linalg.solve, (DEFINITE, RIGHT)),
    "cho_solve lower": (lambda a, b: gla.cho_solve(gla.cho_factor(a, lower=True), b), np.linalg.solve, (DEFINITE, RIGHT[:, 0])),
    "cholesky": same(np.linalg.cholesky, DEFINITE),
    "cholesky upper": (lambda a: np.linalg.cholesky(a, upper=True), lambda a: np.linalg.cholesky(a).T, (DEFINITE,)),
    "cross": same(np.cross, TALL, TALL[::-1].copy()),
    "cross axis": same(lambda x, y: np.cross(x, y, axis=0), WIDE, WIDE[:, ::-1].copy()),
    "eigh": same(lambda a: np.linalg.eigh(a).eigenvectors, SYMMETRIC),
    "eigvals": same(np.linalg.eigvals, TURNING),
    "eigvalsh": same(np.linalg.eigvalsh, SYMMETRIC),
    "expm": (gla.expm, scipy.linalg.expm, (SQUARE,)),
    "expm batch": (gla.expm, scipy.linalg.expm, (BATCH,)),
    "kron": same(np.kron, TALL, RIGHT),
    "kron vector": same(np.kron, TALL[0], RIGHT),
    "lu": (lambda a: gla.lu(a)[2], lambda a: scipy.linalg.lu(a)[2], (BATCH[:3],)),
    "lyapunov": (gla.solve_continuous_lyapunov, scipy.linalg.solve_continuous_lyapunov, (SQUARE, DEFINITE)),
    "lstsq": same(lambda a, b: np.linalg.lstsq(a, b)[0], TALL, TALL[:, :2] ** 2),
    "lstsq vector": same(lambda a, b: np.linalg.lstsq(a, b)[0], WIDE, TALL[0]),
    "lstsq residuals": same(lambda a, b: np.linalg.lstsq(a, b)[1], TALL, TALL[:, 0] ** 2),
    "lstsq rank": same(lambda a, b: np.linalg.lstsq(a, b)[2], TALL, TALL[:, 0]),
    "matrix_power": same(lambda a: np.linalg.matrix_power(a, 5), BATCH),
    "matrix_power 0": same(lambda a: np.linalg.matrix_power(a, 0), BATCH),
    "matrix_power -3": same(lambda a: np.linalg.matrix_power(a, -3), SQUARE),
    "matrix_rank": same(np.linalg.matrix_rank, np.outer(RIGHT[:, 0], RIGHT[:, 1])),
    "matrix_transpose": (np.matrix_transpose, lambda a: np.swapaxes(a, -1, -2), (BATCH,)),
    "multi_dot": same(lambda *items: np.linalg.multi_dot(items), TALL, WIDE, TALL, RIGHT[0]),
    "multi_dot row": same(lambda *items: np.linalg.multi_dot(items), RIGHT[0], WIDE, TALL),
    "pinv": same(np.linalg.pinv, np.stack([TALL, TALL[::-1]])),
    "pinv of low rank": same(np.linalg.pinv, TALL @ np.diag([1.0, 1.0, 0.0])),
    "qr": same(lambda a: np.linalg.qr(a).Q, BATCH),
    "qr complete": same(lambda a: np.linalg.qr(a, "complete").Q, np.stack([TALL, TALL[::-1]])),
    "qr complete r": same(lambda a: np.linalg.qr(a, "complete").R, TALL),
    "qr r": same(lambda a: np.linalg.qr(a, "r"), WIDE),
    "solve_triangular": (gla.solve_triangular, scipy.linalg.solve_triangular, (SQUARE, RIGHT)),
    "solve_triangular batch": (
        lambda a, b: gla.solve_triangular(a, b, lower=True),
        lambda a, b: np.linalg.solve(np.tril(a), b),
        (SQUARE, BATCH),
    ),
    "solve_triangular column-major": (
        lambda a, b: gla.solve_triangular(a.T, b, "T", lower=True),
        lambda a, b: scipy.linalg.solve_triangular(a.T, b, "T", lower=True),
        (SQUARE, RIGHT),
    ),
    "solve_triangular trans": (
        lambda a, b: gla.solve_triangular(a, b, "T", lower=True, unit_diagonal=True),
        lambda a, b: scipy.linalg.solve_triangular(a, b, "T", lower=True, unit_diagonal=True),
        (SQUARE, RIGHT[:, 0]),
    ),
    "solve_sylvester": (gla.solve_sylvester, scipy.linalg.solve_sylvester, (SQUARE, SPREAD, SYMMETRIC)),
    "sqrtm": (gla.sqrtm, scipy.linalg.sqrtm, (SQUARE,)),
    "svd": same(lambda a: np.linalg.svd(a).U, SPREAD),
    "svd again": (lambda a: _product_of(np.linalg.svd(a)), lambda a: a, (TALL,)),
    "svdvals": same(np.linalg.svdvals, BATCH),
    "svdvals by svd": same(lambda a: np.linalg.svd(a, compute_uv=False), WIDE),
    "tensorinv": same(np.linalg.tensorinv, SQUARE.reshape(2, 2, 2, 2)),
    "tensorsolve": same(np.linalg.tensorsolve, SQUARE.reshape(2, 2, 2, 2), SPREAD[:2, :2]),
    "trace": same(np.linalg.trace, BATCH),
    "matvec": (gla.matvec, lambda x, y: np.einsum("bij,bj->bi", x, y), (BATCH, SQUARE)),
    "vecmat": (gla.vecmat, lambda x, y: np.einsum("bj,bji->bi", x, y), (SQUARE, BATCH)),
    "expm_frechet": (
        lambda a, e: gla.expm_frechet(a, e)[1],
        lambda a, e: scipy.linalg.expm_frechet(a, e, compute_expm=False),
        (SQUARE, TURNING),
    ),
    "vecdot": same(np.linalg.vecdot, TALL, TALL[::-1].copy()),
    **{f"cond {p}": same(lambda a, p=p: np.linalg.cond(a, p), BATCH) for p in (None, 1, -2, "fro", np.inf)},
}  # fmt: skip
NUMBERS = {"matrix_rank", "lstsq rank"}


def _product_of(factors):
    u, s, vh = factors
    return (u[..., : s.shape[-1]] * s[..., None, :]) @ vh[..., : s.shape[-1], :]


NORMS: dict[str, tuple[Callable, tuple]] = {
    **{
        f"vector {order}": (lambda x, order=order: np.linalg.norm(x, order), (TALL[0],))
        for order in (None, 0, 1, 2, 3, 0.5, -1, -2.5, np.inf, -np.inf)
    },
    **{
        f"matrix {order}": (lambda x, order=order: np.linalg.norm(x, order), (TALL,))
        for order in (None, "fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf)
    },
    **{
        f"axes {axes} {order}": (lambda x, axes=axes, order=order: np.linalg.norm(x, order, axes, keepdims=True), (BATCH,))
        for axes in ((0, 1), (-1, 0)) for order in ("fro", "nuc", 1, -1, 2, np.inf)
    },
    **{f"axis {order}": (lambda x, order=order: np.linalg.norm(x, order, 1), (BATCH[:3],)) for order in (None, 1, 3, np.inf)},
    "all kept": (lambda x: np.linalg.norm(x, keepdims=True), (BATCH,)),
    "vector_norm": (lambda x: np.linalg.vector_norm(x, axis=(0, 2), ord=3), (BATCH,)),
    "vector_norm of all": (lambda x: np.linalg.vector_norm(x, keepdims=True), (BATCH,)),
    "matrix_norm": (lambda x: np.linalg.matrix_norm(x, ord="nuc"), (BATCH,)),
}  # fmt: skip
CASES = {**VALUES, **{f"norm {name}": (function, function, operands) for name, (function, operands) in NORMS.items()}}
SMOOTH = [name for name in CASES if name not in NUMBERS and name not in ("eigvals", "norm vector 0", "pinv of low rank")]


def close(given, needed, rtol=1e-12):
    scale = np.max(np.abs(needed), initial=0.0)
    np.testing.assert_allclose(given, needed, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_numpy_and_scipy(name):
    function, needed, operands = CASES[name]
    given = gw.evaluate(function)(*operands)
    reference = needed(*operands)
    assert np.shape(given) == np.shape(reference)
    close(given, reference)


@pytest.mark.parametrize("name", CASES)
def test_plain_arrays_are_taken_too(name):
    function, needed, operands = CASES[name]
    close(function(*operands), needed(*operands))


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_of_first_and_second_order(name):
    function, _, operands = CASES[name]
    check_derivatives(function, operands, rtol=1e-8)


@pytest.mark.parametrize(
    "name", ["cho_solve", "cholesky", "eigh", "expm", "lstsq", "pinv", "qr complete", "svd", "norm vector 3", "norm matrix nuc"]
)
def test_derivatives_of_third_order(name):
    function, _, operands = CASES[name]
    check_derivatives(function, operands, order=3, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("matrix_rank", "lstsq rank"))])
def test_single_precision_stays(name):
    function, needed, operands = CASES[name]
    narrow = [item.astype(np.float32) for item in operands]
    given = gw.evaluate(function)(*narrow)
    assert given.dtype in (np.float32, np.complex64)
    close(given, needed(*[item.astype(np.float64) for item in narrow]), 2e-3 if "lstsq" in name or "rank" in name else 2e-4)


@pytest.mark.parametrize("name", [name for name in SMOOTH if "batch" not in name])
def test_a_batch_is_a_loop_with_its_derivatives(name):
    function, _, operands = CASES[name]
    columns = [np.stack([item, item * 1.01, item * 0.99]) for item in operands]
    gradient = gw.grad(lambda *items: np.sum(np.sin(function(*items))))
    for one in (function, gradient):
        given = gw.evaluate(gw.vmap(one))(*columns)
        close(given, np.stack([gw.evaluate(one)(*row) for row in zip(*columns, strict=True)]), 1e-11)


# -- where there is no derivative, or no value ---------------------------------------------------------------------------------

ZERO, ONES, IDENTITY = np.zeros((3, 3)), np.ones((3, 3)), np.eye(3)
UNDEFINED, INFINITE = np.full((3, 3), np.nan), np.where(np.eye(3), np.inf, 1.0)
NILPOTENT = np.eye(3, k=1)
ODD = [
    ZERO,
    ONES,
    IDENTITY,
    -IDENTITY,
    NILPOTENT,
    UNDEFINED,
    INFINITE,
    np.stack([ZERO, 2 * IDENTITY, UNDEFINED]),
    np.zeros((0, 0)),
    np.zeros((0, 3, 3)),
]
ANYWHERE: dict[str, Callable] = {
    "cholesky": np.linalg.cholesky, "det": np.linalg.det, "eig": lambda x: np.real(np.linalg.eig(x)[1]),
    "eigh": lambda x: np.linalg.eigh(x)[1], "eigvals": lambda x: np.imag(np.linalg.eigvals(x)), "eigvalsh": np.linalg.eigvalsh,
    "expm": gla.expm, "frobenius": lambda x: np.linalg.norm(x, axis=(-2, -1)), "inv": np.linalg.inv,
    "lstsq": lambda x: np.linalg.lstsq(x, x)[0], "lu": lambda x: gla.lu(x)[1],
    "matrix_power": lambda x: np.linalg.matrix_power(x, -2),
    "nuclear": lambda x: np.linalg.norm(x, "nuc", axis=(-2, -1)), "pinv": np.linalg.pinv, "qr": lambda x: np.linalg.qr(x).Q,
    "slogdet": lambda x: np.linalg.slogdet(x)[1], "solve": lambda x: np.linalg.solve(x, x),
    "solve_sylvester": lambda x: gla.solve_sylvester(x, x, x), "solve_triangular": lambda x: gla.solve_triangular(x, x),
    "sqrtm": gla.sqrtm, "svd": lambda x: np.linalg.svd(x)[0], "svdvals": np.linalg.svdvals,
}  # fmt: skip


@pytest.mark.parametrize("name", ANYWHERE)
def test_nothing_raises_or_warns(name):
    function = ANYWHERE[name]
    for x in ODD:
        assert gw.evaluate(function)(x).dtype == np.float64
        assert gw.grad(lambda x: np.sum(function(x)))(x).shape == x.shape


@pytest.mark.parametrize("name", ANYWHERE)
def test_a_matrix_of_nan_is_answered_by_nan_alone_and_harms_no_other(name):
    single = gw.evaluate(ANYWHERE[name])(2 * SPREAD)
    both = gw.evaluate(ANYWHERE[name])(np.stack([2 * SPREAD, np.full((4, 4), np.nan)]))
    np.testing.assert_array_equal(both[0], single)
    triangle = {
        "cholesky": np.tril(np.ones((4, 4))),
        "lu": np.tril(np.ones((4, 4)), -1),
        "solve_triangular": np.triu(np.ones((4, 4))),
    }
    assert np.isnan(both[1][triangle.get(name, np.ones(both[1].shape)) > 0]).all()


REPEATED = np.diag([2.0, 2.0, 5.0])


def test_repeated_eigenvalues_have_derivatives_and_their_vectors_have_none():
    np.testing.assert_allclose(gw.grad(lambda a: np.sum(np.linalg.eigvalsh(a)))(REPEATED), np.eye(3), atol=1e-15)
    assert not np.isfinite(gw.grad(lambda a: np.linalg.eigh(a)[1][0, 0])(REPEATED)).all()
    np.testing.assert_allclose(gw.grad(lambda a: np.sum(np.linalg.svdvals(a)))(REPEATED), np.eye(3), atol=1e-15)
    assert not np.isfinite(gw.grad(lambda a: np.linalg.svd(a)[0][0, 0])(REPEATED)).all()
    np.testing.assert_allclose(gw.grad(lambda a: np.real(np.sum(np.linalg.eigvals(a))))(REPEATED), np.eye(3), atol=1e-15)
    np.testing.assert_allclose(gw.grad(lambda a: np.linalg.norm(a, "nuc"))(np.eye(3)), np.eye(3), atol=1e-15)
    np.testing.assert_allclose(gw.grad(lambda a: np.linalg.norm(a, 2))(np.eye(3)), np.eye(3) / 3, atol=1e-15)


@pytest.mark.parametrize("order", [None, "fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf])
def test_a_matrix_norm_has_derivative_zero_at_zero(order):
    np.testing.assert_array_equal(gw.grad(lambda x: np.linalg.norm(x, order))(np.zeros((3, 2))), np.zeros((3, 2)))


@pytest.mark.parametrize("order", [None, 0, 0.5, 1, 2, 3, -1, np.inf, -np.inf])
def test_a_vector_norm_has_derivative_zero_at_zero(order):
    np.testing.assert_array_equal(gw.grad(lambda x: np.linalg.norm(x, order))(np.zeros(3)), np.zeros(3))
    assert np.isfinite(gw.grad(lambda x: np.linalg.norm(x, order))(np.array([0.0, 3.0, -4.0]))).all()


@pytest.mark.parametrize("order", [2, 3, 0.5, -3])
@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e160, 1e300])
def test_a_norm_neither_overflows_nor_underflows(order, size):
    x = np.array([3.0, -4.0, 1.0])
    near = gw.value_and_grad(lambda x: np.linalg.norm(x, order))(x)
    far = gw.value_and_grad(lambda x: np.linalg.norm(x, order))(x * size)
    np.testing.assert_allclose(far[0] / size, near[0], rtol=1e-13)
    np.testing.assert_allclose(far[1], near[1], rtol=1e-13)


def test_a_norm_of_inf_is_inf_and_of_nan_is_nan():
    assert gw.evaluate(np.linalg.norm)(np.array([1.0, -np.inf])) == np.inf
    assert np.isnan(gw.evaluate(np.linalg.norm)(np.array([1.0, np.nan])))
    assert gw.evaluate(lambda x: np.linalg.norm(x, -1))(np.array([1.0, 0.0])) == 0
    assert gw.evaluate(np.linalg.norm)(np.zeros(0)) == 0


def test_of_a_matrix_that_is_not_symmetric_the_symmetric_part_counts():
    skew = DEFINITE + np.array([[0, 1, 2, 3], [-1, 0, 4, 5], [-2, -4, 0, 6], [-3, -5, -6, 0.0]])
    close(gw.evaluate(np.linalg.cholesky)(skew), np.linalg.cholesky(DEFINITE))
    close(gw.evaluate(np.linalg.eigvalsh)(skew), np.linalg.eigvalsh(DEFINITE))
    for function in (lambda a: np.sum(np.sin(np.linalg.cholesky(a))), lambda a: np.sum(np.sin(np.linalg.eigvalsh(a)))):
        gradient = gw.grad(function)(DEFINITE)
        close(gradient, gradient.T, 1e-14)


def test_the_rank_of_a_pseudo_inverse_is_kept():
    low = TALL @ np.diag([1.0, 1.0, 0.0])
    one, other = rng.normal(size=(2, 3, 2))
    factors = lambda x: np.linalg.pinv(x @ WIDE[:2])  # of rank 2, whatever x is
    check_derivatives(factors, [TALL[:, :2] + 0.1 * np.eye(5, 2)], rtol=1e-7)
    assert np.isfinite(gw.jacobian(np.linalg.pinv)(low)).all()
    assert one.shape == other.shape


FLAT = np.concatenate([np.triu(SQUARE), np.zeros((2, 4))])


@pytest.mark.parametrize(
    "matrix", [TALL, np.eye(4, 2), -np.eye(4, 2), np.ones((4, 1)), np.zeros((3, 2)), FLAT, FLAT[[0, 5, 1, 2, 4, 3]]]
)
def test_completed_columns_are_orthonormal_and_those_of_lapack(matrix):
    q, r = gw.evaluate(lambda a: np.linalg.qr(a, "complete"))(matrix)
    close(q, np.linalg.qr(matrix, "complete").Q, 1e-13)
    close(q @ r, matrix, 1e-13)
    u, s, vh = gw.evaluate(np.linalg.svd)(matrix)
    close(u.T @ u, np.eye(len(u)), 1e-13)
    close(_product_of((u, s, vh)), matrix, 1e-13)


def test_completed_columns_have_derivatives_where_reflections_do_nothing():
    gradient = gw.grad(lambda a: np.sum(np.linalg.qr(a, "complete").Q[:, 2:] * TALL[:4, :2]))(np.eye(4, 2))
    assert np.isfinite(gradient).all()


# -- structure and speed -------------------------------------------------------------------------------------------------------


def test_the_jacobian_of_a_triangular_solve_stays_a_product():
    a = np.tril(rng.normal(size=(20, 20))) + 5 * np.eye(20)
    found = gw.jacobian(lambda b: gla.solve_triangular(a, b, lower=True), layout="structured")(rng.normal(size=(20, 30)))
    assert found.nbytes < 20 * 20 * 30 * 8
    close(found.todense(), np.einsum("ij,kl->ikjl", np.linalg.inv(a), np.eye(30)))


def test_a_batch_of_right_sides_is_solved_at_once():
    a = np.tril(rng.normal(size=(6, 6))) + 5 * np.eye(6)
    program = gw.trace(gw.vmap(lambda b: gla.solve_triangular(a, b, lower=True)), np.zeros((50, 6)))
    assert "float64[6,50] = triangular_solve" in str(program)


# -- refusals ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "operands", "error", "text"),
    [
        (np.linalg.cholesky, (TALL,), gw.ShapeError, r"cholesky: needed square matrices \[...,n,n\], got float64\[5,3\]"),
        (np.linalg.svdvals, (TALL[0],), gw.ShapeError, r"svdvals: needed matrices \[...,m,n\], got float64\[3\]"),
        (np.linalg.qr, (TALL + 1j,), gw.DtypeError, "qr: needed float64 or float32, got complex128"),
        (lambda a: np.linalg.qr(a, "raw"), (TALL,), gw.ArgumentError, "qr: needed mode 'reduced', 'complete' or 'r', got 'raw'"),
        (
            lambda a, b: gla.solve_triangular(a, b, 3),
            (SQUARE, RIGHT),
            gw.ArgumentError,
            "solve_triangular: needed trans 0, 1, 'N' or 'T', got 3",
        ),
        (gla.solve_triangular, (SQUARE, TALL), gw.ShapeError, "triangular_solve: needed a .* and b"),
        (gla.solve_sylvester, (SQUARE, SQUARE, TALL), gw.ShapeError, "solve_sylvester: needed a"),
        (lambda x: np.linalg.norm(x, 3), (BATCH,), gw.ShapeError, "norm: needed one axis or two"),
        (
            lambda x: np.linalg.norm(x, "fro"),
            (TALL[0],),
            gw.ArgumentError,
            "norm: needed a number as ord of a vector norm, got 'fro'",
        ),
        (lambda x: np.linalg.norm(x, 3), (TALL,), gw.ArgumentError, "norm: needed ord None, 'fro', 'nuc'"),
        (lambda x: np.linalg.matrix_power(x, 2), (TALL,), gw.ShapeError, "matrix_power: needed square matrices"),
        (lambda x: np.linalg.multi_dot([x]), (TALL,), gw.ArgumentError, "multi_dot: needed at least two arrays, got 1"),
        (lambda x: np.linalg.pinv(x, rtol=np.ones(2)), (BATCH,), gw.ArgumentError, "pinv: needed one tolerance"),
    ],
)
def test_what_does_not_fit_is_refused(function, operands, error, text):
    with pytest.raises(error, match=text):
        gw.evaluate(function)(*operands)


def test_other_names_are_those_of_numpy():
    assert gla.LinAlgError is np.linalg.LinAlgError


@pytest.mark.parametrize("size", [1e308, 1.7e308, 1e300, 1e200])
def test_the_exponential_of_huge_matrices_is_no_error(size):
    huge = np.stack([np.full((2, 2), size), np.eye(2), np.zeros((2, 2))])
    found = gw.evaluate(gla.expm)(huge)
    assert not np.isfinite(found[0]).any()
    np.testing.assert_allclose(found[1:], [np.e * np.eye(2), np.eye(2)], rtol=1e-15)
