"""Averages, covariances, comparisons and reductions without NaN: NumPy's values and dtypes, and derivatives."""

import numpy as np
import pytest

import gradwire as gw
from gradwire.testing import check_derivatives

RNG = np.random.default_rng(5)
V = RNG.normal(size=5)
M = RNG.normal(size=(3, 4))
T = RNG.normal(size=(2, 3, 4))
W = RNG.uniform(0.5, 2, size=(3, 4))
HOLES = np.where(RNG.random((3, 4)) < 0.3, np.nan, M)

CASES = [
    (lambda x: np.amax(x, 1), M),
    (lambda x: np.amin(x, keepdims=True), M),
    (lambda x: x + np.around(x, 0), np.array([0.3, 1.2])),
    (np.average, M),
    (lambda x: np.average(x, 1, keepdims=True), M),
    (lambda x: np.average(x, 0, W), M),
    (lambda x: np.average(M, weights=x), W),
    (lambda x: np.average(T, 2, x), W[0]),
    (lambda x: np.average(T, (2, 1), x), W.T),
    (lambda x: np.average(T, (1, 2), x), W),
    (lambda x: np.average(M, 1, x, returned=True)[1], W),
    (lambda x: np.average(x, 1, returned=True)[1], M),
    (np.cov, M),
    (lambda x: np.cov(x, rowvar=False), M),
    (lambda x: np.cov(x, x[:1] ** 2, bias=True), M),
    (lambda x: np.cov(x, ddof=2), M),
    (np.cov, V),
    (np.corrcoef, M),
    (lambda x: np.corrcoef(x) * x[0], V),
    (lambda x: np.corrcoef(x, V), V**2),
]
NAN_FUNCTIONS = [
    np.nansum, np.nanprod, np.nanmax, np.nanmin, np.nanmean, np.nanvar, np.nanstd,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CASES)))
def test_functions_compute_what_numpy_does(number):
    function, at = CASES[number]
    expected = function(at)
    got = gw.evaluate(function)(at)
    assert got.shape == np.shape(expected)
    assert got.dtype == np.asarray(expected).dtype
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-14)
    traced = gw.trace(function, at)
    check_derivatives(traced, [at, *traced.captured])


@pytest.mark.parametrize("function", NAN_FUNCTIONS)
def test_nan_is_left_out_and_has_no_derivative(function):
    for axis in (None, 0, 1):
        np.testing.assert_allclose(gw.evaluate(lambda x, axis=axis: function(x, axis))(HOLES), function(HOLES, axis), rtol=1e-13)
    np.testing.assert_allclose(
        gw.evaluate(lambda x: function(x, 1, keepdims=True))(HOLES), function(HOLES, 1, keepdims=True), rtol=1e-13
    )
    found = gw.grad(lambda x: function(x, None))(HOLES)
    present = ~np.isnan(HOLES)
    assert np.all(found[~present] == 0)
    plain = getattr(np, function.__name__.removeprefix("nan"))
    np.testing.assert_allclose(found[present], gw.grad(plain)(HOLES[present]), rtol=1e-12)
    integers = np.arange(6).reshape(2, 3)
    expected = function(integers, 0)
    found = gw.evaluate(lambda x: function(x, 0))(integers)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected)


def test_running_sums_without_nan():
    np.testing.assert_allclose(gw.evaluate(lambda x: np.nancumsum(x, 1))(HOLES), np.nancumsum(HOLES, 1))
    np.testing.assert_allclose(gw.evaluate(np.nancumprod)(HOLES), np.nancumprod(HOLES))


def test_nothing_but_nan():
    nothing = np.array([[np.nan, np.nan], [1.0, 3.0]])
    for function in (np.nanmax, np.nanmin, np.nanmean, np.nanvar, np.nanstd):
        found = gw.evaluate(lambda x, f=function: f(x, 1))(nothing)
        assert np.isnan(found[0])
        assert found[1] == function(nothing[1])


def test_comparisons_of_arrays():
    x = np.array([1.0, 1 + 1e-9, np.inf, np.nan, -np.inf])
    y = np.array([1.0, 1.0, np.inf, np.nan, np.inf])
    for equal_nan in (False, True):
        found = gw.evaluate(lambda x, y, e=equal_nan: np.isclose(x, y, equal_nan=e))(x, y)
        np.testing.assert_array_equal(found, np.isclose(x, y, equal_nan=equal_nan))
        assert gw.evaluate(lambda x, e=equal_nan: np.array_equal(x, x, e))(x) == np.array_equal(x, x, equal_nan)
    assert gw.evaluate(lambda x: np.allclose(x, y[:2]))(x[:2])
    assert not gw.evaluate(lambda x: x * 0 + np.array_equal(x, y[:2]))(x[:1]).any()
    assert gw.evaluate(lambda x: np.array_equiv(x, y[:1]))(np.ones((2, 2)))
    assert not gw.evaluate(lambda x: x * 0 + np.array_equiv(x, y[:3]))(x[:2]).any()
    np.testing.assert_array_equal(gw.evaluate(lambda x: np.isin(x, [1.0, np.inf]))(x), np.isin(x, [1.0, np.inf]))
    np.testing.assert_array_equal(gw.evaluate(lambda x: np.isin(x, [1.0], invert=True))(x), np.isin(x, [1.0], invert=True))


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x: np.average(x, weights=V), gw.ShapeError),
        (lambda x: np.cov(x, aweights=np.ones(4)), gw.ArgumentError),
        (lambda x: np.cov(x[None]), gw.ShapeError),
        (lambda x: np.corrcoef(x, dtype=np.float64), gw.ArgumentError),
        (lambda x: np.nanmean(x, where=M > 0), gw.ArgumentError),
        (lambda x: np.nanvar(x, out=np.zeros(())), gw.ArgumentError),
    ],
)
def test_wrong_arguments_say_what_was_needed(function, error):
    with pytest.raises(error, match=r": needed .*, got "):
        gw.evaluate(function)(M)
