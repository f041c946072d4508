"""Special functions, rounding and the rest beyond arithmetic: kinks and extremes, orders, refusals, and names that dispatch."""

from __future__ import annotations

import subprocess
import sys

import mpmath
import numpy as np
import pytest
import scipy.special

from gradwire_core.errors import DtypeError, NotDifferentiableError, ProgramError, TracingError, UnknownPrimitiveError
from gradwire_core.ops import PRIMITIVES, bessel, incomplete, rounding, special, transcendental
from gradwire_core.ops._declare import call
from gradwire_core.testing import check_derivatives, interpret
from gradwire_core.transforms import grad, jvp, vjp
from tests.core.traces import run, trace

inf, nan = np.inf, np.nan


def slopes(function, *arrays):
    """The derivatives, one for each operand, of a function element by element."""
    program, captured = trace(lambda *operands: np.sum(function(*operands)), arrays)
    return interpret(grad(program, tuple(range(len(arrays)))), [*arrays, *captured])


def tangents(function, x):
    program, captured = trace(function, [x])
    return interpret(jvp(program), [x, *captured, np.ones_like(x)])[0]


# -- rounding and remainders ---------------------------------------------------------------------------------------------------

POINTS = np.array([-2.5, -1.5, -0.5, -0.0, 0.5, 1.5, 2.5, 2.4, inf, -inf, nan])


@pytest.mark.parametrize(
    "function",
    [np.floor, np.ceil, np.trunc, np.rint, np.round, np.signbit, np.isinf, np.positive, np.fabs, np.isposinf, np.isneginf],
)
def test_rounding_and_signs_are_those_of_numpy(function):
    np.testing.assert_array_equal(run(function, POINTS), function(POINTS))


@pytest.mark.parametrize("decimals", [-1, 1, 2])
def test_rounding_to_decimals_is_that_of_numpy(decimals):
    x = np.array([1.2345, -15.5, 0.05, 125.0])
    np.testing.assert_allclose(run(lambda x: np.round(x, decimals), x), np.round(x, decimals), rtol=1e-15)


@pytest.mark.parametrize("function", [np.floor, np.ceil, np.trunc, np.rint, rounding.stop_gradient])
def test_what_is_constant_by_parts_has_no_derivative(function):
    np.testing.assert_array_equal(slopes(lambda x: function(x) * 1.5, POINTS)[0], np.zeros(11))


@pytest.mark.parametrize("function", [np.remainder, np.fmod, np.floor_divide])
def test_remainders_are_those_of_numpy(function):
    x, y = np.array([7.0, -7.0, 7.0, -7.0, 0.3, 1.0, inf]), np.array([2.0, 2.0, -2.0, -2.0, 0.1, 0.0, 1.0])
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(run(function, x, y), function(x, y))


def test_quotients_in_the_derivatives_of_remainders_are_exact_integers():
    # 0.3 / 0.1 rounds to 3, yet 2 tenths fit, in doubles.
    assert slopes(np.remainder, np.array([0.3]), np.array([0.1]))[1] == -2
    assert slopes(np.fmod, np.array([-7.5]), np.array([2.0]))[1] == 3


def test_divmod_and_modf_are_those_of_numpy():
    x = np.array([7.25, -7.25, 0.0])
    for one, other in ((np.divmod, (x, np.array([2.0, 2.0, 3.0]))), (np.modf, (x,))):
        for place in (0, 1):
            np.testing.assert_array_equal(run(lambda *a, one=one, place=place: one(*a)[place], *other), one(*other)[place])


def test_copysign_at_zero_has_the_convention_of_absolute():
    x, y = np.array([0.0, 2.0, -2.0]), np.array([-1.0, -0.0, 3.0])
    np.testing.assert_array_equal(slopes(np.copysign, x, y), [[0, -1, -1], [0, 0, 0]])


