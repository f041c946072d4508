"""Logarithms of absolute values by how they were made: right where the values themselves under- or overflow."""

import functools
import gc
import math
import weakref

import mpmath
import numpy as np
import pytest
import scipy.special as sp

import gradwire.special  # noqa: F401  # registers the functions of scipy.special
from gradwire_core.builder import Builder, Value
from gradwire_core.structure.magnitude import NONNEGATIVE, POSITIVE, UNKNOWN, log_absolute, lower_bound, sign_of
from gradwire_core.testing import check_derivatives, interpret
from gradwire_core.transforms.linearize import linearize
from gradwire_core.types import Dtype, TensorType
from tests.core.traces import traced
from tests.core.work import calls_of

POINTS = np.array([-800.0, -400.0, -30.0, -1.5, -0.5, -1e-9, 0.0, 1e-9, 0.25, 0.5, 3.0, 40.0, 400.0, 800.0])
MP = mpmath.mp


def reference(function, x):
    """The sign and the logarithm of the absolute value of a function of mpmath numbers."""
    with mpmath.workdps(2500):
        value = mpmath.mpf(function(mpmath.mpf(float(x))))
        return float(mpmath.sign(value)), float(mpmath.log(abs(value))) if value else -math.inf


def partial(function, dtype=Dtype.FLOAT64, shape=()):
    """The program of (sign, log|.|) of the product of all partials from the input of a scalar function to its output."""
    program = traced(function, np.zeros(shape, dtype.numpy))
    linear = linearize(program, (0,))
    builder = linear.builder
    one = builder.literal(np.ones(shape, dtype.numpy))
    known = {linear.tangents[0].operand: one}
    for equation in linear.equations:  # the tangent of 1, written out
        operands = [known.get(operand, Value(builder, operand)) for operand in equation.operands]
        known[equation.results[0]] = builder.emit(equation.primitive, operands, equation.params)[0]
    found = known[linear.tangent_outputs[0].operand]
    return builder.build([sign_of(found), log_absolute(found)])


def sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


# Functions, their derivatives in mpmath: whatever the chain of partials is, the logarithm has full accuracy at all points.
PARTIALS = {
    "tanh": (np.tanh, lambda x: 1 - mpmath.tanh(x) ** 2),
    "exp": (np.exp, mpmath.exp),
    "exp2": (np.exp2, lambda x: mpmath.log(2) * 2**x),
    "power of a number": (lambda x: 3.0**x, lambda x: mpmath.log(3) * mpmath.mpf(3) ** x),
    "exp of a product": (lambda x: np.exp(-3.0 * x), lambda x: -3 * mpmath.exp(-3 * x)),
    "expm1": (np.expm1, mpmath.exp),
    "sinh": (np.sinh, mpmath.cosh),
    "cosh": (np.cosh, mpmath.sinh),
    "logistic": (sp.expit, lambda x: sigmoid(x) * sigmoid(-x)),
    "logistic written out": (lambda x: 1 / (1 + np.exp(-x)), lambda x: sigmoid(x) * sigmoid(-x)),
    "softplus": (lambda x: np.logaddexp(x, 0.0), sigmoid),
    "softplus written out": (lambda x: np.log1p(np.exp(x)), sigmoid),
    "log of exp": (lambda x: np.log(1 + np.exp(x)), sigmoid),
    "log of the logistic": (sp.log_expit, lambda x: sigmoid(-x)),
    "arctan": (np.arctan, lambda x: 1 / (1 + x * x)),
    "arcsinh": (np.arcsinh, lambda x: 1 / mpmath.sqrt(1 + x * x)),
    "erf": (sp.erf, lambda x: 2 / mpmath.sqrt(MP.pi) * mpmath.exp(-x * x)),
    "normal": (sp.ndtr, mpmath.npdf),
    "cube": (lambda x: x**3, lambda x: 3 * x**2),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(x)), lambda x: mpmath.mpf(1) if x > 0 else mpmath.exp(x)),
    "deep": (lambda x: np.tanh(np.exp(np.tanh(x))), None),
    "scaled": (lambda x: np.tanh(x * 2.0) * 3.0, lambda x: 6 * (1 - mpmath.tanh(2 * x) ** 2)),
    "exp of exp": (lambda x: np.exp(np.exp(x / 200)), lambda x: mpmath.exp(mpmath.exp(x / 200)) * mpmath.exp(x / 200) / 200),
    "moved": (lambda x: np.tanh(np.reshape(np.broadcast_to(x, (1, 1)), (1,))[0]), lambda x: 1 - mpmath.tanh(x) ** 2),
}
PARTIALS["deep"] = (
    PARTIALS["deep"][0],
    lambda x: (1 - mpmath.tanh(mpmath.exp(mpmath.tanh(x))) ** 2) * mpmath.exp(mpmath.tanh(x)) * (1 - mpmath.tanh(x) ** 2),
)


