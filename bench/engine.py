"""The engine in process, beside the same formulas written by hand in NumPy: the practical limit."""

from __future__ import annotations

from _measure import compare, report  # isort: skip  # sets thread counts before NumPy is imported

import numpy as np

import gradwire as gw


def rosenbrock(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def rosenbrock_gradient(x):
    gradient = np.zeros_like(x)
    inner = x[1:] - x[:-1] ** 2
    gradient[1:] = 200.0 * inner
    gradient[:-1] -= 400.0 * x[:-1] * inner + 2.0 * (1.0 - x[:-1])
    return gradient


def logistic_loss(w, features, labels):
    return np.mean(np.log1p(np.exp(-labels * (features @ w))))


def logistic_gradient(w, features, labels):
    margins = labels * (features @ w)
    return features.T @ (-labels / (1.0 + np.exp(margins))) / len(labels)


def mlp_loss(first, second, inputs, targets):
    return np.mean((np.tanh(inputs @ first) @ second - targets) ** 2)


def mlp_gradient(first, second, inputs, targets):
    hidden = np.tanh(inputs @ first)
    error = 2.0 * (hidden @ second - targets) / targets.size
    return inputs.T @ ((error @ second.T) * (1.0 - hidden**2)), hidden.T @ error


def gradient_row(name, ours, by_hand):
    def agree(mine, hand):
        for one, other in zip(*[value if isinstance(value, tuple) else (value,) for value in (mine, hand)], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)

    return compare(name, ours, "NumPy by hand", by_hand, agree=agree)


def rows():
    rng = np.random.default_rng(0)
    for count in (10, 1000, 100_000):
        x, ours = rng.normal(size=count), gw.grad(rosenbrock)
        yield gradient_row(f"Rosenbrock gradient, n = {count}", lambda x=x, ours=ours: ours(x), lambda x=x: rosenbrock_gradient(x))
    data = (rng.normal(size=100) / 10, rng.normal(size=(10_000, 100)), np.sign(rng.normal(size=10_000)))
    logistic = gw.grad(logistic_loss)
    yield gradient_row("logistic regression gradient, 10,000 x 100", lambda: logistic(*data), lambda: logistic_gradient(*data))
    weights = (rng.normal(size=(784, 256)) / 28, rng.normal(size=(256, 10)) / 16)
    batch = (rng.normal(size=(256, 784)), rng.normal(size=(256, 10)))
    network = gw.grad(mlp_loss, argnums=(0, 1))
    name = "two-layer network gradient, 256 x 784-256-10"
    yield gradient_row(name, lambda: network(*weights, *batch), lambda: mlp_gradient(*weights, *batch))


if __name__ == "__main__":
    report("engine", list(rows()))