def test_fmax_and_fmin_pass_the_derivative_to_what_is_not_nan():
    x, y = np.array([1.0, nan, 2.0, 3.0]), np.array([nan, 1.0, 2.0, 1.0])
    np.testing.assert_array_equal(slopes(np.fmax, x, y), [[1, 0, 0.5, 1], [0, 1, 0.5, 0]])
    np.testing.assert_array_equal(slopes(np.fmin, x, y), [[1, 0, 0.5, 0], [0, 1, 0.5, 1]])


def test_heaviside_varies_with_its_value_at_zero_there_only():
    x = np.array([-1.0, 0.0, 1.0])
    np.testing.assert_array_equal(slopes(np.heaviside, x, np.full(3, 0.5)), [[0, 0, 0], [0, 1, 0]])


def test_nan_to_num_masks_what_it_replaces():
    x = np.array([1.0, nan, inf, -inf])
    np.testing.assert_array_equal(run(np.nan_to_num, x), np.nan_to_num(x))
    np.testing.assert_array_equal(run(lambda x: np.nan_to_num(x, nan=3, posinf=2, neginf=1), x), [1, 3, 2, 1])
    np.testing.assert_array_equal(slopes(lambda x: np.nan_to_num(x) * 2, x)[0], [2, 0, 0, 0])
    np.testing.assert_array_equal(run(np.nan_to_num, np.arange(3)), np.arange(3))


def test_float_power_is_computed_in_float64():
    found = run(lambda x: np.float_power(x, 0.5), np.array([2.0, 3.0], np.float32))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, np.float_power(np.array([2.0, 3.0], np.float32), 0.5))


# -- extremes ------------------------------------------------------------------------------------------------------------------


def test_the_sum_of_two_exponentials_at_infinities():
    x, y = np.array([inf, -inf, inf, -inf, 1.0, 2.0]), np.array([inf, -inf, 0.0, 0.0, 1.0, -inf])
    for function in (np.logaddexp, np.logaddexp2):
        np.testing.assert_array_equal(slopes(function, x, y), [[0.5, 0.5, 1, 0, 0.5, 1], [0.5, 0.5, 0, 1, 0.5, 0]])


def test_second_derivatives_where_both_exponentials_are_equal():
    check_derivatives(np.logaddexp, [np.array([1.0, -2.0]), np.array([1.0, -2.0])], order=3, rtol=1e-6)


@pytest.mark.parametrize("function", [scipy.special.xlogy, scipy.special.rel_entr, scipy.special.kl_div])
def test_zero_times_the_logarithm_of_zero_has_no_derivative_in_the_second(function):
    assert slopes(function, np.array([0.0]), np.array([0.0]))[1] == 0


def test_zero_times_a_logarithm_keeps_its_mixed_derivative():
    x, y = np.array([0.0]), np.array([2.0])
    program, _ = trace(lambda x, y: np.sum(scipy.special.xlogy(x, y)), [x, y])
    (mixed,) = interpret(jvp(grad(program, (1,)), (0,)), [x, y, np.ones(1)])
    assert mixed == 0.5


def test_entropies_at_zero_are_those_of_scipy():
    x = np.array([0.0, -1.0, 2.0, inf])
    np.testing.assert_array_equal(run(scipy.special.entr, x), scipy.special.entr(x))
    assert slopes(scipy.special.entr, np.array([0.0]))[0] == inf
    x, y = np.array([0.0, 1.0, -1.0, 0.0, 1.0, inf, nan]), np.array([1.0, 0.0, 1.0, 0.0, inf, 1.0, 1.0])
    np.testing.assert_array_equal(run(scipy.special.kl_div, x, y), scipy.special.kl_div(x, y))