@pytest.mark.parametrize("name", PARTIALS)
def test_log_partials_are_right_in_the_tails(name):
    function, derivative = PARTIALS[name]
    program = partial(function)
    for x in POINTS:
        found = [float(item) for item in interpret(program, [x])]
        sign, log = reference(derivative, x)
        assert found[0] == sign, x
        assert found[1] == log or abs(found[1] - log) <= 4e-15 * max(1, abs(log)), (x, found[1], log)


VALUES = {
    "tanh": (lambda x: 1 - np.tanh(x) ** 2, lambda x: 1 - mpmath.tanh(x) ** 2),
    "tanh times itself": (lambda x: 1 - np.tanh(x) * np.tanh(x), lambda x: 1 - mpmath.tanh(x) ** 2),
    "tanh squared": (lambda x: 1 - np.square(np.tanh(x)), lambda x: 1 - mpmath.tanh(x) ** 2),
    "its factors": (lambda x: (1 - np.tanh(x)) * (np.tanh(x) + 1), lambda x: 1 - mpmath.tanh(x) ** 2),
    "logistic": (lambda x: sp.expit(x) * (1 - sp.expit(x)), lambda x: sigmoid(x) * sigmoid(-x)),
    "hyperbolic secant": (lambda x: 1 / np.cosh(x) ** 2, lambda x: mpmath.cosh(x) ** -2),
    "power": (lambda x: np.cosh(x) ** -2.5, lambda x: mpmath.cosh(x) ** mpmath.mpf(-2.5)),
    "sinh": (np.sinh, mpmath.sinh),
    "negative": (lambda x: -np.exp(x), lambda x: -mpmath.exp(x)),
    "exp - 1": (lambda x: np.exp(x) - 1, mpmath.expm1),
    "1 - exp": (lambda x: 1 - np.exp(x), lambda x: -mpmath.expm1(x)),
    "expm1": (np.expm1, mpmath.expm1),
    "square root": (lambda x: np.sqrt(np.exp(x)), lambda x: mpmath.exp(x / 2)),
    "cube root": (lambda x: np.cbrt(-np.exp(x)), lambda x: -mpmath.exp(x / 3)),
    "reciprocal": (lambda x: np.reciprocal(-np.exp(x)), lambda x: -mpmath.exp(-x)),
    "sum": (lambda x: np.exp(x) + np.exp(-2 * x), lambda x: mpmath.exp(x) + mpmath.exp(-2 * x)),
    "quotient": (lambda x: np.exp(x) / np.exp(3 * x), lambda x: mpmath.exp(-2 * x)),
    "absolute": (lambda x: np.abs(np.sinh(x)), lambda x: abs(mpmath.sinh(x))),
    "product of many": (lambda x: np.prod(np.broadcast_to(np.exp(x), (7,))), lambda x: mpmath.exp(7 * x)),
    "contraction": (lambda x: np.einsum("i,j->ji", np.exp(x) * np.ones(2), np.exp(x / 2) * np.ones(3))[2, 1], None),
    "joined": (lambda x: np.concatenate([np.ones(1), np.exp(x)[None]])[1], mpmath.exp),
    "gathered": (lambda x: np.exp(x * np.ones(3))[np.array([1, 2])][0], mpmath.exp),
    "odd power": (lambda x: np.sinh(x) ** 3, lambda x: mpmath.sinh(x) ** 3),
    "exp10": (lambda x: 10.0**x, lambda x: mpmath.mpf(10) ** x),
}
VALUES["contraction"] = (VALUES["contraction"][0], lambda x: mpmath.exp(3 * x / 2))


