"""Safe zeros: what `where` does not take contributes 0 to every derivative, though its partials are inf or NaN."""

import numpy as np
import pytest

import gradwire as gw

CASES = {
    "sqrt": (lambda x: np.where(x > 0, np.sqrt(x), 0.0), 0.0),
    "sinc": (lambda x: np.where(x == 0, 1.0, np.sin(x) / x), 0.0),
    "log": (lambda x: np.where(x > 1, x * x, np.where(x > 0, np.log(x) * x, 0.0)), 0.0),
    "power": (lambda x: np.where(x > 0, x**0.3, 0.0), 0.0),
    "reciprocal": (lambda x: np.where(x != 0, 1 / x, 0.0) + np.where(x == 0, 0.0, np.log(np.abs(x))), 0.0),
    "maximum": (lambda x: np.maximum(np.sqrt(x), 1.0), 0.0),
    "minimum": (lambda x: np.minimum(1 / x, 1.0), 0.0),
    "clip": (lambda x: np.clip(np.sqrt(x), 0.5, 2.0), 0.0),
    "shared": (lambda x: np.where(x > 0, np.sqrt(x), 0.0) + np.where(x > 0, np.sqrt(x) * x, 0.0), 0.0),
}


def vector_cases():
    yield "broadcast", lambda x: np.sum(np.where(np.array([False, False]), np.sqrt(x[0]) * np.ones(2), x[1])), np.array([0.0, 2.0])
    yield (
        "moved",
        lambda x: np.sum(np.where(x[::2].reshape(2, 1) > 0, np.sqrt(x)[::2].reshape(2, 1), 0.0)),
        np.array([0.0, 1.0, 4.0]),
    )
    yield (
        "joined",
        lambda x: np.sum(np.where(np.array([True, True, False, False]), np.concatenate([x, np.sqrt(x)]), 1.0)[:3]),
        np.zeros(2),
    )
    yield "gathered", lambda x: np.sum(np.where(x > 0, np.sqrt(x)[np.array([0, 1, 1])], 0.0)), np.array([0.0, 1.0, 4.0])
    yield "outer", lambda x: np.sum(np.where(x[:, None] > 0, np.outer(np.sqrt(x), np.ones(2)), 0.0)), np.array([0.0, 4.0])
    yield "running", lambda x: np.where(x[0] > 0, np.cumsum(np.log(x))[0], np.sum(x)), np.array([0.0, 4.0])
    yield "largest", lambda x: np.max(np.sqrt(x)), np.array([0.0, 4.0, 9.0])
    yield "norm", lambda x: np.where(np.sum(x * x) > 0, np.sqrt(np.sum(x * x)), 0.0), np.zeros(3)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_what_is_not_taken_are_zero(name):
    f, x = CASES[name]
    at = np.array([x, x])
    total = lambda x: np.sum(f(x))
    zeros = np.zeros(2)
    np.testing.assert_array_equal(gw.grad(total)(at), zeros)
    np.testing.assert_array_equal(gw.jvp(f, at, np.ones(2))[1], zeros)
    np.testing.assert_array_equal(gw.jacobian(f)(at), np.zeros((2, 2)))
    np.testing.assert_array_equal(gw.jacobian(f, layout="structured")(at).todense(), np.zeros((2, 2)))
    np.testing.assert_array_equal(gw.vmap(gw.grad(f))(at), zeros)
    second = gw.hessian(total)(at)
    assert np.isfinite(second).all(), second
    assert np.isfinite(gw.grad(lambda x: np.sum(gw.hvp(total, x, np.ones(2))))(at)).all()


@pytest.mark.parametrize(("name", "f", "x"), list(vector_cases()))
def test_masks_follow_through_moves(name, f, x):
    gradient = gw.grad(f)(x)
    assert np.isfinite(gradient).all(), gradient
    moved = gw.grad(f)(x + 0.5)
    step = 1e-6
    slopes = [(f(x + 0.5 + step * e) - f(x + 0.5 - step * e)) / (2 * step) for e in np.eye(len(x))]
    np.testing.assert_allclose(moved, slopes, rtol=1e-6)


def test_what_is_taken_keeps_its_infinity():
    f = lambda x: np.sum(np.where(x >= 0, np.sqrt(x), 0.0))
    np.testing.assert_array_equal(gw.grad(f)(np.array([0.0, 4.0, -1.0])), [np.inf, 0.25, 0.0])


def test_zero_times_infinity_stays_nan():
    assert np.isnan(gw.grad(lambda x: 0.0 * np.sqrt(x))(0.0))
