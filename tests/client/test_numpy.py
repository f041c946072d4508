"""The compositions of gradwire.numpy: NumPy's values, and derivatives that hold to differences."""

import numpy as np
import pytest

import gradwire as gw
import gradwire.numpy as gnp
from gradwire.testing import check_derivatives

RNG = np.random.default_rng(11)
V = RNG.normal(size=4)
M = RNG.normal(size=(3, 4))
T = RNG.normal(size=(2, 3, 4))
S = RNG.normal(size=(3, 3))

CASES = [
    (np.var, T),
    (lambda x: np.var(x, axis=1, ddof=1), T),
    (lambda x: np.var(x, axis=(0, 2), keepdims=True), T),
    (lambda x: x.var(1), M),
    (lambda x: np.std(x, 1), M),
    (lambda x: np.mean(x, 0), M),
    (np.linalg.norm, M),
    (lambda x: np.linalg.norm(x, keepdims=True), M),
    (lambda x: np.linalg.norm(x, axis=1), M),
    (lambda x: np.linalg.norm(x, 1, axis=-1, keepdims=True), T),
    (lambda x: np.linalg.norm(x, 3), V),
    (lambda x: np.linalg.norm(x, np.inf), V),
    (lambda x: np.linalg.norm(x, -np.inf), V),
    (lambda x: np.linalg.norm(x, "fro"), M),
    (lambda x: np.linalg.norm(x, 1), M),
    (lambda x: np.linalg.norm(x, -1), M),
    (lambda x: np.linalg.norm(x, np.inf), M),
    (lambda x: np.linalg.norm(x, -np.inf, (1, 2), True), T),
    (np.trace, S),
    (lambda x: np.trace(x, 1, 1, 2), T),
    (lambda x: x.trace(), S),
    (np.diagonal, M),
    (lambda x: np.diagonal(x, 2), M),
    (lambda x: np.diagonal(x, -1, 2, 1), T),
    (np.diag, V),
    (lambda x: np.diag(x, 2), V),
    (lambda x: np.diag(x, -1), V),
    (np.diag, M),
    (np.tril, M),
    (lambda x: np.triu(x, 1), T),
    (lambda x: np.kron(x, S), M),
    (lambda x: np.kron(V, x), M),
    (lambda x: np.cross(x, S), S),
    (lambda x: np.clip(x, -0.5, 0.7), M),
    (lambda x: np.clip(x, None, 0.7), M),
    (lambda x: x.clip(min=0.1), M),
    (lambda x: np.vstack([x, x * 2]), V),
    (lambda x: np.hstack([x, V]), V),
    (lambda x: np.hstack([x, M]), M),
    (lambda x: np.dstack([x, M]), M),
    (lambda x: np.column_stack([x, M.T]), V),
    (np.atleast_2d, V),
    (np.atleast_3d, M),
    (lambda x: np.atleast_1d(x, x)[1], V),
    (lambda x: np.swapaxes(x, 0, -1), T),
    (lambda x: np.moveaxis(x, 0, -1), T),
    (lambda x: np.moveaxis(x, (0, 1), (2, 0)), T),
    (np.ravel, T),
    (lambda x: x.flatten(), T),
    (lambda x: np.broadcast_arrays(x, M)[0], V),
    (lambda x: np.roll(x, 2), M),
    (lambda x: np.roll(x, (1, -2), (0, 1)), M),
    (lambda x: np.tile(x, (2, 3)), V),
    (lambda x: np.tile(x, 2), M),
    (lambda x: np.repeat(x, 2), M),
    (lambda x: np.repeat(x, [1, 0, 2], 0), M),
    (lambda x: np.split(x, 2, 1)[1], M),
    (lambda x: np.array_split(x, 3)[2], V),
    (lambda x: np.zeros_like(x) + x * np.ones_like(x) * np.full_like(x, 3.0), M),
    (lambda x: x * np.size(x) + np.ndim(x) + np.shape(x)[0], M),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_compositions_compute_what_numpy_does(number):
    function, at = CASES[number]
    expected = function(at)
    got = gw.evaluate(function)(at)
    assert got.shape == np.shape(expected)
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-14)
    check_derivatives(gw.trace(function, at), [at, *gw.trace(function, at).captured])


def test_logsumexp_and_softmax_are_stable():
    for at in (V, V + 1000, V - 1000):
        exact = np.log(np.sum(np.exp(V))) + (at - V)[0]
        assert gw.evaluate(gnp.logsumexp)(at) == pytest.approx(exact, rel=1e-14)
        np.testing.assert_allclose(gw.grad(gnp.logsumexp)(at), np.exp(V) / np.exp(V).sum(), rtol=1e-12)
        np.testing.assert_allclose(gw.evaluate(gnp.softmax)(at), np.exp(V) / np.exp(V).sum(), rtol=1e-12)
    assert gw.evaluate(gnp.logsumexp)(np.array([-np.inf, -np.inf])) == -np.inf
    assert gw.evaluate(gnp.logsumexp)(np.array([np.inf, 0.0])) == np.inf
    assert gw.evaluate(lambda x: gnp.logsumexp(x, axis=1, keepdims=True))(M).shape == (3, 1)
    assert gw.evaluate(lambda x: gnp.logsumexp(x, axis=(0, 1)))(M).shape == ()
    np.testing.assert_allclose(gw.evaluate(gnp.softmax)(T).sum(-1), np.ones((2, 3)))
    check_derivatives(gw.trace(gnp.softmax, M), [M])


def test_norms_have_the_derivative_zero_at_zero():
    zero = np.zeros(3)
    for order in (None, 2, 3, 1):
        np.testing.assert_array_equal(gw.grad(lambda x, order=order: np.linalg.norm(x, order))(zero), zero)
    np.testing.assert_array_equal(gw.grad(np.std)(np.ones(3)), zero)


def test_arrays_are_made_of_traced_numbers():
    f = lambda r, t: gnp.array([[r * np.cos(t), -np.sin(t)], [r * np.sin(t), 1.0]])
    assert gw.evaluate(f)(2.0, 0.0).tolist() == [[2.0, 0.0], [0.0, 1.0]]
    assert gnp.array([1, 2]).dtype == np.int64
    assert gw.evaluate(lambda x: gnp.asarray([x, 2], np.float32))(1.0).dtype == np.float32
    assert gnp.asarray(M, np.float32).dtype == np.float32


def test_the_rest_is_numpy():
    assert gnp.sin is np.sin
    assert gnp.linspace is np.linspace
    with pytest.raises(AttributeError):
        _ = gnp.no_such_function


def test_wrong_operands_are_refused():
    with pytest.raises(gw.ShapeError, match=r"diag: needed a vector or a matrix, got shape \(2, 3, 4\)"):
        gw.evaluate(np.diag)(T)
    with pytest.raises(gw.ShapeError, match="cross: needed 3 elements along axis -1"):
        gw.evaluate(np.cross)(M, M)
    with pytest.raises(gw.ArgumentError, match="norm: needed ord None, 'fro', 'nuc', 1, -1, 2, -2, inf or -inf for a matrix"):
        gw.evaluate(lambda x: np.linalg.norm(x, 3))(M)
