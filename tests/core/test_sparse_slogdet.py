"""Determinants of banded and sparse matrices, and their derivatives, held to dense ones."""

import time

import numpy as np
import pytest
import scipy.sparse

from gradwire_core.builder import Builder
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.ops import PRIMITIVES
from gradwire_core.ops._declare import call
from gradwire_core.ops.sparse import banded_slogdet, sparse_slogdet
from gradwire_core.source import numpy_source
from gradwire_core.testing import interpret, primitive_program
from gradwire_core.transforms import grad, vmap
from gradwire_core.types import Dtype, TensorType


def close(given, needed, rtol=1e-10):
    scale = np.max(np.abs(needed), initial=1.0, where=np.isfinite(needed))
    np.testing.assert_allclose(given, needed, rtol=rtol, atol=rtol * scale)


def bands_of(matrix, lower, upper):
    n = len(matrix)
    bands = np.full((lower + upper + 1, n), np.nan)  # what names no element is never read
    for i in range(n):
        for j in range(n):
            if -upper <= i - j <= lower:
                bands[upper + i - j, j] = matrix[i, j]
    return bands


def banded(rng, n, lower, upper):
    return np.tril(np.triu(rng.normal(size=(n, n)), -lower), upper)


def entries(matrix):
    rows, columns = np.nonzero(matrix)
    return matrix[rows, columns], rows, columns


def sparse(matrix):
    data, rows, columns = entries(matrix)
    return [float(item) for item in call(PRIMITIVES["sparse_slogdet"], data, rows, columns, size=len(matrix))]


def inverse_entries(matrix):
    data, rows, columns = entries(matrix)
    return call(PRIMITIVES["sparse_inverse"], data, rows, columns, size=len(matrix))


WIDTHS = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (1, 3), (3, 3)]


@pytest.mark.parametrize(("lower", "upper"), WIDTHS)
def test_banded_sign_and_log_are_the_dense_ones(lower, upper):
    rng = np.random.default_rng(0)
    for n in range(1, 12):
        for _ in range(10):
            matrix = banded(rng, n, lower, upper)
            sign, log = banded_slogdet(bands_of(matrix, lower, upper)[None], lower, upper)
            needed = np.linalg.slogdet(matrix)
            assert sign[0] == needed.sign
            close(log[0], needed.logabsdet)


@pytest.mark.parametrize("density", [0.1, 0.3, 1.0])
def test_sparse_sign_log_and_inverse_are_the_dense_ones(density):
    rng = np.random.default_rng(1)
    for n in (1, 2, 3, 7, 30):
        for _ in range(10):
            matrix = (rng.random((n, n)) < density) * rng.normal(size=(n, n))
            matrix[rng.permutation(n), rng.permutation(n)] += rng.normal(size=n)
            needed = np.linalg.slogdet(matrix)
            sign, log = sparse(matrix)
            assert sign == needed.sign
            close(log, needed.logabsdet)
            rows, columns = np.nonzero(matrix)
            close(inverse_entries(matrix), np.linalg.inv(matrix).T[rows, columns], 1e-11 * np.linalg.cond(matrix))


def test_the_permutations_count_in_the_sign():
    rng = np.random.default_rng(2)
    for _ in range(20):
        matrix = np.eye(9)[rng.permutation(9)] * rng.normal(size=9)
        assert sparse(matrix)[0] == np.linalg.slogdet(matrix).sign
    for n in range(2, 8):  # rows move at every step, by each of the two routines of LAPACK
        matrix = np.eye(n, k=1) + np.eye(n, k=-1) * 3 + np.eye(n) * 0.1
        for lower, upper in ((1, 1), (2, 1)):
            sign, log = banded_slogdet(bands_of(matrix, lower, upper), lower, upper)
            assert sign == np.linalg.slogdet(matrix).sign
            close(log, np.linalg.slogdet(matrix).logabsdet)


SINGULAR = [np.array([[1.0, 2.0], [2.0, 4.0]]), np.array([[0.0, 1.0], [0.0, 2.0]]), np.zeros((3, 3)), np.diag([1.0, 0.0, 2.0])]


@pytest.mark.parametrize("matrix", SINGULAR)
def test_singular_matrices_have_determinant_zero(matrix):
    rows, columns = map(np.ravel, np.indices(matrix.shape))
    found = call(PRIMITIVES["sparse_slogdet"], matrix.ravel(), rows, columns, size=len(matrix))
    assert [float(item) for item in found] == [0, -np.inf]
    assert sparse(matrix) == [0, -np.inf]  # by its structure, too
    assert np.isnan(call(PRIMITIVES["sparse_inverse"], matrix.ravel(), rows, columns, size=len(matrix))).all()
    for width in (1, 2):
        found = banded_slogdet(bands_of(matrix, width, width), width, width)
        assert [float(item) for item in found] == [0, -np.inf]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_gives_nan(bad):
    matrix = np.array([[1.0, bad], [0.0, 1.0]])
    assert np.isnan(sparse(matrix)[1])
    assert np.isnan(inverse_entries(matrix)).all()
    assert np.isnan(banded_slogdet(np.array([[0.0, 1.0], [np.nan, 1.0], [1.0, 0.0]]), 1, 1)[1])


