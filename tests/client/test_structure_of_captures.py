"""What a function captures: integers, masks and zeros are structure of its program, other numbers are its inputs."""

import numpy as np
import pytest

import gradwire as gw
from gradwire._tracing import TRACES, VERSION_LIMIT
from gradwire_core.passes import run_passes
from gradwire_core.program import Literal, Program
from gradwire_core.types import Dtype

LOWER = np.tri(6)
X = np.linspace(0.5, 1.5, 6)


def names(program):
    return [equation.primitive.name for equation in program.equations]


def test_a_captured_triangle_declares_its_zeros():
    program = gw.trace(lambda x: LOWER @ x, X)
    assert names(program) == ["zeros_outside", "einsum"]
    np.testing.assert_array_equal(program.equations[0].operands[1].value, LOWER != 0)
    np.testing.assert_array_equal(gw.jacobian(lambda x: LOWER @ x)(X), LOWER)


@pytest.mark.parametrize(
    "array", [np.ones((6, 6)), np.tri(3), np.eye(4) + 1, np.arange(36.0).reshape(6, 6)], ids=["full", "few", "none", "one zero"]
)
def test_other_arrays_declare_nothing(array):
    assert names(gw.trace(lambda x: array @ x, np.ones(len(array)))) == ["einsum"]


def test_numbers_captured_may_change_where_they_were_not_zero():
    weights = LOWER.copy()
    f = lambda x: weights @ x
    first = gw.trace(f, X)
    weights[3, 1] = 5.0
    np.testing.assert_array_equal(gw.jacobian(f)(X), weights)
    assert gw.trace(f, X).digest == first.digest
    weights[1, 3] = 7.0
    np.testing.assert_array_equal(gw.jacobian(f)(X), weights)
    assert gw.trace(f, X).digest != first.digest


def test_a_program_checks_what_it_was_traced_with():
    program = gw.trace(lambda x: LOWER @ x, X)
    message = program.to_proto()
    sent = gw.Program.from_proto(message)
    np.testing.assert_array_equal(gw.evaluate(sent)(X, 2 * LOWER), 2 * LOWER @ X)
    with pytest.raises(gw.ArgumentError, match=r"zeros_outside: needed 0 at \[0, 5\], where the mask is false, got 3.0"):
        gw.evaluate(sent)(X, LOWER + 3 * np.eye(6, k=5))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.bool_])
def test_integers_and_masks_are_literals_and_mutation_is_seen(dtype):
    mask = np.array([1, 0, 1, 1, 0, 0], dtype)
    f = lambda x: x * mask
    program = gw.trace(f, X)
    assert len(program.inputs) == 1
    np.testing.assert_array_equal(gw.grad(lambda x: np.sum(f(x)))(X), mask.astype(float))
    mask[1] = 1
    np.testing.assert_array_equal(gw.grad(lambda x: np.sum(f(x)))(X), mask.astype(float))
    np.testing.assert_array_equal(gw.evaluate(f)(X), X * mask)
    mask[1] = 0
    np.testing.assert_array_equal(gw.evaluate(f)(X), X * mask)


def test_large_integers_stay_inputs():
    table = np.zeros(2**20, np.int64)
    assert len(gw.trace(lambda x: np.sum(table * x), 1.0).inputs) == 2
    zeros = np.zeros(2**22 + 1, np.float32)
    assert "zeros_outside" not in names(gw.trace(lambda x: np.sum(zeros * x), np.float32(1)))


def test_a_triangle_of_a_thousand_rows_declares_its_zeros():
    weights, others = np.tri(1024), np.tri(1024) * 2
    program = gw.trace(lambda x: weights @ x + others @ x, np.ones(1024))
    first, _, second, *_ = program.equations
    assert first.primitive.name == second.primitive.name == "zeros_outside"
    assert first.operands[1] is second.operands[1]


def test_the_same_array_is_one_literal():
    mask = np.arange(6) < 3
    program = gw.trace(lambda x: np.where(mask, x, 0.0) + np.where(mask, 0.0, x * 2) + mask, X)
    masks = {operand for equation in program.equations for operand in equation.operands if isinstance(operand, Literal)}
    assert len(program.inputs) == 1
    assert sum(literal.type.dtype is Dtype.BOOL for literal in masks) == 1


def test_what_keeps_changing_is_data_and_keeps_one_program():
    rng = np.random.default_rng(0)
    digests = []
    for _ in range(VERSION_LIMIT + 4):
        labels = rng.integers(0, 2, (4, 6))
        batch = rng.random((4, 6)) * labels
        f = lambda w, batch=batch, labels=labels: np.sum((batch * w - labels) ** 2)
        digests.append(gw.trace(f, X).digest)
        np.testing.assert_allclose(gw.grad(f)(X), np.sum(2 * (batch * X - labels) * batch, 0))
    assert len(set(digests[: VERSION_LIMIT + 1])) == VERSION_LIMIT + 1
    assert len(set(digests[VERSION_LIMIT + 1 :])) == 1


def test_what_stays_the_same_keeps_its_structure_in_new_functions():
    TRACES.clear()
    digests = {gw.trace(lambda x: LOWER @ x, X).digest for _ in range(3 * VERSION_LIMIT)}
    assert len(digests) == 1
    assert "zeros_outside" in str(gw.trace(lambda x: LOWER @ x, X))


def test_outer_values_and_numbers_are_as_they_were():
    inner = lambda x: gw.grad(lambda y: np.sum(np.tanh(LOWER @ y) * x))(x)
    expected = LOWER.T @ (X / np.cosh(LOWER @ X) ** 2)
    np.testing.assert_allclose(inner(X), expected)
    np.testing.assert_allclose(gw.evaluate(inner)(X), expected)
    np.testing.assert_allclose(gw.vmap(inner)(np.stack([X, X])), [expected] * 2)


def test_loops_take_captured_structure():
    mask = np.array([True, False, True, False, True, False])
    total = lambda x: gw.scan(lambda carry, row: (carry + np.sum(np.where(mask, row, 0.0)), None), 0.0, x)[0]
    np.testing.assert_array_equal(gw.grad(total)(np.ones((2, 6))), [mask.astype(float)] * 2)


def test_a_loop_checks_zeros_once_before_it_begins():
    f = lambda x: gw.fori_loop(0, 5, lambda i, h: np.tanh(LOWER @ h), x)
    program = gw.trace(f, X)
    assert names(program) == ["zeros_outside", "scan"]
    assert "zeros_outside" not in names(program.equations[1].params["body"])
    g = lambda x: gw.cond(np.sum(x) > 0, lambda x: LOWER @ x, lambda x: x, x)
    assert "zeros_outside" in names(gw.trace(g, X))
    np.testing.assert_allclose(gw.jacobian(g)(X), LOWER)


def test_zeros_of_inner_functions_are_checked_once():
    program = gw.trace(lambda x: gw.grad(lambda y: np.sum(np.sin(LOWER @ y)))(LOWER @ x), X)
    core = Program(program.inputs, program.equations, program.outputs)
    assert names(run_passes(core)).count("zeros_outside") == 1


def test_other_sizes_are_no_changes():
    def of_size(size):
        lower = np.tri(size)
        return gw.trace(lambda x: lower @ x, np.ones(size))

    assert all("zeros_outside" in names(of_size(size)) for size in range(6, 10 + 2 * VERSION_LIMIT))
