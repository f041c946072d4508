"""The derivative of the Cholesky factorization, and its transpose block by block."""

from __future__ import annotations

import numpy as np
import pytest

import gradwire as gw
from gradwire_core.ops import cholesky as ops


def _halved(x):
    return np.tril(x) - np.eye(x.shape[-1]) * np.diagonal(x, axis1=-2, axis2=-1)[..., None] / 2


def _by_formula(factor, ct):
    inverse = np.linalg.inv(factor)
    whole = np.swapaxes(inverse, -1, -2) @ _halved(np.swapaxes(factor, -1, -2) @ ct) @ inverse
    return (whole + np.swapaxes(whole, -1, -2)) / 2


def _factor(n, *lead, seed=0):
    x = np.random.default_rng(seed).normal(size=(*lead, n, n))
    return np.linalg.cholesky(x @ np.swapaxes(x, -1, -2) + n * np.eye(n))


@pytest.mark.parametrize("n", [1, 2, ops.BLOCK, ops.BLOCK + 1, 2 * ops.BLOCK, 3 * ops.BLOCK + 5])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_blocks_compute_the_transpose_of_the_tangent(n, lead):
    ct, t = np.random.default_rng(1).normal(size=(2, *lead, n, n))
    for factor in (_factor(n, *lead), _factor(n)):
        found = ops.call(ops.tangent_primitive, factor, ct, transpose=True)
        np.testing.assert_allclose(found, _by_formula(factor, ct), rtol=0, atol=1e-12 * np.abs(found).max())
        tangent = ops.call(ops.tangent_primitive, factor, t, transpose=False)
        np.testing.assert_allclose(np.sum(found * t), np.sum(ct * tangent), rtol=1e-9)


def test_only_the_triangle_of_the_factor_and_of_the_cotangent_is_read():
    n = ops.BLOCK + 7
    factor, ct = _factor(n), np.random.default_rng(2).normal(size=(n, n))
    above = np.triu(np.full((n, n), np.nan), 1)
    found = ops.call(ops.tangent_primitive, factor + above, ct + above, transpose=True)
    np.testing.assert_array_equal(found, ops.call(ops.tangent_primitive, factor, ct, transpose=True))


def test_what_has_no_factor_has_no_derivative():
    x = -np.eye(ops.BLOCK + 1)
    assert np.isnan(gw.grad(lambda x: np.sum(np.linalg.cholesky(x)))(x)).all()


@pytest.mark.parametrize("n", [5, ops.BLOCK + 9])
def test_gradient_of_a_log_determinant(n):
    x = _factor(n) @ _factor(n).T
    found = gw.grad(lambda x: 2 * np.sum(np.log(np.diagonal(np.linalg.cholesky(x)))))(x)
    np.testing.assert_allclose(found, np.linalg.inv(x), rtol=0, atol=1e-12 * np.abs(np.linalg.inv(x)).max())


def test_second_order_beyond_a_block():
    n = ops.BLOCK + 3
    x, t = _factor(n) @ _factor(n).T, np.random.default_rng(3).normal(size=(n, n))
    t = t + t.T
    loss = lambda x: np.sum(np.log(np.diagonal(np.linalg.cholesky(x))) * np.linspace(1.0, 2.0, n))
    found = gw.hvp(loss, x, t)
    step = 1e-5
    expected = (gw.grad(loss)(x + step * t) - gw.grad(loss)(x - step * t)) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 * np.abs(expected).max())