def test_nothing_under_or_overflows():
    n = 400
    matrix = np.diag(np.full(n, 1e-10)) + np.eye(n, k=1) * 1e-11
    close(sparse(matrix), [1, n * np.log(1e-10)])
    close(banded_slogdet(bands_of(matrix, 1, 1), 1, 1)[1], n * np.log(1e-10))
    tiny = np.array([[1e-14, 1.0], [1.0, 1.0]])
    close(sparse(tiny), [-1, np.log(1 - 1e-14)], 1e-12)


def test_matrices_of_nothing():
    empty = np.zeros(0, np.int64)
    assert [float(item) for item in call(PRIMITIVES["sparse_slogdet"], np.zeros(0), empty, empty, size=0)] == [1, 0]
    assert [float(item) for item in banded_slogdet(np.zeros((3, 0)), 1, 1)] == [1, 0]


def test_entries_in_any_order_and_twice():
    rng = np.random.default_rng(3)
    matrix = banded(rng, 6, 1, 1) + 3 * np.eye(6)
    data, rows, columns = entries(matrix)
    order = rng.permutation(len(data))
    doubled = [np.concatenate([item[order], item[order[:4]]]) for item in (data, rows, columns)]
    doubled[0][order.size :] *= 0.5
    matrix[doubled[1][order.size :], doubled[2][order.size :]] *= 1.5
    found = call(PRIMITIVES["sparse_slogdet"], *doubled, size=6)
    close(found, np.linalg.slogdet(matrix))
    close(call(PRIMITIVES["sparse_inverse"], *doubled, size=6), np.linalg.inv(matrix).T[doubled[1], doubled[2]])


def test_zeros_that_arise_by_chance_do_not_disturb_the_inverse():
    matrix = np.array([[4.0, 2, 2, 0], [2, 4, 1, 1], [2, 1, 5, 0], [0, 1, 0, 3]])
    matrix[1:3, 1:3] = [[4.0, 1.0], [1.0, 5.0]]  # eliminating the first row leaves 0 at [1, 2] and [2, 1]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]):
        permuted = matrix[np.ix_(order, order)]
        rows, columns = np.nonzero(permuted)
        close(inverse_entries(permuted), np.linalg.inv(permuted).T[rows, columns])
    grid = scipy.sparse.kronsum(np.eye(7, k=1) + np.eye(7, k=-1), np.eye(7, k=1) + np.eye(7, k=-1)).toarray() + 2 * np.eye(49)
    rows, columns = np.nonzero(grid)
    close(inverse_entries(grid), np.linalg.inv(grid).T[rows, columns])


def program_of(function, *shapes):
    builder = Builder()
    return builder.build([function(*[builder.input(TensorType(Dtype.FLOAT64, shape)) for shape in shapes])])


def test_gradients_and_hessians_are_the_dense_ones():
    rng = np.random.default_rng(4)
    matrix = banded(rng, 6, 2, 1) + 4 * np.eye(6)
    data, rows, columns = entries(matrix)
    indptr = np.searchsorted(rows, np.arange(7))
    program = program_of(lambda x: sparse_slogdet(x, indptr, columns)[1], data.shape)
    inverse = np.linalg.inv(matrix)
    close(interpret(grad(program), [data])[0], inverse.T[rows, columns])
    second = program_of(lambda x, t: np.sum(Builder.inline(x.builder, grad(program), [x])[0] * t), data.shape, data.shape)
    t = rng.normal(size=data.shape)
    direction = np.zeros((6, 6))
    direction[rows, columns] = t
    close(interpret(grad(second), [data, t])[0], -(inverse @ direction @ inverse).T[rows, columns])
    banded_program = program_of(lambda x: banded_slogdet(x, 2, 1)[1], (4, 6))
    bands = np.nan_to_num(bands_of(matrix, 2, 1))
    close(interpret(grad(banded_program), [bands])[0], np.nan_to_num(bands_of(inverse.T, 2, 1)))


def test_batches_of_both():
    rng = np.random.default_rng(5)
    matrices = np.stack([banded(rng, 5, 1, 1) + 3 * np.eye(5) for _ in range(3)])
    rows, columns = np.nonzero(matrices[0])
    data = matrices[:, rows, columns]
    indptr = np.searchsorted(rows, np.arange(6))
    program = program_of(lambda x: sparse_slogdet(x, indptr, columns)[1], data.shape[1:])
    close(interpret(vmap(program, (0,), 3), [data])[0], np.linalg.slogdet(matrices)[1])
    close(interpret(vmap(grad(program), (0,), 3), [data])[0], np.linalg.inv(matrices).swapaxes(1, 2)[:, rows, columns])
    bands = np.nan_to_num(np.stack([bands_of(matrix, 1, 1) for matrix in matrices]))
    banded_program = program_of(lambda x: banded_slogdet(x, 1, 1)[1], bands.shape[1:])
    close(interpret(vmap(banded_program, (0,), 3), [bands])[0], np.linalg.slogdet(matrices)[1])


