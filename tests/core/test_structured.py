"""What users do with a structured Jacobian: print it, multiply by it, transpose it, take its determinant; none of it dense."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given

import gradwire as gw
from gradwire_core.errors import ArgumentError, ShapeError
from gradwire_core.structure.structured import JacobianSpec, Names, Pattern, StructuredJacobian
from gradwire_core.types import Dtype
from tests.core.strategies import examples
from tests.core.test_structure import patterns

A, B = np.random.default_rng(0).normal(size=(3, 3)), np.random.default_rng(1).normal(size=(5, 3))
T = np.array([2, 0, 1, 0])


def structured(function, *arrays) -> StructuredJacobian:
    return gw.jacobian(function, layout="structured")(*arrays)


def peak_bytes(function) -> int:
    """The bytes allocated at the peak of a call, beside what was there before."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# -- notation ------------------------------------------------------------------------------------------------------------------

NOTATION = [
    (np.sin, [(3,)], ["dy[i]/dx[i] = A[i]"]),
    (lambda x, w: x @ w.T, [(4, 2), (3, 2)], ["dy[i,j]/dx[i,k] = w[j,k]"]),
    (lambda x, a, b: a @ (b @ x), [(9,), (9, 2), (2, 9)], ["dy[i]/dx[j] = sum_k a[i,k] b[k,j]"]),
    (lambda x: x[1:] - x[:-1], [(4,)], ["dy[i]/dx[i+1] = 1", "dy[i]/dx[i] = -1"]),
    (lambda x: x[::2] * x[1::2], [(6,)], ["dy[i]/dx[2i] = A[i]", "dy[i]/dx[2i+1] = B[i]"]),
    (lambda x: x[::-1], [(4,)], ["dy[3-i]/dx[i] = 1"]),
    (lambda x: x[T], [(3,)], ["dy[i]/dx[t[i]] = 1"]),
    (lambda x: x / np.sum(x), [(4,)], ["dy[i]/dx[i] = 0.25", "dy[i]/dx[j] = A[i]"]),
    (lambda x: np.reshape(x, (4, 3)), [(2, 6)], ["dy[2i+j,k]/dx[i,3j+k] = 1"]),
    (np.sum, [(4,)], ["dy/dx[i] = 1"]),
    (lambda x: 3 * x, [()], ["dy/dx = 3"]),
    (lambda x: x[None, :, None] * 2, [(3,)], ["dy[0,i,0]/dx[i] = 2"]),
    (lambda x: np.trace(x), [(3, 3)], ["dy/dx[i,i] = 1"]),  # noqa: PLW0108  # a ufunc's name is no parameter's
    (lambda x: np.concatenate([x, np.ones(2)]), [(3,)], ["dy[i]/dx[i] = 1"]),
    (lambda x, w: np.convolve(x, w), [(4,), (2,)], ["dy[i+j]/dx[i] = w[j]"]),  # noqa: PLW0108
]


@pytest.mark.parametrize(("function", "shapes", "text"), NOTATION)
def test_a_jacobian_prints_as_index_notation(function, shapes, text):
    names = ("x", "w") if len(shapes) == 2 else ("x", "a", "b")
    found = structured(function, *[np.ones(shape) for shape in shapes]).named("y", "x", names)
    assert str(found).splitlines() == text
    assert found.pattern == str(found)
    assert repr(found).startswith(f"<StructuredJacobian {found.dtype}[")


def test_a_pattern_prints_without_numbers():
    pattern = Pattern.of_runs(((0, 1),), ((2,), (0,)), ((2,), (1,)), (4, 3, 5))
    assert str(pattern) == "dY[i,j]/dX[i,k] = A[j,k]"
    assert str(Pattern.of_runs((), ((),), ((0, 1),), (2, 2))) == "dY[0]/dX[2i+j] = 1"
    assert str(Pattern.of_runs(((1,),), ((0,),), ((0,),), (2, 3))) == "dY[i]/dX[i] = sum_j A[j]"
    assert str(Pattern.of_runs((), ((0,),), ((0,),), (2, 3))) == "dY[i]/dX[i] = 3"


def test_equal_arrays_have_one_name_and_others_another():
    array, other = np.ones(3), np.zeros(3)
    pattern = Pattern.of_runs(((0,),), ((0,),), ((0,),), (3,))
    found = StructuredJacobian((3,), (3,), Dtype.FLOAT64, (pattern,) * 3, ((array,), (other,), (array,)))
    assert [line.rpartition(" ")[2] for line in found.pattern.splitlines()] == ["A[i]", "B[i]", "A[i]"]
    assert found.named(inputs=("A",)).pattern.splitlines()[0].endswith("= B[i]")  # a name in use is no other's
    assert found.names == Names()


def test_numbers_stand_before_arrays():
    pattern = Pattern.of_runs(((0,), ()), ((0,),), ((0,),), (3,))
    for number, text in ((-1.0, "-A[i]"), (2.5, "2.5 A[i]"), (1.0, "1 A[i]")):
        found = StructuredJacobian((3,), (3,), Dtype.FLOAT64, (pattern,), ((np.ones(3), np.asarray(number)),))
        assert found.pattern == f"dY[i]/dX[i] = {text}"


def test_a_transpose_prints_what_it_is():
    found = structured(lambda x: x[1:] * 2, np.ones(4)).named()
    assert str(found.T) == str(found) == "dY[i]/dX[i+1] = 2"
    assert found.T.T.names == found.names


# -- products ------------------------------------------------------------------------------------------------------------------


