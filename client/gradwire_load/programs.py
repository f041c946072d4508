"""The programs that scenarios name: what is computed, of which sizes, and at which inputs. Written as a user would write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import gradwire as gw
from gradwire_core.errors import ArgumentError
from gradwire_core.types import Array

Draw = np.random.Generator


@dataclass(frozen=True, slots=True)
class Named:
    """A program that a scenario can name.

    Attributes:
        function: what is computed.
        sizes: its sizes, with their defaults.
        sample: returns inputs, by name in the order of the function, for sizes and a source of random numbers.
        wrt: the arguments that derivatives are taken in, unless a scenario says others.
    """

    function: Callable[..., Any]
    sizes: Mapping[str, int]
    sample: Callable[..., dict[str, Array]]
    wrt: tuple[str, ...]


def rosenbrock(x: Any) -> Any:
    """Return Rosenbrock's function, the sum of `100 (x_i+1 - x_i^2)^2 + (1 - x_i)^2`."""
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def logistic(w: Any, X: Any, y: Any) -> Any:  # noqa: N803  # a matrix
    """Return the negative log-likelihood of logistic regression, for labels of -1 and 1."""
    return np.sum(np.logaddexp(0.0, -y * (X @ w)))


def mlp(W1: Any, W2: Any, x: Any, y: Any) -> Any:  # noqa: N803  # matrices
    """Return the mean square error of a network with one hidden layer."""
    return np.mean((np.tanh(x @ W1) @ W2 - y) ** 2)


def flow_loss(A: Any, B: Any, x: Any) -> Any:  # noqa: N803  # matrices
    """Return the negative log-likelihood of a batch under a flow of affine couplings.

    Args:
        A: weights of the couplings, of shape (layers, half, half), which give log-scales.
        B: weights that give shifts, of the same shape.
        x: the batch, of shape (samples, 2 half).
    """

    def forward(sample: Any) -> Any:
        left, right = sample[: A.shape[1]], sample[A.shape[1] :]
        for layer in range(A.shape[0]):
            left, right = right, left * np.exp(np.tanh(A[layer] @ right)) + B[layer] @ right
        return np.concatenate([left, right])

    def log_density(sample: Any) -> Any:
        _, volume = gw.jacobian_slogdet(forward)(sample)
        return volume - 0.5 * np.sum(forward(sample) ** 2)

    return -np.mean(gw.vmap(log_density)(x))


def product(X: Any, W: Any) -> Any:  # noqa: N803  # matrices
    """Return `X W^T`."""
    return X @ W.T


def layer(x: Any, W: Any) -> Any:  # noqa: N803  # a matrix
    """Return `tanh(W x)`."""
    return np.tanh(W @ x)


def elementwise(x: Any) -> Any:
    """Return `sin(x) exp(-x^2)`."""
    return np.sin(x) * np.exp(-x * x)


def wave(x: Any) -> Any:
    """Return the sum of `sin(x) exp(-x^2)`."""
    return np.sum(elementwise(x))


def potential(x: Any) -> Any:
    """Return the energy of points that attract each other, `-sum_ij exp(-(x_i - x_j)^2)`: much work for little data."""
    return -np.sum(np.exp(-((x[:, None] - x[None, :]) ** 2)))


def diffusion(u: Any) -> Any:
    """Return one implicit residual of diffusion with a reaction, whose Jacobian has three diagonals."""
    p = np.pad(u, 1)
    return p[2:] - 2.0 * u + p[:-2] - np.exp(u)


def black_scholes(v: Any, K: Any, T: Any, price: Any) -> Any:  # noqa: N803  # strikes and maturities, by their usual letters
    """Return the sum of square errors of call prices under volatilities, for a spot of 1 and no interest."""
    root = v * np.sqrt(T)
    d1 = (-np.log(K) + 0.5 * root**2) / root
    model = _normal(d1) - K * _normal(d1 - root)
    return np.sum((model - price) ** 2)


def _normal(x: Any) -> Any:
    return gw.special.ndtr(x)


def _normal_draw(draw: Draw, *shape: int, scale: float = 1.0) -> Array:
    return scale * draw.standard_normal(shape)


def _labels(draw: Draw, count: int) -> Array:
    return np.where(draw.random(count) < 0.5, -1.0, 1.0)  # a coin


NAMED: dict[str, Named] = {
    "rosenbrock": Named(rosenbrock, {"n": 1000}, lambda draw, n: {"x": _normal_draw(draw, n)}, ("x",)),
    "logistic": Named(
        logistic,
        {"rows": 500, "columns": 20},
        lambda draw, rows, columns: {
            "w": _normal_draw(draw, columns, scale=0.1),
            "X": _normal_draw(draw, rows, columns),
            "y": _labels(draw, rows),
        },
        ("w",),
    ),
    "mlp": Named(
        mlp,
        {"rows": 64, "inputs": 16, "hidden": 32, "outputs": 4},
        lambda draw, rows, inputs, hidden, outputs: {
            "W1": _normal_draw(draw, inputs, hidden, scale=inputs**-0.5),
            "W2": _normal_draw(draw, hidden, outputs, scale=hidden**-0.5),
            "x": _normal_draw(draw, rows, inputs),
            "y": _normal_draw(draw, rows, outputs),
        },
        ("W1", "W2"),
    ),
    "flow": Named(
        flow_loss,
        {"layers": 4, "half": 8, "samples": 32},
        lambda draw, layers, half, samples: {
            "A": _normal_draw(draw, layers, half, half, scale=0.1),
            "B": _normal_draw(draw, layers, half, half, scale=0.1),
            "x": _normal_draw(draw, samples, 2 * half),
        },
        ("A", "B"),
    ),
    "product": Named(
        product,
        {"rows": 30, "columns": 30, "inner": 30},
        lambda draw, rows, columns, inner: {"X": _normal_draw(draw, rows, inner), "W": _normal_draw(draw, columns, inner)},
        ("X",),
    ),
    "layer": Named(
        layer,
        {"outputs": 100, "inputs": 100},
        lambda draw, outputs, inputs: {
            "x": _normal_draw(draw, inputs),
            "W": _normal_draw(draw, outputs, inputs, scale=inputs**-0.5),
        },
        ("x",),
    ),
    "elementwise": Named(elementwise, {"n": 100_000}, lambda draw, n: {"x": _normal_draw(draw, n)}, ("x",)),
    "wave": Named(wave, {"n": 100_000}, lambda draw, n: {"x": _normal_draw(draw, n)}, ("x",)),
    "potential": Named(potential, {"n": 500}, lambda draw, n: {"x": _normal_draw(draw, n, scale=2.0)}, ("x",)),
    "diffusion": Named(diffusion, {"n": 1000}, lambda draw, n: {"u": _normal_draw(draw, n, scale=0.1)}, ("u",)),
    "black_scholes": Named(
        black_scholes,
        {"quotes": 200},
        lambda draw, quotes: {
            "v": draw.uniform(0.1, 0.5, quotes),
            "K": draw.uniform(0.7, 1.4, quotes),
            "T": draw.uniform(0.1, 2.0, quotes),
            "price": draw.uniform(0.0, 0.3, quotes),
        },
        ("v",),
    ),
}
"""The programs, by name."""


def find_named(name: str, where: str) -> Named:
    """Return the program of a name.

    Raises:
        ArgumentError: there is none.
    """
    if name not in NAMED:
        raise ArgumentError(f"{where}.program: needed one of {', '.join(NAMED)}, got {name!r}; choose one", given=name)
    return NAMED[name]
