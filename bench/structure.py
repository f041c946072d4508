"""Structured derivatives beside the dense ones that hand-written NumPy gives."""

from __future__ import annotations

import math

from _measure import compare, report  # isort: skip  # sets thread counts before NumPy is imported

import numpy as np

import gradwire as gw


def agree(mine, expected):
    return lambda: np.testing.assert_allclose(mine(), expected(), rtol=1e-9, atol=1e-12)


def elementwise(count):
    x = np.linspace(-1.0, 1.0, count)
    structured = gw.jacobian(np.sin, layout="structured")
    same = agree(lambda: structured(x).todense(), lambda: np.diag(np.cos(x)))
    name = f"sin, n = {count}: structured"
    yield compare(name, lambda: structured(x), "NumPy, dense diagonal", lambda: np.diag(np.cos(x)), agree=same)


def product(size):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(size, size)), rng.normal(size=(size, size))
    structured = gw.jacobian(lambda x, w: x @ w.T, layout="structured")
    dense = gw.jacobian(lambda x, w: x @ w.T)

    def by_hand():
        result = np.zeros((size, size, size, size))
        np.einsum("snsm->snm", result)[...] = w
        return result

    peer = "NumPy, written once"
    same = agree(lambda: structured(x, w).todense(), by_hand)
    yield compare(f"X W^T, {size}^4: structured", lambda: structured(x, w), peer, by_hand, agree=same, rounds=5)
    yield compare(
        f"X W^T, {size}^4: dense", lambda: dense(x, w), peer, by_hand, agree=agree(lambda: dense(x, w), by_hand), rounds=5
    )


def factorization(count, rank):
    rng = np.random.default_rng(0)
    t, u, v = rng.normal(size=(count, count)), rng.normal(size=(count, rank)), rng.normal(size=(count, rank))

    def loss(u, v, t):
        return np.sum((t - u @ v.T) ** 2)

    hessian = gw.hessian(loss, layout="structured")
    by_hand = lambda: 2.0 * (v.T @ v)

    def same():
        ((pattern, factors),) = hessian(u, v, t).terms
        assert pattern.out_labels[0] == pattern.in_labels[0]
        np.testing.assert_allclose(math.prod(factors), by_hand(), rtol=1e-9)

    name = f"|T - U V^T|^2, Hessian in U, n = {count}, k = {rank}"
    yield compare(f"{name}: structured", lambda: hessian(u, v, t), "NumPy, its block", by_hand, agree=same)


def slogdets(count):
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=count), rng.normal(size=(8, 8)) / 4
    batch = rng.normal(size=(count // 8, 8))
    diagonal = gw.jacobian_slogdet(np.tanh)
    dense = lambda: np.linalg.slogdet(np.diag(1 / np.cosh(x) ** 2)).logabsdet
    name = f"slogdet of an elementwise Jacobian, n = {count}"
    yield compare(name, lambda: diagonal(x), "NumPy, dense LU", dense, agree=agree(lambda: diagonal(x)[1], dense), rounds=5)
    blocks = gw.jacobian_slogdet(lambda x: np.tanh(x @ v))
    by_hand = lambda: np.sum(np.linalg.slogdet((1 / np.cosh(batch @ v) ** 2)[:, :, None] * v.T)[1])
    same = agree(lambda: blocks(batch)[1], by_hand)
    yield compare(f"slogdet of {count // 8} blocks of 8", lambda: blocks(batch), "NumPy, batched by hand", by_hand, agree=same)


if __name__ == "__main__":
    report("structure", [*elementwise(2000), *product(40), *factorization(1000, 10), *slogdets(1024)])
