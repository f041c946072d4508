"""gradwire.stats: SciPy's values, derivatives in every argument, and extremes."""

import doctest

import numpy as np
import pytest
import scipy.stats

import gradwire as gw
import gradwire.stats as gst
from gradwire_core.errors import ShapeError
from gradwire_core.testing import check_derivatives

X = np.array([0.3, 0.9, 2.5])
INSIDE = np.array([0.2, 0.5, 0.7])
COV = np.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 0.7]])
CASES = {
    "norm.logpdf": (X, np.array(0.5), np.array(1.5)),
    "norm.pdf": (X, np.array(0.5), np.array(1.5)),
    "norm.cdf": (X, np.array(0.5), np.array(1.5)),
    "norm.logcdf": (X, np.array(0.5), np.array(1.5)),
    "norm.sf": (X, np.array(0.5), np.array(1.5)),
    "norm.logsf": (X, np.array(0.5), np.array(1.5)),
    "norm.ppf": (INSIDE, np.array(0.5), np.array(1.5)),
    "t.logpdf": (X, np.array([1.0, 3.0, 50.0]), np.array(0.5), np.array(1.5)),
    "beta.logpdf": (X, np.array(1.5), np.array(2.5), np.array(-0.5), np.array(4.0)),
    "beta.cdf": (X, np.array(1.5), np.array(2.5), np.array(-0.5), np.array(4.0)),
    "gamma.logpdf": (X, np.array([0.5, 1.0, 4.0]), np.array(-0.5), np.array(1.5)),
    "gamma.cdf": (X, np.array([0.5, 1.0, 4.0]), np.array(-0.5), np.array(1.5)),
    "gamma.sf": (X, np.array([0.5, 1.0, 4.0]), np.array(-0.5), np.array(1.5)),
    "poisson.logpmf": (np.array([0, 2, 7]), np.array([0.5, 1.5, 4.0])),
    "poisson.cdf": (np.array([0, 2, 7]), np.array([0.5, 1.5, 4.0])),
    "dirichlet.logpdf": (np.array([0.2, 0.5, 0.3]), np.array([0.5, 2.0, 1.5])),
    "multivariate_normal.logpdf": (np.array([X, -X]), INSIDE, COV),
}


def found(module, name):
    distribution, _, method = name.partition(".")
    return getattr(getattr(module, distribution), method)


def test_examples_run():
    assert doctest.testmod(gst).failed == 0


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_scipy(name):
    needed = found(scipy.stats, name)(*CASES[name])
    np.testing.assert_allclose(found(gst, name)(*CASES[name]), needed, rtol=1e-13)
    np.testing.assert_allclose(gw.evaluate(found(gst, name))(*CASES[name]), needed, rtol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_in_every_argument(name):
    if name == "multivariate_normal.logpdf":
        check_derivatives(lambda x, mean, root: found(gst, name)(x, mean, root @ root.T + np.eye(3)), CASES[name], rtol=1e-6)
    else:
        check_derivatives(found(gst, name), CASES[name], rtol=1e-6)


def test_outside_the_support_there_is_no_derivative():
    for name, arguments in {
        "beta.logpdf": (-0.5, 1.5, 2.5), "gamma.logpdf": (-0.5, 1.5), "beta.cdf": (1.5, 1.5, 2.5), "gamma.cdf": (-0.5, 1.5),
    }.items():  # fmt: skip
        function = found(gst, name)
        assert function(*arguments) == found(scipy.stats, name)(*arguments)
        assert gw.grad(function, argnums=(0, 1))(*arguments) == (0, 0)
    assert gst.poisson.logpmf(1.5, 2.0) == -np.inf
    assert gst.poisson.cdf(-1, 2.0) == 0


def test_far_tails_keep_their_digits():
    np.testing.assert_allclose(gw.grad(gst.norm.logcdf)(-1e4), 1e4 + 1e-4, rtol=1e-11)
    np.testing.assert_allclose(gst.t.logpdf(1.0, 1e12), scipy.stats.norm.logpdf(1.0), rtol=1e-10)


def test_the_last_probability_may_be_left_out():
    x, alpha = np.array([0.2, 0.5]), np.array([0.5, 2.0, 1.5])
    np.testing.assert_allclose(gst.dirichlet.logpdf(x, alpha), scipy.stats.dirichlet.logpdf(x, alpha), rtol=1e-14)
    columns = np.array([[0.2, 0.3], [0.5, 0.1]])
    np.testing.assert_allclose(gst.dirichlet.logpdf(columns, alpha), scipy.stats.dirichlet.logpdf(columns, alpha), rtol=1e-14)


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match="dirichlet: needed 3 or 2 probabilities"):
        gst.dirichlet.logpdf(np.ones(5), np.ones(3))
    with pytest.raises(ShapeError, match="multivariate_normal: needed a covariance of shape"):
        gst.multivariate_normal.logpdf(np.ones(3), np.zeros(3), np.eye(2))
