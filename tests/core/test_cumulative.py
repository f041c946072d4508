"""Running sums, products and extremes: NumPy's values, and derivatives that are exact with zeros, ties, infinities and NaN."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from gradwire_core.errors import ArgumentError, DtypeError, ShapeError, UnknownPrimitiveError
from gradwire_core.ops.cumulative import cumsum, recur
from gradwire_core.source import numpy_source
from gradwire_core.testing import check_derivatives, interpret
from gradwire_core.transforms import jacobian, structured_jacobian, vjp
from tests.core.traces import run, traced


def jacobian_of(function, x):
    return interpret(jacobian(traced(function, x)), [x])[0]


FUNCTIONS = {
    "cumsum": np.cumsum,
    "cumprod": np.cumprod,
    "add.accumulate": lambda x, axis: np.add.accumulate(x, axis or 0),
    "multiply.accumulate": lambda x, axis: np.multiply.accumulate(x, axis or 0),
    "maximum.accumulate": lambda x, axis: np.maximum.accumulate(x, axis or 0),
    "minimum.accumulate": lambda x, axis: np.minimum.accumulate(x, axis or 0),
    "logaddexp.accumulate": lambda x, axis: np.logaddexp.accumulate(x, axis or 0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_values_and_derivatives(name, axis):
    x = np.random.default_rng(0).permutation(12).reshape(3, 4) / 4 - 1.4
    program = traced(lambda x: FUNCTIONS[name](x, axis), x)
    np.testing.assert_allclose(interpret(program, [x])[0], FUNCTIONS[name](x, axis), rtol=1e-15)
    check_derivatives(program, [x])


@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.int64, np.float32])
@pytest.mark.parametrize("function", [np.cumsum, np.cumprod])
def test_dtypes_are_numpys(dtype, function):
    x = np.array([1, 0, 1, 1]).astype(dtype)
    found = run(function, x)
    assert found.dtype == function(x).dtype
    np.testing.assert_array_equal(found, function(x))
    assert run(lambda x: function(x, dtype=np.float64), x).dtype == np.float64


def test_a_sum_in_reverse():
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(run(lambda x: cumsum(x, 1, reverse=True), x), np.cumsum(x[:, ::-1], 1)[:, ::-1])


def test_cumulative_sum_and_prod_with_their_initial():
    x = np.arange(6.0).reshape(2, 3) + 1
    for function in (np.cumulative_sum, np.cumulative_prod):
        found = run(lambda x, function=function: function(x, axis=1, include_initial=True), x)
        np.testing.assert_array_equal(found, function(x, axis=1, include_initial=True))
    np.testing.assert_array_equal(run(np.cumulative_sum, x[0]), np.cumulative_sum(x[0]))


def test_the_derivative_of_a_product_with_zeros_is_exact():
    x = np.array([2.0, 0.0, 3.0, 0.0, 5.0])
    found = jacobian_of(np.cumprod, x)
    needed = [[np.prod(np.delete(x[: i + 1], j)) if j <= i else 0.0 for j in range(5)] for i in range(5)]
    np.testing.assert_array_equal(found, needed)


def test_ties_share_the_derivative_and_later_ones_join():
    x = np.array([1.0, 3.0, 3.0, 2.0, 3.0, 4.0])
    needed = [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 1 / 2, 1 / 2, 0, 0, 0],
        [0, 1 / 2, 1 / 2, 0, 0, 0],
        [0, 1 / 3, 1 / 3, 0, 1 / 3, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    np.testing.assert_allclose(jacobian_of(np.maximum.accumulate, x), needed, rtol=1e-15)
    np.testing.assert_allclose(jacobian_of(np.minimum.accumulate, -x), needed, rtol=1e-15)
    # The last row is that of the maximum itself.
    np.testing.assert_allclose(jacobian_of(np.maximum.accumulate, x[:5])[-1], jacobian_of(np.max, x[:5]), rtol=1e-15)


def test_nan_stays_from_the_first_on():
    x = np.array([1.0, np.nan, 2.0])
    np.testing.assert_array_equal(run(np.maximum.accumulate, x), [1, np.nan, np.nan])
    found = jacobian_of(np.maximum.accumulate, x)
    np.testing.assert_array_equal(found[0], [1, 0, 0])
    assert np.isnan(found[1:]).all()


def test_infinite_elements_are_extremes_as_others_are():
    x = np.array([-np.inf, 1.0, np.inf, 2.0])
    np.testing.assert_array_equal(jacobian_of(np.maximum.accumulate, x), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]])


@pytest.mark.parametrize("x", [[-700.0, 0.0, 1e-9, 3.0], [1e4, 1e4 - 40, 1e4 + 1, -1e4], [0.0, -60.0, -120.0, 1e-3]])
def test_the_weights_of_logaddexp_are_accurate_in_the_tails(x):
    found = jacobian_of(np.logaddexp.accumulate, np.array(x))
    with mpmath.workdps(50):
        for i in range(len(x)):
            total = mpmath.fsum(mpmath.exp(mpmath.mpf(item)) for item in x[: i + 1])
            for j in range(len(x)):
                needed = float(mpmath.exp(mpmath.mpf(x[j])) / total) if j <= i else 0.0
                assert abs(found[i, j] - needed) <= 1e-11 * needed, (i, j, found[i, j], needed)


def test_logaddexp_of_nothing_but_minus_infinity_has_derivative_0():
    x = np.array([-np.inf, -np.inf, 1.0, -np.inf])
    np.testing.assert_array_equal(run(np.logaddexp.accumulate, x), [-np.inf, -np.inf, 1, 1])
    np.testing.assert_array_equal(jacobian_of(np.logaddexp.accumulate, x)[1:], [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]])
    (curved,) = interpret(vjp(vjp(traced(np.logaddexp.accumulate, x)), (0,)), [x, np.ones(4), np.ones(4)])
    assert np.isfinite(curved).all()


def test_the_recurrence():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 5)), rng.normal(size=(2, 5))
    needed = np.zeros((2, 5))
    for place in range(5):
        needed[:, place] = (a[:, place] * needed[:, place - 1] if place else 0) + b[:, place]
    np.testing.assert_allclose(run(lambda a, b: recur(a, b, 1), a, b), needed, rtol=1e-15)
    backward = run(lambda a, b: recur(a, b, 1, reverse=True), a[:, ::-1], b[:, ::-1])
    np.testing.assert_allclose(backward, needed[:, ::-1], rtol=1e-15)
    check_derivatives(traced(lambda a, b: recur(np.sin(a), b, 1) ** 2, a, b), [a, b], order=3, rtol=1e-5)


def test_the_first_factor_of_a_recurrence_is_not_used():
    a, b = np.array([np.inf, 2.0]), np.array([1.0, 0.0])
    assert run(lambda a, b: recur(a, b, 0), a, b).tolist() == [1, 2]


def test_products_to_third_order():
    x = np.array([0.5, 0.0, -1.5, 2.0])
    check_derivatives(traced(lambda x: np.cumprod(x) * x, x), [x], order=3, rtol=1e-5)


def test_a_sum_of_a_long_diagonal_keeps_few_numbers():
    program = traced(lambda x: np.cumsum(np.sin(x)), np.zeros(50))
    _, specs = structured_jacobian(program)
    assert specs
    x = np.linspace(0, 1, 50)
    np.testing.assert_allclose(jacobian_of(lambda x: np.cumsum(np.sin(x)), x), np.tril(np.tile(np.cos(x), (50, 1))), rtol=1e-15)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_empty_and_single_axes(name):
    for shape in ((0,), (1,), (2, 0), (0, 2)):
        x, last = np.ones(shape), len(shape) - 1
        program = traced(lambda x, axis=last: FUNCTIONS[name](x, axis), x)
        np.testing.assert_array_equal(interpret(program, [x])[0], FUNCTIONS[name](x, len(shape) - 1))
        interpret(vjp(program), [x, np.ones(shape)])


def test_the_source_computes_the_same():
    x = np.random.default_rng(5).normal(size=(3, 4))
    program = traced(lambda x: cumsum(np.maximum.accumulate(np.cumprod(x, 1), 0), 1, reverse=True), x)
    for item in (program, vjp(program)):
        scope = {}
        exec(numpy_source(item), scope)  # noqa: S102  # our own text
        arrays = [x] * len(item.inputs)
        np.testing.assert_allclose(scope["program"](*arrays)[0], interpret(item, arrays)[0], rtol=1e-15)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x: np.cumsum(x, 2), ShapeError),
        (lambda x: np.cumsum(x, 0, out=np.zeros((2, 3))), ArgumentError),
        (lambda x: np.maximum.accumulate(x, out=np.zeros((2, 3))), ArgumentError),
        (lambda x: np.maximum.accumulate(x, None), ShapeError),
        (np.cumulative_sum, ShapeError),
        (lambda x: np.logaddexp.accumulate(x.astype(np.int64)), DtypeError),
        (lambda x: np.maximum.accumulate(x > 0), DtypeError),
        (np.hypot.accumulate, UnknownPrimitiveError),
    ],
)
def test_what_is_refused(function, error):
    with pytest.raises(error, match=r": needed .*, got .*; "):
        traced(function, np.ones((2, 3)))
