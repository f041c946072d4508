"""Volumes of embeddings: log sqrt det(J^T J) of Jacobians with more rows than columns."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest

from gradwire_core.builder import Builder
from gradwire_core.check import check_program
from gradwire_core.errors import ShapeError
from gradwire_core.program import Program
from gradwire_core.testing import check_derivatives, interpret
from gradwire_core.transforms import vmap
from gradwire_core.transforms.determinant import jacobian_logvolume, jacobian_slogdet
from gradwire_core.types import TensorType
from tests.core.test_blocks import dense, largest, traced

RNG = np.random.default_rng(5)
TALL = RNG.normal(size=(7, 4))
CASES = {
    "a curve": (lambda x: np.concatenate([np.cos(x), np.sin(x), x * x]), (1,)),
    "a sphere": (lambda p: np.stack([np.sin(p[0]) * np.cos(p[1]), np.sin(p[0]) * np.sin(p[1]), np.cos(p[0])]), (2,)),
    "a graph": (lambda x: np.concatenate([x, np.tanh(TALL[:3] @ x)]), (4,)),
    "a matrix": (lambda x: TALL @ np.sin(x), (4,)),
    "each for itself": (lambda x: np.stack([np.sin(x), x * x]), (5,)),
    "rows": (lambda x: np.tanh(x @ TALL.T), (3, 4)),
    "two outputs": (lambda x: (np.exp(x), x[:2] * np.sum(x)), (4,)),
    "parts of two forms": (lambda x: np.concatenate([x[:2], x[:2] ** 2, TALL[:4, :2] @ x[2:]]), (4,)),
    "padding": (lambda x: np.concatenate([np.zeros(2), np.sin(x)]), (3,)),
    "as many": (lambda x: x * np.sum(x), (4,)),
}


@pytest.mark.parametrize("name", CASES)
def test_volumes_are_those_of_the_dense_jacobian(name):
    function, shape = CASES[name]
    x = np.random.default_rng(0).uniform(0.3, 1.2, shape)
    program = traced(function, x)
    derived = jacobian_logvolume(program)
    check_program(derived)
    matrix = dense(program, [x])
    needed = np.sum(np.log(np.linalg.svd(matrix, compute_uv=False)))
    np.testing.assert_allclose(interpret(derived, [x])[0], needed, rtol=1e-12, atol=1e-12)
    check_derivatives(derived, [x], rtol=1e-6)
    batch = np.stack([x, 0.5 * x])
    found = interpret(vmap(derived, (0,), 2), [batch])[0]
    np.testing.assert_allclose(found, [interpret(derived, [item])[0] for item in batch], rtol=1e-12, atol=1e-14)


def test_of_as_many_outputs_it_is_the_log_determinant():
    program = traced(lambda x: x * np.sum(x), np.ones(3))
    x = np.array([0.5, 2.0, -1.0])
    assert interpret(jacobian_logvolume(program), [x])[0] == interpret(jacobian_slogdet(program), [x])[1]


def test_the_condition_is_not_squared():
    u, _, v = np.linalg.svd(RNG.normal(size=(9, 6)), full_matrices=False)
    matrix = u * np.logspace(0, -9, 6) @ v
    program = traced(lambda x: matrix @ x, np.ones(6))
    with mp.workdps(60):
        exact = mp.matrix(matrix.tolist())
        needed = float(mp.log(mp.det(exact.T * exact)) / 2)
    np.testing.assert_allclose(interpret(jacobian_logvolume(program), [np.ones(6)])[0], needed, rtol=1e-7)


def test_dependent_columns_span_no_volume():
    for function in [
        lambda x: np.array([[1.0, 2], [2, 4], [3, 6]]) @ x,
        lambda x: np.concatenate([x, x]) * 0,
        lambda x: np.concatenate([x[:1], x[:1], np.sin(x[:1])]),
        lambda x: RNG.normal(size=(5, 1)) @ (RNG.normal(size=(1, 2)) @ x),
    ]:
        assert interpret(jacobian_logvolume(traced(function, np.ones(2))), [np.ones(2)]) == [-np.inf]


def test_parts_apart_are_small():
    x = np.ones((200, 3))
    derived = jacobian_logvolume(traced(lambda x: np.concatenate([np.tanh(x @ TALL[:3, :3]), x], 1), x))
    assert largest(derived) <= 200 * 6 * 3
    derived = jacobian_logvolume(traced(lambda x: np.concatenate([np.sin(x), np.cos(x)]), x))
    assert largest(derived) <= x.size * 2


def test_fewer_outputs_than_inputs_are_refused():
    with pytest.raises(ShapeError, match=r"needed at least as many outputs as inputs, got 2 x 3 \(flattened\)"):
        jacobian_logvolume(traced(lambda x: x[:2], np.ones(3)))


def test_nothing_has_volume_one():
    with Builder().tracing() as builder:
        value = builder.input(TensorType.of(np.ones(0)))
        program = builder.build([np.concatenate([value, np.ones(2)])])
    assert isinstance(program, Program)
    assert interpret(jacobian_logvolume(program), [np.ones(0)]) == [0]