def test_the_normal_distribution_far_out_to_second_order():
    x = np.array([-1e4, -40.0, 0.0, 8.0, 40.0])
    (given,) = interpret(grad(trace(lambda x: np.sum(tangents_of_log_ndtr(x)), [x])[0]), [x])
    with mpmath.workdps(60):
        for point, number in zip(x, given, strict=True):
            needed = mpmath.diff(
                lambda z: mpmath.log(mpmath.ncdf(z)) if z < 5 else mpmath.log1p(-mpmath.ncdf(-z)), mpmath.mpf(point), 2
            )
            if abs(point) < 1e3:
                assert abs(number - needed) <= 1e-10 * abs(needed) + 1e-320
    assert given[0] == pytest.approx(-1, rel=1e-7)


def tangents_of_log_ndtr(x):
    program, _ = trace(special.log_ndtr, [np.zeros(x.shape)])
    return x.builder.inline(jvp(program), [x, x.builder.literal(np.ones(x.shape))])[0]


def test_sinc_is_smooth_at_zero_to_all_orders():
    check_derivatives(np.sinc, [np.array([0.0, 1e-9, 1e-3, 0.3])], order=4, rtol=1e-6)


@pytest.mark.parametrize("name", ["i0e", "i1e", "k0e", "erfcx", "log_ndtr", "gammaln", "logit", "ndtri"])
def test_third_derivatives_hold(name):
    check_derivatives(getattr(scipy.special, name), [np.array([0.3, 0.6])], order=3, rtol=1e-6)


def test_the_scaled_bessel_function_of_negative_numbers_is_odd_or_even():
    x = np.array([-0.5, -30.0, 0.0])
    np.testing.assert_allclose(tangents(bessel.i0e, x), -tangents(bessel.i0e, -x) + 0.0, rtol=1e-15)
    np.testing.assert_allclose(tangents(bessel.i1e, x), tangents(bessel.i1e, -x), rtol=1e-15)
    assert tangents(bessel.i0e, np.zeros(1)) == 0


# -- incomplete functions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "x"), [(1e-3, 0.7), (0.5, 0.3), (2.0, 5.0), (10.0, 8.0), (29.0, 28.0), (31.0, 31.5), (300.0, 250.0), (1e4, 9.9e3)]
)
@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_of_gammainc_in_its_parameter(a, x, order):
    given = call(PRIMITIVES["gammainc_order"], np.array(a), np.array(x), order=order)
    with mpmath.workdps(60):
        low, high = (0, x) if x < a else (x, mpmath.inf)
        needed = mpmath.diff(
            lambda p: mpmath.gammainc(p, low, high, regularized=True), mpmath.mpf(a), order, h=mpmath.mpf(a) * 1e-18
        )
        needed = needed if x < a else -needed
    assert abs(given - needed) <= 1e-11 * abs(needed)


@pytest.mark.parametrize(
    ("a", "b", "x"), [(0.5, 0.5, 0.3), (2.0, 3.0, 0.9), (1e-2, 2.0, 1e-4), (0.3, 0.02, 0.9), (30.0, 40.0, 0.6), (5.0, 1e3, 1e-3)]
)
def test_derivatives_of_betainc_in_its_parameters(a, b, x):
    is_low = x < a / (a + b)
    with mpmath.workdps(60):

        def integral(p, q):
            value = mpmath.betainc(p, q, *((0, x) if is_low else (x, 1)), regularized=True)
            return value if is_low else -value

        steps = [mpmath.mpf(item) * mpmath.mpf(10) ** -18 for item in (a, b)]
        for place, (first, second) in enumerate([(1, 0), (0, 1)]):
            moved = [[mpmath.mpf(a), mpmath.mpf(b)], [mpmath.mpf(a), mpmath.mpf(b)]]
            moved[0][place] += steps[place]
            moved[1][place] -= steps[place]
            needed = (integral(*moved[0]) - integral(*moved[1])) / (2 * steps[place])
            given = call(PRIMITIVES["betainc_order"], np.array(a), np.array(b), np.array(x), first=first, second=second)
            assert abs(given - needed) <= 1e-11 * abs(needed)


