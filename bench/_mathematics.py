"""What the bare service and the peers serve, by hand-written NumPy: the floor of what it can cost. Imports NumPy alone."""

from __future__ import annotations

import numpy as np


def value_and_gradient(x: np.ndarray) -> np.ndarray:
    """Return value and gradient of Rosenbrock's function, as one array, the value first."""
    low, high = x[:-1], x[1:]
    inner = high - low * low
    rest = 1.0 - low
    answer = np.empty(x.size + 1)
    answer[0] = 100.0 * np.dot(inner, inner) + np.dot(rest, rest)
    answer[1] = 0.0
    answer[2:] = 200.0 * inner
    answer[1:-1] -= 400.0 * low * inner + 2.0 * rest
    return answer


def rosenbrock(x: np.ndarray) -> float:
    """Return the value alone."""
    low = x[:-1]
    inner = x[1:] - low * low
    rest = 1.0 - low
    return float(100.0 * np.dot(inner, inner) + np.dot(rest, rest))


def layer(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return tanh(W x)."""
    return np.tanh(w @ x)


def layer_jacobian(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the Jacobian of tanh(W x) in x."""
    y = np.tanh(w @ x)
    return (1.0 - y * y)[:, None] * w