def test_wrong_operands_are_refused():
    good = np.array([0, 1])
    with pytest.raises(ArgumentError, match="sparse_slogdet: needed indices from 0 to 1, got them from 0 to 5"):
        call(PRIMITIVES["sparse_slogdet"], np.ones(2), np.array([0, 5]), good, size=2)
    with pytest.raises(ArgumentError, match="from -1 to 1"):
        call(PRIMITIVES["sparse_inverse"], np.ones(2), np.array([0, -1]), good, size=2)
    with pytest.raises(ShapeError, match="needed entries"):
        call(PRIMITIVES["sparse_slogdet"], np.ones(3), good, good, size=2)
    with pytest.raises(DtypeError, match="needed float64 or float32 entries"):
        call(PRIMITIVES["sparse_slogdet"], np.ones(2, complex), good, good, size=2)
    with pytest.raises(ShapeError, match="a size from 0"):
        call(PRIMITIVES["sparse_slogdet"], np.ones(2), good, good, size=-1)
    with pytest.raises(ShapeError, match=r"needed \[...,lower\+upper\+1,n\]"):
        banded_slogdet(np.ones((3, 4)), 1, 2)
    with pytest.raises(DtypeError, match="needed float64 or float32"):
        banded_slogdet(np.ones((3, 4), complex), 1, 1)


def laplacian(side):
    line = scipy.sparse.diags_array([-1.0, 2.1, -1.0], offsets=[-1, 0, 1], shape=(side, side))
    found = scipy.sparse.kronsum(line, line).tocoo()
    order = np.lexsort((found.col, found.row))
    return found.data[order], found.row[order], found.col[order], side * side


def test_large_matrices_take_time_and_memory_by_their_entries():
    for side in (64, 100):
        data, rows, columns, size = laplacian(side)
        start = time.process_time()
        sign, log = call(PRIMITIVES["sparse_slogdet"], data, rows, columns, size=size)
        found = call(PRIMITIVES["sparse_inverse"], data, rows, columns, size=size)
        assert time.process_time() - start < 10  # dense, 10,000 rows take minutes and 800 MB
        line = 2.1 - 2 * np.cos(np.pi * np.arange(1, side + 1) / (side + 1))
        assert sign == 1
        close(log, np.log(line[:, None] + line).sum(), 1e-12)
        close(np.sum(found * data), size)  # trace of a^-1 a


def test_a_long_band_is_linear():
    n = 200_000
    bands = np.stack([np.full(n, -1.0), np.full(n, 2.0), np.full(n, -1.0)])
    sign, log = banded_slogdet(bands, 1, 1)
    assert sign == 1
    close(log, np.log(n + 1), 1e-8)


@pytest.mark.parametrize("name", ["banded_slogdet", "sparse_slogdet", "sparse_inverse"])
def test_they_have_numpy_source(name):
    for sample in PRIMITIVES[name].samples(np.random.default_rng(0)):
        program = primitive_program(PRIMITIVES[name], sample)
        space = {}
        exec(numpy_source(program), space)  # noqa: S102  # our own text
        for one, other in zip(space["program"](*sample.operands), interpret(program, sample.operands), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [4, 10**6, 2**29])
def test_more_rows_than_entries_are_singular_and_take_no_memory(size):
    index = np.arange(3)
    sign, log = call(PRIMITIVES["sparse_slogdet"], np.ones(3), index, index, size=size)
    assert (float(sign), float(log)) == (0.0, -np.inf)
    assert np.isnan(call(PRIMITIVES["sparse_inverse"], np.ones(3), index, index, size=size)).all()


def test_entries_of_no_rows_are_refused():
    types = TensorType(Dtype.FLOAT64, (3,)), TensorType(Dtype.INT64, (3,)), TensorType(Dtype.INT64, (3,))
    with pytest.raises(ShapeError, match="from 1 where there are entries"):
        PRIMITIVES["sparse_slogdet"].infer(*types, size=0)


def test_a_matrix_of_one_column_alone_is_singular():
    data, rows = np.ones(8, np.float32), np.array([0, 2, 1, 1, 2, 3, 3, 3])
    sign, log = PRIMITIVES["sparse_slogdet"].kernel(data, rows, np.full(8, 2), size=4)
    assert (float(sign), float(log)) == (0.0, -np.inf)
    assert np.isnan(PRIMITIVES["sparse_inverse"].kernel(data, rows, np.full(8, 2), size=4)).all()