def test_incomplete_functions_at_the_ends_of_their_domain():
    a, x = np.array([2.0, 2.0, 0.5, -1.0]), np.array([0.0, inf, 0.0, 1.0])
    np.testing.assert_array_equal(slopes(scipy.special.gammainc, a, x)[0], [0, 0, 0, nan])
    np.testing.assert_array_equal(slopes(scipy.special.gammainc, a[:3], x[:3])[1], [0, 0, inf])
    ends = np.array([0.0, 1.0])
    for given, needed in zip(
        slopes(scipy.special.betainc, np.full(2, 2.0), np.ones(2), ends), ([0, 0], [0, 0], [0, 2]), strict=True
    ):
        np.testing.assert_array_equal(given, needed)


@pytest.mark.parametrize("order", [-1, 9, True])
def test_orders_of_the_wrong_kind_are_refused(order):
    with pytest.raises(ProgramError, match="needed orders from 0 to 8"):
        call(PRIMITIVES["gammainc_order"], np.array(1.0), np.array(1.0), order=order)


# -- orders and dtypes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda v: scipy.special.jv(v, 1.5), lambda v: scipy.special.kve(v, 1.5), lambda v: scipy.special.zeta(v, 2.0),
        lambda v: scipy.special.hyp2f1(1.0, v, 2.0, 0.5), lambda v: special.polygamma(v, 2.0),
        lambda v: bessel.spherical_jn(v, 2.0),
    ],
)  # fmt: skip
def test_a_derivative_in_an_order_is_refused(function):
    program, _ = trace(function, [np.array(2.0)])
    for transform in (grad, jvp, vjp):
        with pytest.raises(NotDifferentiableError, match="needed operands of known derivative"):
            transform(program)


def test_an_order_may_be_an_integer_a_number_or_an_array():
    x = np.array([0.5, 1.5])
    orders = np.arange(2)
    np.testing.assert_array_equal(run(lambda x: scipy.special.jv(2, x), x), scipy.special.jv(2, x))
    np.testing.assert_array_equal(run(lambda x: scipy.special.jv(0.5, x), x), scipy.special.jv(0.5, x))
    np.testing.assert_array_equal(run(lambda x: scipy.special.jv(orders, x), x), scipy.special.jv(orders, x))
    np.testing.assert_array_equal(run(scipy.special.jv, orders, x), scipy.special.jv(orders, x))
    np.testing.assert_array_equal(run(lambda x: scipy.special.jv(orders[:, None], x), x), scipy.special.jv(orders[:, None], x))


def test_float32_stays_float32_beside_numbers_and_orders():
    x = np.array([0.5, 1.5], np.float32)
    for function in (scipy.special.erf, lambda x: scipy.special.jv(2, x), lambda x: scipy.special.betainc(2.0, 1.5, x / 2)):
        assert run(function, x).dtype == np.float32
        assert tangents(function, x).dtype == np.float32


def test_integers_become_floating():
    np.testing.assert_array_equal(run(scipy.special.gammaln, np.arange(1, 4)), scipy.special.gammaln(np.arange(1, 4)))


@pytest.mark.parametrize("operand", [np.array([1j]), 1j])
def test_complex_operands_are_refused(operand):
    with pytest.raises(DtypeError, match="needed real operands"):
        trace(lambda x: special.xlogy(x, operand), [np.ones(1)])


# -- names ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "cbrt", "digamma", "erf", "erfc", "erfcx", "exp10", "exp2", "expit", "expm1", "gamma", "i0", "j0", "k1e", "log1p",
        "log_expit", "log_ndtr", "loggamma", "logit", "ndtri", "psi", "sinc", "y1",
    ],
)  # fmt: skip
def test_functions_of_scipy_dispatch(name):
    function = getattr(scipy.special, name)
    x = np.array([0.25, 0.75])
    np.testing.assert_allclose(run(function, x), function(x), rtol=1e-15)