def logs_of(function, dtype=np.float64):
    builder = Builder()
    value = function(builder.input(TensorType(Dtype.of(np.dtype(dtype)), ())))
    return builder.build([sign_of(value), log_absolute(value)])


@pytest.mark.parametrize("name", VALUES)
def test_values_keep_their_logarithm_where_they_overflow(name):
    function, exact = VALUES[name]
    program = logs_of(function)
    for x in POINTS:
        found = [float(item) for item in interpret(program, [x])]
        sign, log = reference(exact, x)
        assert found[0] == sign, x
        assert found[1] == log or abs(found[1] - log) <= 4e-15 * max(1, abs(log)), (x, found[1], log)


@pytest.mark.parametrize("name", VALUES)
def test_logarithms_are_differentiated_as_they_are_computed(name):
    check_derivatives(Program_of_log(VALUES[name][0]), [np.float64(0.7)])
    check_derivatives(Program_of_log(VALUES[name][0]), [np.float64(-0.4)])


def Program_of_log(function):
    program = logs_of(function)
    return type(program)(program.inputs, program.equations, program.outputs[1:])


def test_the_derivative_of_a_logarithm_is_finite_in_the_tails():
    from gradwire_core.transforms import grad

    for name in ("tanh", "logistic", "exp - 1", "sinh", "sum"):
        program = grad(Program_of_log(VALUES[name][0]))
        for x in (-800.0, -400.0, 400.0, 800.0):
            (found,) = interpret(program, [np.float64(x)])
            assert np.isfinite(found), (name, x)


def test_the_logarithm_of_a_sum_of_squares_is_smooth_at_zero():
    from gradwire_core.transforms import grad

    program = grad(Program_of_log(lambda x: 1 + x * x))
    assert interpret(program, [np.float64(0.0)])[0] == 0
    assert interpret(program, [np.float64(1e200)])[0] == pytest.approx(2e-200)


EDGES = {
    "zero": (lambda x: x * 3.0, 0.0, (0, -np.inf)),
    "zero times exp": (lambda x: x * np.exp(x - 800.0), 0.0, (0, -np.inf)),
    "tiny": (lambda x: x * np.exp(x - 800.0), 1e-300, (1, math.log(1e-300) - 800)),
    "tiny negative": (lambda x: x * np.exp(x - 800.0), -1e-300, (-1, math.log(1e-300) - 800)),
    "square of tiny": (lambda x: x * x, -1e-300, (1, 2 * math.log(1e-300))),
    "product": (lambda x: x * x * x, -1e-300, (-1, 3 * math.log(1e-300))),
    "infinite": (lambda x: 1 / x, 0.0, (1, np.inf)),
    "minus infinite": (lambda x: 1 / x, -0.0, (-1, np.inf)),
    "negative infinite": (lambda x: -3.0 / x, 0.0, (-1, np.inf)),
    "power 0": (lambda x: x**0.0, 0.0, (1, 0)),
    "negative power": (lambda x: x**-3.0, -2.0, (-1, -3 * math.log(2))),
    "even power": (lambda x: x**-2.0, -2.0, (1, -2 * math.log(2))),
}


@pytest.mark.parametrize("name", EDGES)
def test_zeros_and_infinities(name):
    function, x, needed = EDGES[name]
    found = interpret(logs_of(function), [x])
    np.testing.assert_allclose(found, needed, rtol=1e-15)