@examples(200)
@given(patterns())
def test_products_and_entries_are_those_of_the_dense_value(case):
    pattern, arrays = case
    shapes = [tuple(axis.length for axis in axes) for axes in (pattern.out_axes, pattern.in_axes)]
    found = JacobianSpec(*shapes, Dtype.FLOAT64, (pattern, pattern)).fill((*arrays, *arrays))
    dense = found.todense()
    rng = np.random.default_rng(0)
    for extra in ((), (2,), (2, 1)):
        x = rng.normal(size=shapes[1] + extra)
        np.testing.assert_allclose(found @ x, np.tensordot(dense, x, len(shapes[1])), rtol=1e-9, atol=1e-9)
        y = rng.normal(size=extra + shapes[0])
        np.testing.assert_allclose(y @ found, np.tensordot(y, dense, len(shapes[0])), rtol=1e-9, atol=1e-9)
    rank = len(shapes[0])
    turned = np.transpose(dense, (*range(rank, dense.ndim), *range(rank)))
    np.testing.assert_allclose(found.T.todense(), turned, rtol=1e-13, atol=1e-13)  # the sums run in another order
    sparse = found.tosparse()
    assert isinstance(sparse, scipy.sparse.csr_array)
    np.testing.assert_allclose(sparse.toarray(), dense.reshape(sparse.shape), rtol=1e-9, atol=1e-9)


def test_products_of_other_shapes_are_refused_with_advice():
    found = structured(np.sin, np.ones((2, 3)))
    with pytest.raises(ArgumentError, match=r"needed an array \[2,3\], or with further axes behind, got \[6\]; reshape it"):
        found @ np.ones(6)
    with pytest.raises(ArgumentError, match=r"needed an array \[2,3\], or with further axes before, got \[6\]; reshape it"):
        np.ones(6) @ found
    with pytest.raises(ArgumentError, match="got another one"):
        found @ found


def test_a_table_that_leads_outside_is_refused():
    found = structured(lambda x: x[T], np.ones(3))
    tables = tuple(tuple(array + 3 if array.dtype == np.int64 else array for array in factors) for factors in found.factors)
    broken = StructuredJacobian(found.shape_out, found.shape_in, found.dtype, found.patterns, tables)
    for use in (broken.todense, broken.tosparse, lambda: broken @ np.ones(3)):
        with pytest.raises(ArgumentError, match="needed positions from 0 to 2, got 3 to 5"):
            use()


def test_products_need_no_dense_jacobian():
    n = 100_000
    x = np.linspace(0, 1, n)
    found = structured(lambda x: np.sin(x[1:]) * x[:-1] + np.sum(x), x)
    for use in (lambda: found @ x, lambda: x[1:] @ found, lambda: found.T.pattern):
        assert peak_bytes(use) <= 10 * x.nbytes


# -- determinants --------------------------------------------------------------------------------------------------------------

SQUARE = {
    "diagonal": (lambda x: np.sin(x) - 2, (3, 4)),
    "transposed": (lambda x: np.exp(x.T), (3, 4)),
    "permuted": (lambda x: np.transpose(x, (2, 0, 1)), (2, 3, 4)),
    "rolled": (lambda x: np.roll(x, 1), (6,)),
    "blocks": (lambda x: np.tanh(x @ A), (4, 3)),
    "Kronecker": (lambda x: (A @ x).T, (3, 5)),
    "Kronecker, odd": (lambda x: -(A @ x), (3, 3)),
    "autoregressive": (lambda x: x * np.exp(np.concatenate([np.ones(1), np.sin(x[:-1])])), (40,)),
    "tridiagonal": (lambda x: x**3 + np.concatenate([x[1:], np.ones(1)]) - np.concatenate([np.ones(1), x[:-1]]), (50,)),
    "low rank": (lambda x: x + np.sin(x) * np.sum(x), (20,)),
    "singular": (lambda x: np.concatenate([x[:1], x[:-1]]), (40,)),
    "zero": (lambda x: 0 * x, (3,)),
    "scalar": (np.exp, ()),
    "empty": (np.exp, (0,)),
}


@pytest.mark.parametrize("name", SQUARE)
def test_the_determinant_is_that_of_the_dense_value(name):
    function, shape = SQUARE[name]
    x = np.random.default_rng(0).normal(size=shape)
    found = structured(function, x)
    needed = np.linalg.slogdet(found.todense().reshape(x.size, x.size))
    sign, logarithm = found.slogdet()
    assert sign == needed[0]
    np.testing.assert_allclose(logarithm, needed[1], rtol=1e-10, atol=1e-12)


def test_the_determinant_of_blocks_is_never_dense():
    found = structured(lambda x: x @ A, np.ones((20_000, 3)))
    sign, logarithm = found.slogdet()
    np.testing.assert_allclose(logarithm, 20_000 * np.linalg.slogdet(A)[1])
    assert sign == 1
    chain = structured(lambda x: np.concatenate([x[:1], np.exp(x[1:]) + x[:-1]]), np.linspace(0, 1, 20_000))
    assert peak_bytes(chain.slogdet) < 100 * 8 * 20_000
    np.testing.assert_allclose(chain.slogdet()[1], np.linspace(0, 1, 20_000)[1:].sum())


def test_a_determinant_that_is_not_square_is_refused():
    with pytest.raises(ShapeError, match="needed a square Jacobian, got 3 x 4"):
        structured(lambda x: x[1:], np.ones(4)).slogdet()


def test_a_determinant_with_nan_is_nan():
    x = np.linspace(1, 2, 100)
    x[3] = np.nan
    found = structured(lambda x: np.concatenate([x[:1], x[1:] * x[:-1]]), x)
    assert np.isnan(found.slogdet()[1])