def test_functions_of_two_operands_dispatch():
    x = np.array([0.25, 0.75])
    for function in (scipy.special.yn, scipy.special.kn, scipy.special.jn):
        np.testing.assert_allclose(run(lambda x, function=function: function(2, x), x), function(2, x), rtol=1e-14)
    np.testing.assert_allclose(run(lambda x: scipy.special.zeta(x + 1), x), scipy.special.zeta(x + 1), rtol=1e-15)
    np.testing.assert_array_equal(run(lambda x: scipy.special.zeta(3.0, x), x), scipy.special.zeta(3.0, x))
    np.testing.assert_array_equal(run(np.radians, x), np.radians(x))
    np.testing.assert_array_equal(run(np.degrees, x), np.degrees(x))
    assert transcendental.rad2deg(np.pi) == 180


def test_an_unknown_function_of_scipy_is_refused_by_name():
    with pytest.raises(UnknownPrimitiveError, match="got dawsn"):
        trace(scipy.special.dawsn, [np.ones(1)])


def test_no_import_of_ours_loads_scipy():
    script = "import sys, gradwire_core.ops; print(any(name.startswith('scipy') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_inverses_are_inverse():
    x = np.array([0.2, 0.7])
    np.testing.assert_allclose(incomplete.gammainc(2.5, incomplete.gammaincinv(2.5, x)), x, rtol=1e-14)
    np.testing.assert_allclose(incomplete.betainc(2.5, 0.5, incomplete.betaincinv(2.5, 0.5, x)), x, rtol=1e-13)


@pytest.mark.parametrize("function", [scipy.special.logsumexp, scipy.special.softmax])
def test_a_function_that_scipy_does_not_dispatch_is_refused_by_name(function):
    with pytest.raises(TracingError, match=r"scipy.special.(\w+) converts: call gradwire.special.\1"):
        trace(function, [np.ones(1)])


# -- what would take for ever ----------------------------------------------------------------------------------------------------


ENDLESS = """
import numpy as np
from gradwire_core.ops import bessel, special

np.seterr(all="ignore")
x = np.array([0.5, 2e5, 1e12, -1e12, 1e300, np.nan])
for order in (2, 10**6, 10**9, 2**62):
    n = np.full(x.shape, order)
    bessel.spherical_jn(n, x), bessel.ive_derivative(n, 0 * n, x), bessel.kve_derivative(n, 0 * n, x), special.ierfcx(n, x)
for v in (0.3, 2e9, np.nan):
    order = np.full(x.shape, v)
    bessel.yv(order, x), bessel.ive_derivative(order, order, x), special.ierfcx(order, x)
    for b in (0.5, 1e6):
        bessel.hyp1f1(order, order, x), bessel.hyp1f1(order, np.full(x.shape, b), x)
"""


def test_no_order_and_no_argument_makes_a_function_endless():
    subprocess.run([sys.executable, "-c", ENDLESS], check=True, timeout=60)


def test_beyond_the_orders_it_takes_a_function_is_nan():
    n, x = np.array([0, 2, 201, 2**62]), np.full(4, 1.5)
    for found in (bessel.ive_derivative(n, 0 * n, x), bessel.kve_derivative(n, 0 * n, x), special.ierfcx(n, x)):
        np.testing.assert_array_equal(np.isnan(found), [False, False, True, True])
    np.testing.assert_array_equal(np.isnan(bessel.spherical_jn(np.array([3, 10**9]), x[:2])), [False, True])
    assert bessel.hyp1f1(np.array(0.3), np.array(0.3), np.array(-1e12)) == 0
    assert bessel.hyp1f1(np.array(0.3), np.array(1.5), np.array(1e12)) == inf
    np.testing.assert_allclose(bessel.hyp1f1(np.array(-2.0), np.array(3.0), np.array(1e12)), 1e24 / 12, rtol=1e-9)
