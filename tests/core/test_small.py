"""Elimination in batches of small matrices: as accurate as LAPACK, also where closed formulas lose all digits."""

from fractions import Fraction

import numpy as np
import pytest

from gradwire_core.ops import PRIMITIVES
from gradwire_core.ops._declare import call
from gradwire_core.ops.small import CHUNK, FEWEST_MATRICES, small_adjugate, small_det, small_inv, small_slogdet, small_solve
from gradwire_core.program import Sample
from gradwire_core.testing import check_derivatives, interpret, primitive_program
from gradwire_core.transforms import vmap
from tests.core.traces import traced

SIZES = [1, 2, 3, 4]
EPS = np.finfo(float).eps


def exact_det(matrix):
    rows = [[Fraction(float(item)) for item in row] for row in matrix]
    if len(rows) == 1:
        return rows[0][0]
    minors = [exact_det([row[:place] + row[place + 1 :] for row in rows[1:]]) for place in range(len(rows))]
    return sum((-1) ** place * rows[0][place] * minor for place, minor in enumerate(minors))


def minor_of(matrix, i, j):
    return np.delete(np.delete(matrix, i, 0), j, 1)


def families(n, count=60):
    rng = np.random.default_rng(n)
    yield "random", rng.normal(size=(count, n, n))
    yield "near rank 1", np.ones((count, n, n)) + 1e-9 * rng.normal(size=(count, n, n))
    scales = 10.0 ** rng.integers(-12, 12, (count, n, 1))
    yield "graded rows", rng.normal(size=(count, n, n)) * scales
    yield "small pivots", rng.normal(size=(count, n, n)) * (1 - (1 - 1e-15) * np.eye(n))
    u, _ = np.linalg.qr(rng.normal(size=(count, n, n)))
    v, _ = np.linalg.qr(rng.normal(size=(count, n, n)))
    yield "ill-conditioned", u * np.logspace(0, -10, n) @ v
    yield "permutations", np.eye(n)[np.array([rng.permutation(n) for _ in range(count)])] * rng.choice([-2.0, 0.5], (count, 1, n))
    yield "integers", rng.integers(-3, 4, (count, n, n)).astype(float)


@pytest.mark.parametrize("n", SIZES)
def test_determinants_change_by_the_last_digits_of_the_matrix(n):
    for name, x in families(n):
        exact = [exact_det(matrix) for matrix in x]
        sign, log = small_slogdet(x)
        for place, (needed, given) in enumerate(zip(exact, small_det(x), strict=True)):
            # What a change of the matrix by its last digits may change: for matrices near one of rank 1, far less than a digit of
            # the products that a closed formula sums.
            cofactors = (
                np.array([[float(exact_det(minor_of(x[place], i, j))) for j in range(n)] for i in range(n)]) if n > 1 else 1.0
            )
            allowed = 16 * EPS * np.linalg.norm(x[place]) * np.linalg.norm(cofactors)
            assert abs(Fraction(float(given)) - needed) <= Fraction(float(allowed)), name
            if given != 0:
                assert sign[place] == np.sign(given)
                np.testing.assert_allclose(log[place], np.log(abs(given)), rtol=1e-13, atol=1e-13)
            else:
                assert (sign[place], log[place]) == (0, -np.inf)


@pytest.mark.parametrize("n", SIZES)
def test_solutions_are_as_accurate_as_those_of_lapack(n):
    rng = np.random.default_rng(9)
    for name, x in families(n):
        regular = x[np.linalg.det(x) != 0]
        needed = np.linalg.solve(regular, right := rng.normal(size=(*regular.shape[:2], 2)))
        given = small_solve(regular, right)
        size = np.abs(regular) @ np.abs(given) + np.abs(right)
        residual = (np.abs(regular @ given - right) / size).max()
        theirs = (np.abs(regular @ needed - right) / (np.abs(regular) @ np.abs(needed) + np.abs(right))).max()
        assert residual <= 4 * theirs + 8 * EPS, name
        inverse = small_inv(regular)
        bound = EPS * np.linalg.cond(regular)[:, None, None] * np.abs(inverse).max(axis=(1, 2), keepdims=True)
        assert (np.abs(inverse - np.linalg.inv(regular)) <= 40 * bound).all(), name


def test_adjugates_are_exact_to_the_last_digits_of_their_products():
    for name, x in families(3):
        for given, matrix in zip(small_adjugate(x), x, strict=True):
            for i in range(3):
                for j in range(3):
                    minor = minor_of(matrix, j, i)
                    size = abs(minor[0, 0] * minor[1, 1]) + abs(minor[0, 1] * minor[1, 0])
                    error = abs(Fraction(float(given[i, j])) - (-1) ** (i + j) * exact_det(minor))
                    assert error <= Fraction(float(2 * EPS * size)), name


