"""Control flow: a branch or a loop is one equation, and its derivatives are those of the unrolled Python."""

from dataclasses import dataclass

import numpy as np
import pytest

import gradwire as gw

RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(size=(3, 3)) / 2
INPUTS = RNG.normal(size=(6, 3))


@dataclass
class State:
    hidden: np.ndarray
    count: float


def recurrent(weights, inputs, checkpoint=False):
    def step(state, x):
        hidden = np.tanh(weights @ state.hidden + x)
        return State(hidden, state.count + 1), (2 * hidden, {"sum": np.sum(hidden)})

    last, (doubled, sums) = gw.scan(step, State(np.zeros(3), 0.0), inputs, checkpoint=checkpoint)
    return np.sum(last.hidden**2) + np.sum(doubled**2) + np.sum(sums["sum"]) * last.count


def unrolled(weights, inputs):
    hidden, squares, total = np.zeros(3), 0.0, 0.0
    for x in inputs:
        hidden = np.tanh(weights @ hidden + x)
        squares, total = squares + np.sum(4 * hidden**2), total + np.sum(hidden)
    return np.sum(hidden**2) + squares + total * len(inputs)


def close(given, needed):
    np.testing.assert_allclose(given, needed, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_scan_is_its_unrolled_loop(checkpoint):
    scanned = lambda weights, inputs: recurrent(weights, inputs, checkpoint)
    args = (WEIGHTS, INPUTS)
    close(gw.evaluate(scanned)(*args), unrolled(*args))
    close(scanned(*args), unrolled(*args))
    for one, other in zip(gw.grad(scanned, (0, 1))(*args), gw.grad(unrolled, (0, 1))(*args), strict=True):
        close(one, other)
    close(gw.hessian(scanned)(*args), gw.hessian(unrolled)(*args))
    third = [
        gw.grad(lambda w, f=f: np.sum(np.sin(gw.hvp(f, w, WEIGHTS))))(WEIGHTS)
        for f in (lambda w: scanned(w, INPUTS), lambda w: unrolled(w, INPUTS))
    ]
    np.testing.assert_allclose(third[0], third[1], rtol=1e-8)


def test_a_scan_is_one_equation_however_long():
    step = lambda carry, x: (np.sin(carry * x), None)
    counts = [len(gw.trace(lambda xs: gw.scan(step, 1.0, xs)[0], np.ones(length)).equations) for length in (3, 3000)]
    assert counts[0] == counts[1] == 1


def test_reverse_mode_of_a_scan_keeps_what_a_step_needs_and_no_more():
    weights = np.ones((100, 100)) / 100
    f = lambda w, c: np.sum(gw.scan(lambda carry, x: (np.tanh(w @ carry) * x, None), c, np.ones(50))[0])
    program = gw.grad(gw.trace(f, weights, np.ones(100)))
    stacked = [var.type for equation in program.equations for var in equation.results if var.type.shape[:1] == (50,)]
    assert stacked
    assert all(type.size <= 50 * 100 for type in stacked), "a residual that does not change from step to step is kept once"


def test_a_scan_goes_backwards():
    step = lambda carry, x: (carry + x, carry)
    last, ys = gw.evaluate(lambda xs: gw.scan(step, 0.0, xs, reverse=True))(np.arange(4.0))
    assert float(last) == 6.0
    np.testing.assert_array_equal(ys, [6.0, 5.0, 3.0, 0.0])


def test_only_the_chosen_branch_counts():
    f = lambda x: gw.cond(np.sum(x) > 0, lambda y: np.sum(np.sqrt(y)), lambda y: np.sum(y * y), x)
    x = np.array([-1.0, -4.0])
    close(gw.evaluate(f)(x), 17.0)
    close(gw.grad(f)(x), 2 * x)
    close(gw.grad(f)(-x), 0.5 / np.sqrt(-x))
    close(gw.jacobian(gw.grad(f))(x), 2 * np.eye(2))


def test_a_batched_condition_selects():
    f = lambda x: gw.cond(x > 0, np.sin, lambda y: y * y, x)
    close(gw.vmap(gw.grad(f))(np.array([-3.0, 2.0])), [-6.0, np.cos(2.0)])


def test_functions_see_outer_values():
    f = lambda a, x: gw.cond(x > 0, lambda: a * x, lambda: a - x)
    close(gw.grad(f, (0, 1))(3.0, 2.0), (2.0, 3.0))
    close(gw.grad(f, (0, 1))(3.0, -2.0), (1.0, -1.0))
    close(
        gw.grad(lambda a: gw.grad(lambda x: gw.scan(lambda c, y: (c * a + y * x, None), x, np.ones(3))[0])(2.0))(0.5),
        1 + 1 + 3 * 0.25,
    )


def test_loops_and_maps():
    assert gw.fori_loop(0, 3, lambda i, carry: carry * 2, 1.0) == 8.0
    close(gw.grad(lambda x: gw.fori_loop(0, 3, lambda i, carry: carry * x + i, 1.0))(2.0), 13.0)
    np.testing.assert_array_equal(gw.map(lambda x: x * x, np.arange(3.0)), [0.0, 1.0, 4.0])
    close(gw.jacobian(lambda xs: gw.map(np.sin, xs))(np.arange(3.0)), np.diag(np.cos(np.arange(3.0))))


def test_a_given_derivative_is_used_at_every_order():
    f = gw.custom_derivative(np.exp, lambda primals, tangents: 2 * f(primals[0]) * tangents[0])
    x = np.array([0.1, 0.2])
    close(f(x), np.exp(x))
    close(gw.grad(lambda x: np.sum(f(x)))(x), 2 * np.exp(x))
    close(gw.hessian(lambda x: np.sum(f(x)))(x), np.diag(2 * np.exp(x)))
    close(gw.vmap(gw.grad(f))(x), 2 * np.exp(x))


def test_a_given_derivative_takes_zeros_for_what_does_not_vary():
    f = gw.custom_derivative(lambda x, y: x * y, lambda primals, tangents: tangents[0] * primals[1] + primals[0] * tangents[1])
    close(gw.grad(lambda x: f(x, 2.0))(3.0), 2.0)
    close(gw.grad(f, (0, 1))(3.0, 2.0), (2.0, 3.0))


def test_a_gradient_stops():
    close(gw.grad(lambda x: x * gw.stop_gradient(x))(3.0), 3.0)


@pytest.mark.parametrize(
    ("f", "error", "text"),
    [
        (
            lambda x: gw.scan(lambda c, y: (np.stack([c, c]), None), x, np.arange(3.0))[0],
            gw.ShapeError,
            "needed carry 0 to stay float64\\[\\]",
        ),
        (lambda x: gw.scan(lambda c, y: c, x, np.arange(3.0))[0], gw.ArgumentError, "return \\(carry, y\\)"),
        (lambda x: gw.scan(lambda c, y: (c, None), x)[0], gw.ArgumentError, "needed xs or a length"),
        (lambda x: gw.scan(lambda c, y: (c, None), x, (np.ones(2), np.ones(3)))[0], gw.ShapeError, "one length along axis 0"),
        (lambda x: gw.cond(x > 0, lambda: x, lambda: (x, x)), gw.ArgumentError, "nested"),
        (lambda x: gw.cond(x > 0, lambda: x, lambda: np.stack([x, x])), gw.ShapeError, "same outputs"),
        (lambda x: gw.cond(x, lambda: x, lambda: x), gw.DtypeError, "bool"),
        (lambda x: gw.custom_derivative(lambda y: y * x, lambda p, t: t[0] * x)(x), gw.TracingError, "pass it"),
        (gw.custom_derivative(np.sign, lambda p, t: t[0] ** 2), gw.ArgumentError, "linear in the tangents"),
        (lambda x: np.stack([x])[::0][0], gw.ShapeError, "step"),
    ],
)
def test_mistakes_are_named(f, error, text):
    with pytest.raises(error, match=text):
        gw.grad(f)(1.0)