NANS = {
    "input": (lambda x: x, np.nan),
    "exp": (np.exp, np.nan),
    "root": (np.sqrt, -1.0),
    "root of a product": (lambda x: np.sqrt(x * np.exp(x)), -1.0),
    "fractional power": (lambda x: x**0.5, -1.0),
    "zero times infinity": (lambda x: x * (1 / x), 0.0),
    "zero by zero": (lambda x: x / x, 0.0),
    "tanh": (lambda x: 1 - np.tanh(x) ** 2, np.nan),
    "sum": (lambda x: np.exp(x) + 1.0, np.nan),
    "difference": (lambda x: 1 - np.exp(x), np.nan),
}


@pytest.mark.parametrize("name", NANS)
def test_nan_stays_nan(name):
    function, x = NANS[name]
    assert np.isnan(interpret(logs_of(function), [x])[1])


def test_float32_stays_float32():
    program = logs_of(lambda x: 1 - np.tanh(x) ** 2, np.float32)
    sign, log = interpret(program, [np.float32(300)])
    assert (sign.dtype, log.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(log, 2 * (math.log(2) - 300), rtol=1e-6)
    program = logs_of(lambda x: np.exp(x).astype(np.float64), np.float32)
    assert interpret(program, [np.float32(-500)])[1] == -500


def test_complex_and_integer_values():
    builder = Builder()
    z = builder.input(TensorType(Dtype.COMPLEX128, ()))
    count = builder.input(TensorType(Dtype.INT64, ()))
    program = builder.build([log_absolute(z * z), log_absolute(count), sign_of(count)])
    np.testing.assert_allclose(interpret(program, [3 + 4j, -2]), [math.log(25), math.log(2), -1])


BOUNDS = {
    POSITIVE: [
        np.exp, np.cosh, lambda x: 1 + x * x, lambda x: np.exp(x) * 2.0, lambda x: 1 / np.exp(x), lambda x: 1 - np.tanh(x) ** 2,
        lambda x: np.sqrt(1 + x**2), lambda x: np.exp(x) ** 0.5, lambda x: np.maximum(x, 1.0), lambda x: np.hypot(1.0, x),
        lambda x: np.where(x > 0, np.exp(x), 2.0), lambda x: np.sum(np.exp(x) * np.ones(3)), lambda x: x**2 + np.exp(x),
    ],
    NONNEGATIVE: [np.abs, np.square, lambda x: x * x, lambda x: x**4.0, lambda x: np.abs(x) * np.exp(x), np.sqrt],
    UNKNOWN: [
        lambda x: x, np.sin, lambda x: -np.exp(x), lambda x: np.exp(x) - 2.0, lambda x: x**3.0, lambda x: 1 / x**2.0,
        lambda x: 1 + x, lambda x: x + x * x, lambda x: np.sum(np.exp(x) * np.ones(0)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("bound", BOUNDS)
def test_bounds(bound):
    for number, function in enumerate(BOUNDS[bound]):
        builder = Builder()
        assert lower_bound(function(builder.input(TensorType(Dtype.FLOAT64, ())))) == bound, number


def test_long_chains_take_linear_time():
    counts = []
    for length in (1000, 4000):
        builder = Builder()
        value = builder.input(TensorType(Dtype.FLOAT64, (2,)))
        for _ in range(length):
            value = value * np.exp(value)
        counts.append(calls_of(functools.partial(log_absolute, value)))
    assert counts[1] < 4.2 * counts[0]


def test_what_was_found_goes_with_the_builder():
    builder = Builder()
    value = np.exp(builder.input(TensorType(Dtype.FLOAT64, (2,)))) * 2
    assert log_absolute(value).operand is log_absolute(value).operand
    sign_of(value)
    gone = weakref.ref(builder)
    del builder, value
    gc.collect()
    assert gone() is None
