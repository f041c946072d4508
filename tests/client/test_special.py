"""gradwire.special: SciPy's names where SciPy does not dispatch, and compositions that stay finite at extremes."""

import doctest
import subprocess
import sys

import numpy as np
import pytest
import scipy.special

import gradwire as gw
import gradwire.special as gsp
from gradwire_core.errors import ArgumentError
from gradwire_core.testing import check_derivatives

inf = np.inf
X = np.array([0.3, -1.2, 2.0])


def test_names_are_those_of_scipy():
    own = {name for name in vars(gsp) if not name.startswith("_")} & set(scipy.special.__all__)
    assert len(own) > 70
    for name in ("jn", "psi", "expit", "softmax", "polygamma", "zeta"):
        assert name in own


def test_examples_run():
    assert doctest.testmod(gsp).failed == 0


@pytest.mark.parametrize(
    ("name", "operands"),
    [
        ("boxcox", (np.array([0.5, 2.0]), np.array([0.0, 1.5]))),
        ("huber", (1.0, X)),
        ("log_softmax", (X,)),
        ("logsumexp", (X,)),
        ("multigammaln", (np.array([3.0, 4.5]), 3)),
        ("polygamma", (2, np.array([0.5, 3.0]))),
        ("softmax", (X,)),
        ("softplus", (np.array([-800.0, -1.0, 0.0, 800.0]),)),
        ("spherical_jn", (2, np.array([0.5, 4.0]))),
        ("zeta", (3.0, np.array([0.5, 2.0]))),
    ],
)
def test_values_are_those_of_scipy(name, operands):
    needed = getattr(scipy.special, name)(*operands)
    np.testing.assert_allclose(getattr(gsp, name)(*operands), needed, rtol=1e-14)
    arrays = [item for item in operands if isinstance(item, np.ndarray)]

    def traced(*values):
        rest = iter(values)
        return getattr(gsp, name)(*[next(rest) if isinstance(item, np.ndarray) else item for item in operands])

    np.testing.assert_allclose(gw.evaluate(traced)(*arrays), needed, rtol=1e-14)
    if name != "huber":
        check_derivatives(traced, arrays if name != "boxcox" else [np.array([0.5, 2.0]), np.array([0.7, 1.5])], rtol=1e-7)


def test_the_derivative_of_a_spherical_bessel_function_is_its_own():
    needed = scipy.special.spherical_jn(2, X, derivative=True)
    np.testing.assert_allclose(gsp.spherical_jn(2, X, derivative=True), needed, rtol=1e-12)
    np.testing.assert_allclose(gw.vmap(gw.grad(lambda x: gsp.spherical_jn(2, x)))(X), needed, rtol=1e-12)
    assert gsp.spherical_jn(0, 0.0, derivative=True) == 0


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
def test_sums_of_weighted_exponentials_are_those_of_scipy(axis, keepdims):
    a, b = np.array([[1.0, -2.0, inf], [0.5, 800.0, -5.0]]), np.array([[1.0, -3.0, 0.0], [2.0, 1.0, 5.0]])
    needed = scipy.special.logsumexp(a, axis=axis, b=b, keepdims=keepdims, return_sign=True)
    given = gsp.logsumexp(a, axis, b, keepdims=keepdims, return_sign=True)
    for one, other in zip(given, needed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)
    plain = gsp.logsumexp(a[:, :2], axis, keepdims=keepdims)
    np.testing.assert_allclose(plain, scipy.special.logsumexp(a[:, :2], axis=axis, keepdims=keepdims), rtol=1e-13)


def test_a_negative_sum_has_no_logarithm_but_a_sign():
    assert np.isnan(gsp.logsumexp(np.zeros(2), b=np.array([1.0, -2.0])))
    assert gsp.logsumexp(np.zeros(2), b=np.array([1.0, -2.0]), return_sign=True) == (0, -1)


@pytest.mark.parametrize(
    ("a", "needed"),
    [([-inf, -inf], [0, 0]), ([-inf, 1.0], [0, 1]), ([1000.0, 1000.0], [0.5, 0.5]), ([-1000.0, 1000.0], [0, 1])],
)
def test_sums_of_exponentials_have_finite_derivatives(a, needed):
    np.testing.assert_array_equal(gw.grad(gsp.logsumexp)(np.array(a)), needed)
    np.testing.assert_array_equal(gw.grad(lambda a: gsp.logsumexp(a, b=2.0))(np.array(a)), needed)
    assert np.isfinite(gw.hessian(gsp.logsumexp)(np.array(a))).all()


def test_log_softmax_keeps_its_digits_where_softmax_vanishes():
    x = np.array([0.0, 2000.0])
    np.testing.assert_array_equal(gsp.log_softmax(x), [-2000, 0])
    np.testing.assert_array_equal(gw.jacobian(gsp.log_softmax)(x), [[1, -1], [0, 0]])


def test_log1mexp_keeps_its_digits():
    x = np.array([1e-300, 1e-10, 0.5, 1.0, 40.0])
    needed = np.concatenate([np.log(-np.expm1(-x[:3])), np.log1p(-np.exp(-x[3:]))])
    np.testing.assert_allclose(gsp.log1mexp(x), needed, rtol=1e-15)
    np.testing.assert_allclose(gw.vmap(gw.grad(gsp.log1mexp))(x), 1 / np.expm1(x), rtol=1e-14)


def test_relu_is_flat_at_zero():
    np.testing.assert_array_equal(gw.vmap(gw.grad(gsp.relu))(np.array([-1.0, 0.0, 2.0])), [0, 0, 1])


def test_stop_gradient_is_a_constant_to_derivatives():
    assert gw.grad(lambda x: x * gsp.stop_gradient(x))(3.0) == 3


@pytest.mark.parametrize("dimension", [0, 1.5])
def test_a_dimension_is_a_positive_integer(dimension):
    with pytest.raises(ArgumentError, match="needed a positive integer d"):
        gsp.multigammaln(3.0, dimension)


def test_it_is_an_attribute_of_the_package_and_loads_no_scipy():
    script = "import sys, gradwire; gradwire.special.erf; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