def test_adjugates_of_four_rows_are_right_near_singular_matrices_too():
    rng = np.random.default_rng(5)
    x = np.concatenate([matrices for _, matrices in families(4)])
    x = np.concatenate([x, rng.normal(size=(40, 4, 3)) @ rng.normal(size=(40, 3, 4)), np.zeros((1, 4, 4))])
    assert len(x) >= FEWEST_MATRICES
    found = call(PRIMITIVES["adjugate"], x)
    for given, matrix in zip(found, x, strict=True):
        exact = np.array([[(-1) ** (i + j) * float(exact_det(minor_of(matrix, j, i))) for j in range(4)] for i in range(4)])
        values = np.linalg.svd(matrix, compute_uv=False)
        assert np.abs(given - exact).max() <= 1e3 * EPS * values[:3].prod() + 10 * EPS * values[0] ** 2 * values[1], matrix


@pytest.mark.parametrize("n", SIZES)
def test_singular_matrices(n):
    rng = np.random.default_rng(0)
    x = np.stack([np.zeros((n, n)), np.eye(n), np.triu(np.ones((n, n)), 1), np.eye(n)[::-1] * 2])
    x[2, -1] = 0
    expected = np.linalg.det(x)
    np.testing.assert_allclose(small_det(x), expected, rtol=1e-15)
    assert not small_det(x)[expected == 0].any()
    sign, log = small_slogdet(x)
    np.testing.assert_array_equal(sign, np.sign(expected))
    assert (log[expected == 0] == -np.inf).all()
    found = small_inv(x)
    assert np.isnan(found[expected == 0]).all()
    np.testing.assert_allclose(found[expected != 0], np.linalg.inv(x[expected != 0]))
    assert np.isnan(small_solve(x, rng.normal(size=(4, n, 1)))[expected == 0]).all()


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_matrix(n, bad):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n * n + 1, n, n))
    for place in range(n * n):
        x[place].flat[place] = bad
    for found in (small_det(x), small_slogdet(x)[1], small_inv(x).sum(axis=(1, 2)), small_solve(x, x).sum(axis=(1, 2))):
        assert np.isfinite(found[-1])
        assert np.isnan(bad) <= np.isnan(found[:-1]).all()
        assert not np.isfinite(found[:-1]).all() or bad == np.inf


@pytest.mark.parametrize("n", SIZES)
def test_batches_of_every_shape_and_dtype(n):
    rng = np.random.default_rng(n)
    big = rng.normal(size=(3, CHUNK // 2 + 7, n, n))
    for x in (big, np.moveaxis(big, 0, 1), np.swapaxes(big, 2, 3), np.broadcast_to(big[0], big.shape), big[:, :0], big[0, 0]):
        np.testing.assert_allclose(small_det(x), np.linalg.det(x), rtol=1e-9)
        np.testing.assert_allclose(small_inv(x) @ x, np.broadcast_to(np.eye(n), x.shape), atol=1e-8)
        assert small_slogdet(x)[0].shape == x.shape[:-2]
    narrow = (big + 3 * np.eye(n)).astype(np.float32)
    assert small_det(narrow).dtype == small_inv(narrow).dtype == small_slogdet(narrow)[1].dtype == np.float32
    np.testing.assert_allclose(small_det(narrow), np.linalg.det(narrow.astype(float)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["det", "slogdet", "inv", "solve", "adjugate"])
@pytest.mark.parametrize("n", SIZES)
def test_primitives_of_large_batches_agree_with_those_of_single_matrices(name, n):
    rng = np.random.default_rng(n)
    count = FEWEST_MATRICES + 3
    operands = [rng.normal(size=(count, n, n)) + 3 * np.eye(n)]
    operands += [rng.normal(size=(count, n, 1))] if name == "solve" else []
    before = [item.copy() for item in operands]
    primitive = PRIMITIVES[name]
    single = primitive_program(primitive, Sample(tuple(item[0] for item in operands)))
    together = interpret(vmap(single, (0,) * len(operands), count), operands)
    for place in (0, count // 2, count - 1):
        for one, other in zip(together, interpret(single, [item[place] for item in operands]), strict=True):
            np.testing.assert_allclose(one[place], other, rtol=1e-10, atol=1e-12)
    for one, other in zip(operands, before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_derivatives_of_large_batches():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(FEWEST_MATRICES, 2, 2)) + 3 * np.eye(2)
    weights = rng.normal(size=len(x))
    check_derivatives(traced(lambda x: np.linalg.det(x) * np.linalg.slogdet(x)[1], x), [x], rtol=1e-6)
    check_derivatives(traced(lambda x: np.linalg.inv(x)[:, 0, 1] * np.linalg.solve(x, x[:, :, :1])[:, 0, 0], x), [x], rtol=1e-6)
    assert np.isfinite(call(PRIMITIVES["det"], x) @ weights)
