"""Determinants of Jacobians: their value and sign, and that structure is used where it is there."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gradwire_core.builder import Builder
from gradwire_core.check import check_program
from gradwire_core.errors import ShapeError
from gradwire_core.ops import shaping
from gradwire_core.program import Program
from gradwire_core.testing import check_derivatives, interpret
from gradwire_core.transforms import grad, jacobian, jacobian_det, jacobian_slogdet, vmap
from gradwire_core.types import Dtype, TensorType


def traced(function, *shapes, dtype=Dtype.FLOAT64) -> Program:
    with Builder().tracing() as builder:
        returned = function(*[builder.input(TensorType(dtype, shape)) for shape in shapes])
        return builder.build(returned if isinstance(returned, tuple) else (returned,))


def largest(program: Program) -> int:
    return max((var.type.size for equation in program.equations for var in equation.results), default=0)


def determinants(function, *arrays, argnums=(0,)) -> tuple[float, float, float]:
    """The determinant, its sign and the logarithm of its absolute value, by both transforms."""
    program = traced(function, *map(np.shape, arrays))
    (det,) = checked(jacobian_det(program, argnums), arrays)
    sign, log = checked(jacobian_slogdet(program, argnums), arrays)
    return float(det), float(sign), float(log)


def checked(program: Program, arrays) -> list[np.ndarray]:
    check_program(program)
    return interpret(program, arrays)


def assert_as_dense(function, *arrays, argnums=(0,), rtol=1e-10) -> None:
    """Both transforms agree with numpy on the dense Jacobian."""
    program = traced(function, *map(np.shape, arrays))
    blocks = checked(jacobian(program, argnums), arrays)
    rows = [math.prod(type.shape) for type in program.output_types]
    columns = [np.size(arrays[argnum]) for argnum in argnums]
    pairs = itertools.product(rows, columns)
    matrices = [block.reshape(shape) for block, shape in zip(blocks, pairs, strict=True)]
    whole = np.block([matrices[start : start + len(columns)] for start in range(0, len(matrices), len(columns))])
    det, sign, log = determinants(function, *arrays, argnums=argnums)
    needed_sign, needed_log = np.linalg.slogdet(whole)
    assert sign == needed_sign
    np.testing.assert_allclose(log, needed_log, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(det, np.linalg.det(whole), rtol=rtol, atol=0)


# -- closed forms ------------------------------------------------------------------------------------------------------------


def test_polar_coordinates_stretch_areas_by_the_radius():
    det, sign, log = determinants(lambda p: np.stack([p[0] * np.cos(p[1]), p[0] * np.sin(p[1])]), np.array([2.5, 0.7]))
    np.testing.assert_allclose([det, sign, log], [2.5, 1, np.log(2.5)], rtol=1e-14)


def test_spherical_coordinates():
    def cartesian(p):
        return np.stack([p[0] * np.sin(p[1]) * np.cos(p[2]), p[0] * np.sin(p[1]) * np.sin(p[2]), p[0] * np.cos(p[1])])

    det, sign, log = determinants(cartesian, np.array([1.5, 0.8, 2.0]))
    np.testing.assert_allclose([det, sign, log], [1.5**2 * np.sin(0.8), 1, np.log(1.5**2 * np.sin(0.8))], rtol=1e-13)


def test_a_change_of_variables_integrates_to_one():
    """A normal density pushed through a map, with its determinant, still has mass one."""
    grid = np.linspace(-7, 7, 20_001)
    program = traced(lambda x: x + 0.5 * np.sin(x), (1,))
    logs = interpret(vmap(jacobian_slogdet(program), (0,), grid.size), [grid[:, None]])[1]
    images = interpret(vmap(program, (0,), grid.size), [grid[:, None]])[0][:, 0]
    density = np.exp(-(grid**2) / 2 - logs) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(np.trapezoid(density, images), 1, rtol=1e-7)


# -- parity of permutations --------------------------------------------------------------------------------------------------

SIDES = range(1, 7)


@pytest.mark.parametrize("rows", SIDES)
def test_the_sign_of_a_transpose(rows):
    for columns in SIDES:
        det, sign, log = determinants(lambda x: x.T, np.ones((rows, columns)))
        needed = (-1) ** (math.comb(rows, 2) * math.comb(columns, 2))
        assert (det, sign, log) == (needed, needed, 0)


@pytest.mark.parametrize("shape", [(2, 3, 2), (3, 2, 3), (3, 1, 4), (2, 2, 2, 2), (1, 3, 2, 3)])
def test_the_sign_of_any_permutation_of_axes(shape):
    x = np.random.default_rng(0).normal(size=shape)
    places = np.arange(x.size).reshape(shape)
    for order in itertools.permutations(range(len(shape))):
        matrix = np.eye(x.size)[np.transpose(places, order).ravel()]
        needed = np.linalg.det(matrix)
        assert determinants(lambda x, order=order: np.transpose(x, order), x) == (needed, needed, 0)
        assert_as_dense(lambda x, order=order: np.sin(np.transpose(x, order)) * 2, x)


@pytest.mark.parametrize(("old", "new"), [((4, 6), (6, 4)), ((4, 6), (2, 12)), ((2, 3, 4), (4, 6)), ((6, 5), (15, 2))])
def test_the_sign_of_a_transpose_between_reshapes(old, new):
    x = np.random.default_rng(0).normal(size=old)
    assert_as_dense(lambda x: np.reshape(np.reshape(x, new).T, old), x)
    assert_as_dense(lambda x: np.reshape(np.reshape(np.sin(x), new).T, old) * 1.5, x)


@pytest.mark.parametrize("n", range(1, 8))
def test_the_sign_of_a_reversal(n):
    needed = (-1) ** (n * (n - 1) // 2)
    det, sign, log = determinants(lambda x: x[::-1], np.ones(n))
    np.testing.assert_allclose([det, sign, log], [needed, needed, 0], atol=1e-12)


# -- structure ---------------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(7)
MATRICES = {length: RNG.normal(size=(length, length)) + 2 * np.eye(length) for length in (2, 3, 4)}
CASES = {
    "diagonal": (lambda x: np.sin(x) * x, (5,)),
    "diagonal of a matrix": (lambda x: np.exp(x) - 2 * x, (3, 4)),
    "a number": (lambda x: x * x, ()),
    "the identity": (lambda x: x, (3, 2)),
    "a matrix from the right": (lambda x: x @ MATRICES[4], (3, 4)),
    "a matrix from the left": (lambda x: MATRICES[3] @ x, (3, 4)),
    "matrices from both sides": (lambda x: MATRICES[3] @ x @ MATRICES[4], (3, 4)),
    "a matrix from the right, transposed": (lambda x: (x @ MATRICES[4]).T, (3, 4)),
    "blocks": (lambda x: np.tanh(x @ MATRICES[4]), (3, 4)),
    "blocks along the second axis": (lambda x: np.tanh(MATRICES[3] @ x), (3, 4)),
    "blocks of two terms": (lambda x: np.tanh(x @ MATRICES[4]) + np.exp(x), (3, 4)),
    "blocks of transposed terms": (lambda x: np.tanh(x @ MATRICES[4]).T * 2 + np.exp(x.T), (3, 4)),
    "diagonal plus rank one": (lambda x: x * np.sum(x * x), (5,)),
    "blocks of diagonal plus rank one": (lambda x: x * np.sum(x * x, axis=1, keepdims=True), (3, 4)),
    "terms that share no tie": (lambda x: np.tanh(x @ MATRICES[3]) + np.sin(MATRICES[3] @ x) + x.T, (3, 3)),
    "softmax with a shift": (lambda x: np.exp(x) / np.sum(np.exp(x)) + x, (4,)),
    "a rank deficient": (lambda x: np.broadcast_to(np.sum(x), (3,)) * np.arange(1.0, 4) + 0.5 * x, (3,)),
    "batched matrices": (lambda x: np.einsum("bij,bj->bi", np.stack([MATRICES[3], -MATRICES[3]]), np.sin(x)), (2, 3)),
    "batched matrices, axes exchanged": (
        lambda x: np.einsum("bij,bj->ib", np.stack([MATRICES[3], -MATRICES[3]]), np.sin(x)),
        (2, 3),
    ),
    "four axes": (lambda x: np.einsum("abcd,ce->adeb", np.sin(x), MATRICES[3]), (2, 2, 3, 2)),
    "the matrix inverse": (np.linalg.inv, (3, 3)),
    "the matrix square": (lambda x: x @ x, (3, 3)),
    "a gather": (lambda x: np.take(x, [2, 0, 1, 3], 1) * 2, (3, 4)),
    "two halves joined": (lambda x: np.concatenate([x[2:] * 2, np.sin(x[:2])]), (4,)),
    "the diagonal once more": (lambda x: x + 2 * shaping.embed(np.einsum("ii->i", np.sin(x)), (0, 0)), (3, 3)),
    "the diagonal at every place": (lambda x: x * 2 + np.einsum("ii->i", x)[:, None], (3, 3)),
    "autoregressive": (lambda x: np.stack([x[0], x[1] * np.exp(x[0]), x[2] + np.sin(x[0] * x[1])]), (3,)),
}


@pytest.mark.parametrize("name", CASES)
def test_determinants_are_those_of_the_dense_jacobian(name):
    function, shape = CASES[name]
    x = np.random.default_rng(3).uniform(0.3, 1.2, shape) + (2 * np.eye(3) if name == "the matrix inverse" else 0)
    assert_as_dense(function, x)


@pytest.mark.parametrize("name", CASES)
def test_log_determinants_are_differentiable_twice(name):
    function, shape = CASES[name]
    x = np.random.default_rng(3).uniform(0.3, 1.2, shape) + (2 * np.eye(3) if name == "the matrix inverse" else 0)
    program = jacobian_slogdet(traced(function, shape))
    check_derivatives(Program(program.inputs, program.equations, program.outputs[1:]), [x], rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_determinants_of_a_batch_are_a_loop(name):
    function, shape = CASES[name]
    batch = np.random.default_rng(3).uniform(0.3, 1.2, (4, *shape)) + (2 * np.eye(3) if name == "the matrix inverse" else 0)
    program = jacobian_slogdet(traced(function, shape))
    found = checked(vmap(program, (0,), 4), [batch])
    looped = [interpret(program, [x]) for x in batch]
    for number, array in enumerate(found):
        np.testing.assert_allclose(array, [row[number] for row in looped], rtol=1e-10, atol=1e-10)


def test_a_diagonal_needs_no_more_than_its_elements():
    n = 100_000
    program = traced(lambda x: np.tanh(x) * x + 3 * x, (n,))
    for transform in (jacobian_det, jacobian_slogdet):
        assert largest(transform(program)) <= n
    x = np.linspace(-1, 1, n)
    log = interpret(jacobian_slogdet(program), [x])[1]
    np.testing.assert_allclose(log, np.sum(np.log(np.tanh(x) + x / np.cosh(x) ** 2 + 3)), rtol=1e-12)


def test_rows_times_a_matrix_need_one_small_determinant():
    n, m = 5000, 4
    program = traced(lambda x: x @ MATRICES[m], (n, m))
    derived = jacobian_slogdet(program)
    assert largest(derived) <= m * m
    sign, log = interpret(derived, [np.ones((n, m))])
    np.testing.assert_allclose(log, n * np.linalg.slogdet(MATRICES[m])[1], rtol=1e-12)
    assert sign == 1


def test_one_block_for_each_sample():
    n, m = 2000, 4
    program = traced(lambda x: np.tanh(x @ MATRICES[m]) + x, (n, m))
    derived = jacobian_slogdet(program)
    assert largest(derived) <= n * m * m
    dets = [equation for equation in derived.equations if equation.primitive.name == "slogdet"]
    assert [equation.operands[0].type.shape for equation in dets] == [(n, m, m)]


def test_a_large_determinant_overflows_where_its_logarithm_does_not():
    det, sign, log = determinants(lambda x: x * -1e10, np.ones(101))
    assert (det, sign) == (-np.inf, -1)
    np.testing.assert_allclose(log, 101 * np.log(1e10))


# -- edges -------------------------------------------------------------------------------------------------------------------


def test_a_singular_jacobian_has_determinant_zero():
    for function, shape in [
        (lambda x: x - x, (3,)),
        (lambda x: x * 0, (3,)),
        (lambda x: x * np.array([1.0, 0.0, 2.0]), (3,)),
        (lambda x: np.broadcast_to(x[:1], (3,)), (3,)),
        (lambda x: x @ np.zeros((3, 3)), (2, 3)),
    ]:
        assert determinants(function, np.ones(shape)) == (0, 0, -np.inf)


def test_an_empty_jacobian_has_determinant_one():
    for shape in [(0,), (2, 0)]:
        assert determinants(lambda x: np.sin(x) * x, np.ones(shape)) == (1, 1, 0)
        assert determinants(lambda x: (np.sin(x), x * x), np.ones(shape)) == (1, 1, 0)
        assert determinants(lambda x: (), np.ones(shape)) == (1, 1, 0)


def test_several_inputs_and_outputs_are_flattened_in_order():
    x, y = np.array([[0.5, 2.0]]), np.array([1.0, 3.0, 4.0])
    assert_as_dense(lambda x, y: (np.sin(y), x * np.sum(y)), x, y, argnums=(0, 1))
    assert_as_dense(lambda x, y: (np.sin(y), x * np.sum(y)), x, y, argnums=(1, 0))
    assert determinants(lambda x, y: (y, x), np.array(1.0), np.array(1.0), argnums=(0, 1)) == (-1, -1, 0)
    assert_as_dense(lambda x, y: np.concatenate([np.sin(y), x[0] * y[:2]]), x, y, argnums=(0, 1))


def test_only_some_inputs_may_be_chosen():
    x, w = np.array([0.5, 2.0]), np.array([[1.0, 3.0], [2.0, 1.0]])
    assert_as_dense(lambda x, w: np.tanh(w @ x), x, w)


def test_float32_stays_float32():
    program = jacobian_slogdet(traced(lambda x: np.sin(x) * x, (3,), dtype=Dtype.FLOAT32))
    assert [type.dtype for type in program.output_types] == [Dtype.FLOAT32, Dtype.FLOAT32]
    check_program(program)


@pytest.mark.parametrize("transform", [jacobian_det, jacobian_slogdet])
def test_what_is_not_square_is_refused(transform):
    with pytest.raises(ShapeError, match=r"needed a square Jacobian, got 2 x 3 \(outputs x inputs, flattened\)"):
        transform(traced(lambda x: x[:2], (3,)))


def test_the_gradient_of_a_determinant_is_the_adjugate():
    """Also of a product of partials, one of which is zero."""
    x = np.array([0.0, 2.0, 3.0])
    program = jacobian_det(traced(lambda x: x * x / 2, (3,)))
    (found,) = interpret(grad(program), [x])
    np.testing.assert_array_equal(found, [6, 0, 0])
