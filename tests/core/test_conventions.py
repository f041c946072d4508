"""The page of conventions, row by row: every row has a test here, and every primitive it names repeats it in its doc."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import gradwire.numpy as gnp
from gradwire_core.builder import Builder
from gradwire_core.errors import ArgumentError, NotDifferentiableError, ShapeError
from gradwire_core.ops import PRIMITIVES, elementwise
from gradwire_core.ops.exponential import expm
from gradwire_core.ops.factorization import lu
from gradwire_core.ops.sylvester import solve_sylvester, sqrtm
from gradwire_core.ops.triangular import triangular_solve
from gradwire_core.program import Program
from gradwire_core.testing import interpret
from gradwire_core.transforms import grad, hessian, jacobian, jvp, vjp, vmap
from gradwire_core.types import Dtype, TensorType

PAGE = Path(__file__).parents[2] / "docs" / "decisions" / "0004-conventions.md"
NAN, INF = math.nan, math.inf


def traced(function, *arrays) -> Program:
    with Builder().tracing() as builder:
        returned = function(*[builder.input(TensorType.of(np.asarray(array))) for array in arrays])
        return builder.build(returned if isinstance(returned, tuple) else (returned,))


def floats(items):
    return [np.asarray(item, np.float64) for item in items]


def assert_convention(function, arrays, value, *derivatives) -> None:
    """Check the value of a scalar function and its derivatives in the first inputs, by every transform, alone and in a batch."""
    arrays = floats(arrays)
    program = traced(function, *arrays)
    equal(interpret(program, arrays)[0], value)
    for argnum, derivative in enumerate(derivatives):
        needed = np.broadcast_to(np.asarray(derivative, np.float64), arrays[argnum].shape)
        equal(interpret(grad(program, (argnum,)), arrays)[0], needed)
        equal(interpret(vjp(program, (argnum,)), [*arrays, 1.0])[0], needed)
        equal(interpret(jacobian(program, (argnum,)), arrays)[0], needed)
        batched = vmap(grad(program, (argnum,)), (0,) * len(arrays), 2)
        equal(interpret(batched, [np.stack([array, array]) for array in arrays])[0], np.stack([needed, needed]))
        if needed.size == 1:
            equal(interpret(jvp(program, (argnum,)), [*arrays, np.ones_like(arrays[argnum])])[0], needed.reshape(()))


def equal(given, needed) -> None:
    np.testing.assert_allclose(given, needed, rtol=1e-14, atol=1e-14)


SINGULAR = [[1.0, 2.0], [2.0, 4.0]]
ROWS = {
    ("absolute", "x = 0"): (np.absolute, [0], 0, 0),
    ("sign", "everywhere"): (np.sign, [0], 0, 0),
    ("sqrt", "x = 0"): (np.sqrt, [0], 0, INF),
    ("sqrt", "x < 0"): (np.sqrt, [-1], NAN, NAN),
    ("log", "x = 0"): (np.log, [0], -INF, INF),
    ("log", "x < 0"): (np.log, [-2], NAN, -0.5),
    ("reciprocal", "x = 0"): (np.reciprocal, [0], INF, -INF),
    ("divide", "y = 0, x > 0"): (np.divide, [1, 0], INF, INF, -INF),
    ("arcsin", "x = 1"): (np.arcsin, [1], np.pi / 2, INF),
    ("arccos", "x = 1"): (np.arccos, [1], 0, -INF),
    ("power", "x = y = 0"): (np.power, [0, 0], 1, 0, 0),
    ("power", "y = 0"): (np.power, [2, 0], 1, 0, np.log(2)),
    ("power", "x = 0, 0 < y < 1"): (np.power, [0, 0.5], 0, INF, 0),
    ("power", "x = 0, y < 0"): (np.power, [0, -1], INF, -INF, NAN),
    ("power", "x < 0, y whole"): (np.power, [-2, 3], -8, 12, NAN),
    ("hypot", "x = y = 0"): (elementwise.hypot, [0, 0], 0, 0, 0),
    ("arctan2", "x = y = 0"): (np.arctan2, [0, 0], 0, NAN, NAN),
    ("maximum", "x = y"): (np.maximum, [1, 1], 1, 0.5, 0.5),
    ("minimum", "x = y"): (np.minimum, [1, 1], 1, 0.5, 0.5),
    ("maximum", "x is NaN"): (np.maximum, [NAN, 1], NAN, 0, 0),
    ("where", "not taken"): (lambda x: np.where(x > 0, np.sqrt(x), 0.0), [0], 0, 0),
    ("max", "k places reach it"): (np.max, [[1, 3, 3, 3]], 3, [0, 1 / 3, 1 / 3, 1 / 3]),
    ("max", "an element is NaN"): (np.max, [[1, NAN]], NAN, NAN),
    ("prod", "some elements 0"): (np.prod, [[0, 2, 3]], 0, [6, 0, 0]),
    ("sum", "no elements"): (np.sum, [[]], 0, 0),
    ("prod", "no elements"): (np.prod, [[]], 1, 0),
    ("mean", "no elements"): (np.mean, [[]], NAN, 0),
    ("det", "singular"): (np.linalg.det, [SINGULAR], 0, [[4, -2], [-2, 1]]),
    ("det", "no rows"): (np.linalg.det, [np.zeros((0, 0))], 1, 0),
    ("slogdet", "singular"): (lambda x: np.linalg.slogdet(x)[1], [SINGULAR], -INF, NAN),
    ("inv", "singular"): (lambda x: np.sum(np.linalg.inv(x)), [SINGULAR], NAN, NAN),
    ("solve", "singular"): (lambda x: np.sum(np.linalg.solve(x, np.ones(2))), [SINGULAR], NAN, NAN),
    ("cholesky", "not positive definite"): (lambda x: np.sum(np.linalg.cholesky(x)), [-np.eye(2)], NAN, NAN),
    ("triangular_solve", "a zero on the diagonal"): (lambda x: np.sum(triangular_solve(x, np.ones(1))), [[[0]]], INF, -INF),
    ("eigh", "equal eigenvalues, w"): (lambda x: np.sum(np.linalg.eigvalsh(x)), [3 * np.eye(2)], 6, np.eye(2)),
    ("svdvals", "equal singular values"): (lambda x: np.sum(np.linalg.svdvals(x)), [3 * np.eye(2)], 6, np.eye(2)),
    ("pinv", "not of full rank"): (lambda x: np.sum(np.linalg.pinv(x)), [np.diag([2, 0])], 0.5, [[-0.25, 0.25], [0.25, 0]]),
    ("solve_sylvester", "a and -b share an eigenvalue"): (lambda a: np.sum(solve_sylvester(a, -a, a)), [[[1]]], NAN, NAN),
    ("sqrtm", "not real"): (lambda x: np.sum(sqrtm(x)), [[[-1]]], NAN, NAN),
    ("expm", "an element is inf or NaN"): (lambda x: np.sum(expm(x)), [[[INF, 0], [0, 0]]], NAN, NAN),
    ("convert", "to integer or bool"): (lambda x: x.astype(np.int64) * 1.0, [2.7], 2, 0),
    ("equal", "everywhere"): (lambda x: np.equal(x, 1.0) * 1.0, [1], 1, 0),
}
TESTED_BELOW = {
    ("max", "no elements"),
    ("all", "no elements"),
    ("any", "no elements"),
    ("det", "singular, twice"),
    ("eig", "equal eigenvalues"),
    ("eigh", "equal eigenvalues, v"),
    ("lu", "singular"),
    ("qr", "singular"),
    ("svd", "equal singular values"),
    ("take", "index out of range"),
}


@pytest.mark.parametrize("row", ROWS, ids=": ".join)
def test_a_row_holds_for_every_transform(row):
    assert_convention(*ROWS[row])


def test_the_page_and_its_tests_name_the_same_rows():
    lines = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    rows = {(cells[0].strip("| `"), cells[1]) for cells in lines}
    assert rows == {*ROWS, *TESTED_BELOW}


DOCUMENTED = {
    "absolute": "at 0 is 0",
    "sign": "0 everywhere",
    "sqrt": "at 0 is inf",
    "power": "at 0^0",
    "hypot": "at (0, 0) is 0",
    "arctan2": "at (0, 0) is NaN",
    "maximum": "at a tie each has half",
    "minimum": "at a tie each has half",
    "where": "not taken is 0",
    "max": "share the derivative equally",
    "min": "share the derivative equally",
    "prod": "exact where some are 0",
    "det": "the derivative is the adjugate",
    "adjugate": "NaN from 4 rows on",
    "slogdet": "NaN where singular",
    "inv": "NaN where the matrix is singular",
    "solve": "NaN where a is singular",
    "cholesky": "NaN where that is not positive definite",
    "triangular_solve": "inf or NaN where its diagonal has a zero",
    "qr": "the derivative is inf or NaN where r is singular",
    "lu": "the derivative of p is 0, that of l inf or NaN where u is singular",
    "eigh": "where two are equal the derivative of v is inf or NaN",
    "eig": "where two are equal, derivatives are inf or NaN",
    "svdvals": "the first derivative is finite where some are equal",
    "svd": "where two of s are equal the derivative of u and v is inf or NaN",
    "pinv": "the derivative is that at constant rank",
    "solve_sylvester": "NaN where a and -b share an eigenvalue",
    "sqrtm": "NaN where that is not real",
    "convert": "zero where the dtype is an integer or bool",
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_doc_of_a_primitive_repeats_its_convention(name):
    assert DOCUMENTED[name] in PRIMITIVES[name].doc


# -- rows with a test of their own ---------------------------------------------------------------------------------------------


def test_a_maximum_of_nothing_is_an_error():
    for function in (np.max, np.min):
        with pytest.raises(ShapeError, match="needed at least one element"):
            traced(function, np.zeros(0))


def test_all_and_any_of_nothing():
    empty = np.zeros((0,), bool)
    assert interpret(traced(np.all, empty), [empty])[0] == np.True_
    assert interpret(traced(np.any, empty), [empty])[0] == np.False_


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_second_derivative_of_a_small_determinant_is_exact_where_it_is_singular(n):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, n))
    x[-1] = x[0] * 2 if n > 1 else 0
    (found,) = interpret(hessian(traced(np.linalg.det, x)), [x])
    np.testing.assert_allclose(found, second_derivative_of_det(x), rtol=1e-12, atol=1e-12)
    (zero,) = interpret(hessian(traced(np.linalg.det, x)), [np.zeros((n, n))])
    np.testing.assert_allclose(zero, second_derivative_of_det(np.zeros((n, n))), atol=1e-12)


def second_derivative_of_det(x: np.ndarray) -> np.ndarray:
    """The signed minors of n - 2 rows and columns."""
    n = len(x)
    found = np.zeros((n, n, n, n))
    for i, j, k, m in np.ndindex(found.shape):
        if i != k and j != m:
            rest = np.delete(np.delete(x, [i, k], 0), [j, m], 1)
            sign = (-1) ** (i + j + k + m) * (1 if (i < k) == (j < m) else -1)
            found[i, j, k, m] = sign * (np.linalg.det(rest) if rest.size else 1)
    return found


def test_the_second_derivative_of_a_large_determinant_is_nan_where_it_is_singular():
    x = np.zeros((4, 4))
    (found,) = interpret(hessian(traced(np.linalg.det, x)), [x])
    assert np.isnan(found).any()


def test_the_sign_of_a_determinant_has_derivative_zero():
    for x in (SINGULAR, [[1.0, 2.0], [3.0, -1.0]]):
        assert_convention(lambda x: np.linalg.slogdet(x)[0], [x], np.linalg.slogdet(x)[0], 0)


UNDEFINED = {
    "eig": (lambda x: np.real(np.linalg.eig(x)[1])[0, 0], np.eye(2)),
    "eigh": (lambda x: np.linalg.eigh(x)[1][0, 0], np.eye(2)),
    "lu": (lambda x: lu(x)[1][1, 0], np.zeros((2, 2))),
    "qr": (lambda x: np.linalg.qr(x)[0][0, 0], np.zeros((2, 2))),
    "svd": (lambda x: np.linalg.svd(x)[0][0, 0], np.eye(2)),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_factors_that_could_be_others_have_values_and_no_derivative(name):
    function, x = UNDEFINED[name]
    program = traced(function, x)
    assert np.isfinite(interpret(program, [x])[0])
    for derived in (grad(program), jacobian(program)):
        assert not np.isfinite(interpret(derived, [x])[0]).all()
    assert not np.isfinite(interpret(jvp(program), [x, np.array([[1.0, 2.0], [3.0, 4.0]])])[0])


def test_one_singular_matrix_of_a_batch_spoils_no_other():
    x = np.stack([np.array(SINGULAR), 2 * np.eye(2)])
    (found,) = interpret(traced(np.linalg.inv, x), [x])
    assert np.isnan(found[0]).all()
    equal(found[1], np.eye(2) / 2)
    (solved,) = interpret(traced(lambda x: np.linalg.solve(x, np.ones((2, 2, 1))), x), [x])
    assert np.isnan(solved[0]).all()
    equal(solved[1], np.full((2, 1), 0.5))


def test_an_index_out_of_range_is_an_error():
    with pytest.raises(ArgumentError, match=r"needed .*got 3"):
        traced(lambda x: x[3], np.zeros(3))
    with pytest.raises(ArgumentError, match="got -4"):
        traced(lambda x: np.take(x, [0, -4]), np.zeros(3))
    x, indices = np.zeros(3), np.array([0, 7])
    program = traced(lambda x, i: x[i], x, indices)
    with pytest.raises(IndexError):
        interpret(program, [x, indices])
    square = np.arange(9.0).reshape(3, 3)
    program = traced(lambda x, i, j: x[i, j], square, np.array([0]), np.array([0]))
    with pytest.raises(IndexError):
        interpret(program, [square, np.array([0]), np.array([4])])  # not the element at [1, 1]


# -- the paragraphs ------------------------------------------------------------------------------------------------------------

UNTAKEN = {
    "sinc at 0": (lambda x: np.where(x == 0, 1.0, np.sin(x) / x), 0.0, 1.0, 0.0),
    "x log x at 0": (lambda x: np.where(x > 0, x * np.log(x), 0.0), 0.0, 0.0, 0.0),
    "log below 0": (lambda x: np.where(x > 0, np.log(x), x * x), -2.0, 4.0, -4.0),
    "a chain of poles": (lambda x: np.where(x > 0, np.log(np.sqrt(x)), 2 * x), 0.0, 0.0, 2.0),
    "nested": (lambda x: np.where(x > 0, np.where(x > 1, np.sqrt(x - 1), 1 / x), x), 0.0, 0.0, 1.0),
}


@pytest.mark.parametrize("name", UNTAKEN)
def test_what_is_not_taken_has_derivative_zero(name):
    function, x, value, slope = UNTAKEN[name]
    assert_convention(function, [x], value, slope)
    array = np.array([x, 0.5, 2.0])
    program = traced(lambda x: np.sum(function(x)), array)
    (found,) = interpret(grad(program), [array])
    (alone,) = interpret(grad(traced(lambda x: np.sum(function(x)), array[1:])), [array[1:]])
    equal(found, [slope, *alone])


def test_shares_of_ties_add_up_to_one():
    for count in range(1, 5):
        array = np.ones(count)
        for function in (np.max, np.min):
            (found,) = interpret(grad(traced(function, array)), [array])
            assert found.sum() == 1


def test_nan_in_gives_nan_out():
    for function in (np.sin, np.exp, np.log, np.tanh, np.abs, np.sqrt, np.square, lambda x: x**3, lambda x: np.sum(x * x)):
        assert_convention(function, [NAN], NAN, NAN)


def test_zero_times_infinity_is_nan_elsewhere():
    assert_convention(lambda x: np.sqrt(x) * 0.0, [0], 0, NAN)


def test_mixed_second_derivatives_of_a_power_agree():
    """Also where the exponent is 0: d/dx d/dy x^y = 1/x."""
    for y in (0.0, 1.0, 2.0, -1.5):
        arrays = floats([2, y])
        blocks = interpret(hessian(traced(np.power, *arrays), (0, 1)), arrays)
        mixed = 2 ** (y - 1) + y * 2 ** (y - 1) * np.log(2)
        equal(blocks, [y * (y - 1) * 2 ** (y - 2), mixed, mixed, np.log(2) ** 2 * 2**y])


def test_smooth_functions_are_smooth_where_formulas_have_corners():
    """tanh''' at 0 is -2: no rule may go through |x|."""
    program = traced(np.tanh, np.array(0.0))
    for needed in (1, 0, -2, 0, 16):
        program = grad(program)
        equal(interpret(program, [0.0])[0], needed)
    program = traced(elementwise.logistic, np.array(0.0))
    for needed in (1 / 4, 0, -1 / 8, 0, 1 / 4):
        program = grad(program)
        equal(interpret(program, [0.0])[0], needed)


def test_derivatives_far_out_are_numbers():
    for function in (np.tanh, elementwise.logistic):
        for x in (-800.0, -20.0, 20.0, 800.0):
            program = traced(function, np.array(x))
            for _ in range(3):
                program = grad(program)
                assert np.isfinite(interpret(program, [x])[0])


def test_integer_inputs_and_outputs_are_refused():
    builder = Builder()
    x, i = builder.input(TensorType(Dtype.FLOAT64, ())), builder.input(TensorType(Dtype.BOOL, ()))
    program = builder.build([np.where(i, x, 0.0), x > 0])
    with pytest.raises(NotDifferentiableError, match="input 1"):
        vjp(program, (1,))
    with pytest.raises(NotDifferentiableError, match="output 1"):
        vjp(program, (0,))
    tangent, zero = interpret(jvp(program, (0,)), [1.0, True, 5.0])
    assert tangent == 5
    assert zero.dtype == bool
    assert not zero


def test_compositions_follow():
    assert_convention(gnp.linalg.norm if hasattr(gnp, "linalg") else np.linalg.norm, [[0, 0]], 0, 0)
    assert_convention(np.std, [[2, 2]], 0, 0)
    assert_convention(lambda x: np.clip(x, 0, 1), [1], 1, 0.5)
    assert_convention(lambda x: np.clip(x, 0, 1), [2], 1, 0)
