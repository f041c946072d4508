"""Determinants of compositions: random stacks of layers, and what each costs that has structure."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradwire as gw
from gradwire_core.builder import VIEWS, Builder
from gradwire_core.check import check_program
from gradwire_core.errors import NotDifferentiableError
from gradwire_core.ops import shaping
from gradwire_core.ops._declare import call, find_primitive
from gradwire_core.program import Program
from gradwire_core.structure.strategy import recording
from gradwire_core.testing import interpret
from gradwire_core.transforms import grad, jacobian_det, jacobian_slogdet, jvp, vmap
from gradwire_core.types import Dtype, TensorType
from tests.core.strategies import Case, examples, programs


def traced(function, *arrays) -> Program:
    """The program of a function of arrays; what it captures is literal."""
    with Builder().tracing() as builder:
        returned = function(*[builder.input(TensorType.of(np.asarray(array))) for array in arrays])
        return builder.build(returned if isinstance(returned, tuple) else (returned,))


def slogdet_of(program: Program, arrays, argnums=(0,)) -> tuple[float, float]:
    derived = jacobian_slogdet(program, argnums)
    check_program(derived)
    sign, log = interpret(derived, arrays)
    return float(sign), float(log)


def dense(program: Program, arrays, argnums=(0,)) -> np.ndarray:
    """The Jacobian, column by column, in forward mode."""
    sizes = [arrays[index].size for index in argnums]
    if not sum(sizes):
        return np.zeros((0, 0))
    seeds = np.eye(sum(sizes))
    parts = np.split(seeds, np.cumsum(sizes)[:-1], axis=1)
    tangents = [part.reshape((len(seeds), *arrays[index].shape)) for part, index in zip(parts, argnums, strict=True)]
    batched = vmap(jvp(program, argnums), (*[None] * len(arrays), *[0] * len(argnums)), len(seeds))
    columns = interpret(batched, [*arrays, *tangents])
    return np.concatenate([column.reshape((len(seeds), math.prod(column.shape[1:]))) for column in columns], axis=1).T


def assert_as_dense(program: Program, arrays, argnums=(0,), rtol=1e-9) -> None:
    matrix = dense(program, arrays, argnums)
    sign, log = slogdet_of(program, arrays, argnums)
    (det,) = interpret(jacobian_det(program, argnums), arrays)
    needed = np.linalg.slogdet(matrix)
    size = np.prod(np.maximum(np.linalg.norm(matrix, axis=1), 1e-300)) if len(matrix) else 1.0
    assert abs(float(det) - np.linalg.det(matrix)) <= rtol * size
    if np.exp(needed[1]) > 1e-6 * size:
        assert sign == needed[0]
        np.testing.assert_allclose(log, needed[1], rtol=rtol, atol=rtol)
    else:
        assert np.exp(log) <= 2e-6 * size


def largest(program: Program) -> int:
    """The most elements that any equation computes, views apart."""
    made = [equation for equation in program.equations if equation.primitive.name not in VIEWS]
    return max((var.type.size for equation in made for var in equation.results), default=0)


def blocks_of(program: Program) -> str:
    """What the determinant is a product of, as recorded."""
    with recording() as choices:
        jacobian_slogdet(program)
    return choices[0].chosen


# -- random programs ---------------------------------------------------------------------------------------------------------


@st.composite
def square(draw) -> Case:
    """A random program whose last output is brought to as many elements as the inputs have."""
    case = draw(programs(outputs=1))
    builder = Builder()
    inputs = [builder.input(type) for type in case.program.input_types]
    (value,) = builder.inline(case.program, inputs)
    flat = np.concatenate([np.reshape(item, (item.size,)) for item in inputs])
    if value.size:
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        taken = np.take(np.reshape(value, (value.size,)), rng.permutation(np.arange(flat.size) % value.size))
        flat = taken + draw(st.sampled_from([0.0, 0.5])) * flat if draw(st.booleans()) else taken * np.cos(flat)
    return Case(builder.build([flat]), case.arrays)


@examples(150)
@given(square())
def test_any_square_program_has_the_determinant_of_its_dense_jacobian(case):
    assert_as_dense(case.program, case.arrays, case.argnums)


RNG = np.random.default_rng(3)
N = 6
MATRICES = [RNG.normal(size=(N, N)) + 2 * np.eye(N) for _ in range(3)]
LAYERS = {
    "diagonal": lambda x, k: np.sin(x) + 1.5 * x,
    "twice": lambda x, k: x * np.cos(x),
    "dense": lambda x, k: MATRICES[k % 3] @ x,
    "lower": lambda x, k: np.tanh(np.tril(MATRICES[k % 3]) @ x),
    "upper, strictly": lambda x, k: x + np.sin(np.triu(MATRICES[k % 3], 1) @ x),
    "running": lambda x, k: np.cumsum(x),
    "running back": lambda x, k: np.cumsum(x[::-1])[::-1],
    "gather": lambda x, k: x[np.random.default_rng(k).permutation(N)],
    "gather with repeats": lambda x, k: x[[0, 0, 1, 2, 3, 4]] * 2,
    "flip": lambda x, k: x[::-1] * 0.5,
    "coupling": lambda x, k: np.concatenate([x[:3], x[3:] * np.exp(np.tanh(MATRICES[k % 3][:3, :3] @ x[:3])) + np.sin(x[:3])]),
    "strided coupling": lambda x, k: np.stack([x[::2], x[1::2] + np.tanh(MATRICES[k % 3][:3, :3] @ x[::2])], 1).reshape(N),
    "exchange": lambda x, k: np.concatenate([x[3:], x[:3]]),
    "uneven parts": lambda x, k: np.concatenate([np.exp(np.sin(x[:1])), np.tanh(x[1:3]), MATRICES[k % 3][:3, :3] @ x[3:]]),
    "planar": lambda x, k: x + MATRICES[k % 3][0] * np.tanh(MATRICES[k % 3][1] @ x),
    "low rank": lambda x, k: 2 * x + MATRICES[k % 3][:, :2] @ np.tanh(MATRICES[k % 3][:2] @ x),
    "deep residual": lambda x, k: x + MATRICES[0][:, :2] @ np.tanh(MATRICES[1][:2, :3] @ np.sin(MATRICES[2][:3] @ x)),
    "scaled by its sum": lambda x, k: x * np.sum(x),
    "blocks": lambda x, k: np.reshape(np.tanh(np.reshape(x, (2, 3)) @ MATRICES[k % 3][:3, :3]), N) + x,
    "transposed": lambda x, k: np.reshape(np.reshape(x, (2, 3)).T, N),
    "lift": lambda x, k: RNG_LIFT[k % 3].T @ np.tanh(RNG_LIFT[k % 3] @ x),
    "narrow": lambda x, k: MATRICES[0][:, :4] @ np.tanh(MATRICES[1][:4] @ x),
    "grouped units": lambda x, k: np.tanh(GROUPED[1] @ np.tanh(GROUPED[0] @ x)),
    "branches": lambda x, k: np.where(x > 0, x, 0.1 * x),
    "no change": lambda x, k: x,
}
RNG_LIFT = [RNG.normal(size=(2 * N, N)) for _ in range(3)]
GROUPS = np.repeat(np.arange(N), 3)
GROUPED = [
    np.where(GROUPS[:, None] >= np.arange(N), RNG.normal(size=(3 * N, N)), 0),
    np.where(np.arange(N)[:, None] >= GROUPS, RNG.normal(size=(N, 3 * N)), 0),
]


def stack(names):
    def function(x):
        for place, name in enumerate(names):
            x = LAYERS[name](x, place)
        return x

    return function


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name):
    x = np.random.default_rng(1).normal(size=N)
    assert_as_dense(traced(stack([name]), x), [x])


@examples(60)
@given(st.lists(st.sampled_from([*LAYERS]), min_size=2, max_size=5), st.integers(0, 99))
def test_a_stack_of_layers(names, seed):
    x = np.random.default_rng(seed).normal(size=N)
    assert_as_dense(traced(stack(names), x), [x], rtol=1e-7)


@examples(15)
@given(st.lists(st.sampled_from([*LAYERS]), min_size=1, max_size=3), st.integers(0, 99))
def test_a_batch_is_a_loop(names, seed):
    batch = 0.3 * np.random.default_rng(seed).normal(size=(3, N))
    program = jacobian_slogdet(traced(stack(names), batch[0]))
    found = interpret(vmap(program, (0,), 3), [batch])
    looped = [interpret(program, [x]) for x in batch]
    np.testing.assert_array_equal(found[0], [row[0] for row in looped])
    np.testing.assert_allclose(found[1], [row[1] for row in looped], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_log_determinants_are_differences(name):
    if name in {"narrow", "gather with repeats"}:
        return  # singular
    x = np.random.default_rng(1).uniform(0.4, 1.2, N)
    program = jacobian_slogdet(traced(stack(["diagonal", name, "coupling"]), x))
    log = Program(program.inputs, program.equations, program.outputs[1:])
    (found,) = interpret(grad(log), [x])
    steps = 1e-5 * np.eye(N)
    needed = [(interpret(log, [x + step])[0] - interpret(log, [x - step])[0]) / 2e-5 for step in steps]
    np.testing.assert_allclose(found, needed, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("names", [["coupling", "gather", "low rank", "coupling"], ["narrow"], ["diagonal", "flip", "planar"]])
def test_a_composition_too_large_is_parted_in_sections(names, monkeypatch):
    x = np.random.default_rng(1).uniform(0.4, 1.2, N)
    program = traced(stack(names), x)
    needed = blocks_of(program)
    monkeypatch.setattr("gradwire_core.structure.system.MOST_ARCS", 150)
    found = blocks_of(program)
    assert found.split(", ")[1:] == needed.split(", ")[1:]
    assert_as_dense(program, [x])


@pytest.mark.parametrize("name", LAYERS)
def test_a_system_too_large_is_one_block(name, monkeypatch):
    monkeypatch.setattr("gradwire_core.structure.system.MOST_ARCS", 0)
    x = np.random.default_rng(1).uniform(0.4, 1.2, N)
    assert_as_dense(traced(stack([name, "diagonal"]), x), [x])


def test_a_large_diagonal_is_one_without_its_graph(monkeypatch):
    monkeypatch.setattr("gradwire_core.structure.system.MOST_ARCS", 0)
    x = np.random.default_rng(1).uniform(0.4, 1.2, 1000)
    program = traced(lambda x: np.sin(x) * x + np.tanh(x), x)
    assert largest(jacobian_slogdet(program)) <= x.size
    np.testing.assert_allclose(slogdet_of(program, [x])[1], np.sum(np.log(np.diagonal(dense(program, [x])))), rtol=1e-12)


# -- what structure costs ------------------------------------------------------------------------------------------------------


def coupling_stack(exchange, layers=4):
    def function(x, *weights):
        half = x.size // 2
        for layer in range(layers):
            first, second = x[:half], x[half:]
            hidden = np.tanh(weights[layer] @ first)
            x = exchange(np.concatenate([first, second * np.exp(np.tanh(hidden)) + hidden]), layer)
        return x

    return function


EXCHANGES = {
    "halves": lambda x, layer: np.concatenate([x[x.size // 2 :], x[: x.size // 2]]),
    "reversal": lambda x, layer: x[::-1],
    "permutation": lambda x, layer: np.take(x, np.random.default_rng(layer).permutation(x.size)),
    "strides": lambda x, layer: np.stack([x[::2], x[1::2]]).reshape(x.shape),
}


@pytest.mark.parametrize("name", EXCHANGES)
def test_couplings_cost_what_their_forward_pass_costs(name):
    n = 200
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=n), *[rng.normal(size=(n // 2, n // 2)) / 10 for _ in range(4)]]
    program = traced(coupling_stack(EXCHANGES[name]), *arrays)
    derived = jacobian_slogdet(program)
    assert largest(derived) <= n
    assert {"slogdet", "det"}.isdisjoint(equation.primitive.name for equation in derived.equations)
    assert_as_dense(program, arrays)


def test_a_masked_autoregressive_layer_needs_no_determinant():
    n = 100
    rng = np.random.default_rng(0)
    degree, hidden = np.arange(n), rng.integers(0, n - 1, 300)
    into, out = hidden[:, None] >= degree, degree[:, None] > hidden
    arrays = [rng.normal(size=n), rng.normal(size=(300, n)), rng.normal(size=(n, 300)) / 10, rng.normal(size=(n, 300)) / 10]

    def function(x, first, shift, scale):
        unit = np.tanh((first * into) @ x)
        return x * np.exp(np.tanh((scale * out) @ unit)) + (shift * out) @ unit

    program = traced(function, *arrays)
    derived = jacobian_slogdet(program)
    assert largest(derived) <= 300 * n
    assert "slogdet" not in {equation.primitive.name for equation in derived.equations}
    assert_as_dense(program, arrays)


def test_layers_are_not_multiplied():
    """The product of ill-conditioned matrices has lost its determinant before it is factored."""
    n, layers = 20, 12
    rng = np.random.default_rng(0)
    factors = []
    for _ in range(layers):
        u, _, v = np.linalg.svd(rng.normal(size=(n, n)))
        factors.append(u * np.logspace(0, -3, n) @ v)

    def function(x):
        for factor in factors:
            x = np.tanh(factor @ x)
        return x

    x = rng.normal(size=n)
    needed, point = 0.0, x
    for factor in factors:
        point = factor @ point
        needed += np.linalg.slogdet(factor)[1] - 2 * np.sum(np.log(np.cosh(point)))
        point = np.tanh(point)
    program = traced(function, x)
    np.testing.assert_allclose(slogdet_of(program, [x])[1], needed, rtol=1e-12)


def test_the_partials_of_saturated_units_do_not_underflow():
    x = np.full(600, 3.0)
    needed = np.sum(2 * (np.log(2) - np.cumsum(x)))
    program = traced(lambda x: np.tanh(np.cumsum(x)), x)
    sign, log = slogdet_of(program, [x])
    assert sign == 1
    np.testing.assert_allclose(log, needed, rtol=1e-6)


def test_batches_of_blocks_stay_batched():
    count, size = 50, 4
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(count, size)), rng.normal(size=(size, size))
    for function in [
        lambda x, w: np.tanh(x @ w) + x,
        lambda x, w: np.tanh(np.tanh(x @ w) @ w),
        lambda x, w: np.take(np.tanh(x @ w), np.random.default_rng(1).permutation(count), 0) * 2,
        lambda x, w: np.tanh(x @ w).T.reshape(count, size),
    ]:
        program = traced(function, x, w)
        derived = jacobian_slogdet(program)
        assert largest(derived) <= count * size * size
        assert_as_dense(program, [x, w])


def test_products_with_several_matrices_are_powers():
    """Their determinant may overflow, and then its logarithm does not."""
    n, m = 30, 20
    rng = np.random.default_rng(0)
    x, a, b = 1e3 * rng.normal(size=(n, m)), 1e3 * rng.normal(size=(n, n)), rng.normal(size=(m, m))
    needed = m * np.linalg.slogdet(a)[1] + n * np.linalg.slogdet(b)[1]
    for function in [
        lambda x, a, b: a @ x @ b,
        lambda x, a, b: np.einsum("ij,jk,kl->il", a, x, b),
        lambda x, a, b: np.einsum("ij,jk,kl,i->li", a, x, b, np.exp(a[0] * 0)),
    ]:
        program = traced(function, x, a, b)
        derived = jacobian_slogdet(program)
        assert largest(derived) <= n * n
        np.testing.assert_allclose(slogdet_of(program, [x, a, b])[1], needed, rtol=1e-12)


def test_groups_of_units_are_small_blocks():
    n = 40
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(n), 3)
    into = np.where(groups[:, None] >= np.arange(n), rng.normal(size=(3 * n, n)), 0)
    out = np.where(np.arange(n)[:, None] >= groups, rng.normal(size=(n, 3 * n)), 0)
    x = rng.normal(size=n)
    program = traced(lambda x: np.tanh(out @ np.tanh(into @ x)), x)
    derived = jacobian_slogdet(program)
    assert largest(derived) <= 3 * n
    assert_as_dense(program, [x])


# -- zeros -------------------------------------------------------------------------------------------------------------------


def test_a_bottleneck_makes_the_determinant_zero_for_every_input():
    rng = np.random.default_rng(0)
    for function in [
        lambda x: rng.normal(size=(5, 3)) @ np.tanh(rng.normal(size=(3, 5)) @ x),
        lambda x: np.take(x, [0, 1, 2, 3, 3]),
        lambda x: x * np.array([1.0, 1, 0, 1, 1]),
        lambda x: np.concatenate([x[:4], np.sum(x[:4], keepdims=True)]),
    ]:
        program = traced(function, np.ones(5))
        for derived, needed in [(jacobian_slogdet(program), [0, -np.inf]), (jacobian_det(program), [0])]:
            assert not derived.equations
            assert interpret(derived, [np.ones(5)]) == needed


def test_a_zero_known_only_by_numbers():
    assert slogdet_of(traced(lambda x: x + -x, np.ones(3)), [np.ones(3)]) == (0, -np.inf)
    assert slogdet_of(traced(lambda x: x**2, np.ones(3)), [np.array([1.0, 0, 2])]) == (0, -np.inf)


def test_the_gradient_of_a_determinant_where_it_is_zero():
    x = np.array([0.0, 1.0, 2.0])
    (found,) = interpret(grad(jacobian_det(traced(lambda x: x * x, x))), [x])
    np.testing.assert_array_equal(found, [16, 0, 0])


def test_nan_is_kept():
    x = np.array([np.nan, 1.0])
    for function in [lambda x: np.sin(x) * 2, lambda x: x * np.cos(x), lambda x: np.array([[1.0, 2], [3, 5]]) @ np.sin(x)]:
        sign, log = slogdet_of(traced(function, x), [x])
        assert math.isnan(log)
        assert math.isnan(sign) or sign in (-1, 1)


def test_float32_stays_float32():
    x = np.ones(4, np.float32)
    program = traced(coupling_stack(EXCHANGES["halves"], 2), x, *[np.ones((2, 2), np.float32)] * 2)
    assert [type.dtype for type in jacobian_slogdet(program).output_types] == [Dtype.FLOAT32] * 2


# -- a diagonal plus a few columns by a few rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("zeros", [0, 1, 2, 5])
@pytest.mark.parametrize("small", [0.0, 1e-10])
def test_small_pivots_stand_in_a_border(rank, zeros, small):
    n = 40
    rng = np.random.default_rng(rank)
    d, u, v = rng.normal(size=n), rng.normal(size=(n, rank)), rng.normal(size=(rank, n))
    d[rng.permutation(n)[:zeros]] = small
    program = traced(lambda x, d, u, v: d * x + u @ (v @ x), d, d, u, v)
    derived = jacobian_slogdet(program)
    assert largest(derived) <= n * 2 * rank
    sign, log = map(float, interpret(derived, [d, d, u, v]))
    with mp.workdps(60):
        matrix = mp.matrix(u.tolist()) * mp.matrix(v.tolist()) + mp.diag(d.tolist())
        needed = mp.det(matrix)
        if small == 0 and zeros > rank:
            assert (sign, log) == (0, -np.inf)
            needed = 0
        else:
            assert sign == mp.sign(needed)
            np.testing.assert_allclose(log, float(mp.log(abs(needed))), rtol=1e-11)
        (det,) = interpret(jacobian_det(program), [d, d, u, v])
        np.testing.assert_allclose(float(det), float(needed), rtol=1e-9)


def test_the_gradient_of_a_bordered_determinant_where_it_is_zero():
    """In all of D: also where that is what keeps the determinant from 0."""
    n = 12
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=n), rng.normal(size=n)
    program = jacobian_det(traced(lambda x, d: d * x + u * (v @ x), u, u))
    for zeros in (0, 1, 2, 3):
        d = rng.normal(size=n)
        d[:zeros] = 0
        (found,) = interpret(grad(program, (1,)), [u, d])
        others = [np.delete(np.delete(np.diag(d) + np.outer(u, v), k, 0), k, 1) for k in range(n)]
        np.testing.assert_allclose(found, [np.linalg.det(item) for item in others], rtol=1e-9, atol=1e-12)


def planar(x, u, w):
    for layer in range(len(u)):
        x = x + u[layer] * np.tanh(w[layer] @ x)
    return x


def residual(x, first, second):
    return x + second @ np.tanh(first @ x)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (planar, [(3, 300), (3, 300)]),
        (residual, [(5, 300), (300, 5)]),
        (lambda x, w: x * np.sum(w * x * x), [(300,)]),
        (lambda x, w, b: np.flip(3 * x + w * np.tanh(x @ w) * 0.1) + b, [(300,), (300,)]),
    ],
)
def test_few_columns_cost_what_their_number_costs(function, shapes):
    n = 300
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=n), *[rng.normal(size=shape) / 17 for shape in shapes]]
    program = traced(function, *arrays)
    derived = jacobian_slogdet(program)
    assert largest(derived) <= 5 * n
    assert_as_dense(program, arrays)
    log = Program(derived.inputs, derived.equations, derived.outputs[1:])
    assert largest(grad(log, (1,))) <= 10 * n


def test_every_sample_of_a_batch_has_its_own_few_columns():
    count, n = 6, 40
    rng = np.random.default_rng(0)
    x, w, u = rng.normal(size=(count, n)), rng.normal(size=n), rng.normal(size=n)
    program = traced(lambda x, w, u: x + np.tanh(x @ w)[:, None] * u, x, w, u)
    assert largest(jacobian_slogdet(program)) <= count * n
    assert_as_dense(program, [x, w, u])


# -- few entries a row -----------------------------------------------------------------------------------------------------------


def padded(x, *widths):
    return shaping.pad_with_zeros(x, widths, widths, (0,) * len(widths))


def mesh(x):
    side = math.isqrt(x.size)
    u = x.reshape(side, side)
    p = padded(u, 1, 1)
    around = p[:-2, 1:-1] + 2 * p[2:, 1:-1] + p[1:-1, :-2] - p[1:-1, 2:]
    return (5 * u + np.sin(around) + 0.1 * np.exp(u)).reshape(x.size)


LOCAL = {
    "three diagonals": lambda x: 3 * x + 0.1 * x**3 - padded(x, 1)[:-2] - 2 * padded(x, 1)[2:],
    "differences": lambda x: np.concatenate([x[:1] ** 2, (x[1:] - x[:-1]) * x[1:] + x[:-1] ** 3]),
    "a ring": lambda x: 3 * x + np.sin(np.concatenate([x[-1:], x[:-1]])) - np.concatenate([x[2:], x[:2]]),
    "a mesh": mesh,
    "a mesh, scattered": lambda x: np.take(mesh(np.take(x, SCATTERED)), np.argsort(SCATTERED)),
    "a mesh, turned": lambda x: mesh(x)[::-1] * 2,
}
SCATTERED = np.random.default_rng(0).permutation(400)


@pytest.mark.parametrize("name", LOCAL)
def test_few_entries_a_row_need_no_dense_matrix(name):
    x = np.random.default_rng(0).normal(size=400)
    program = traced(LOCAL[name], x)
    derived = jacobian_slogdet(program)
    assert largest(derived) <= 60 * x.size
    np.testing.assert_allclose(slogdet_of(program, [x]), np.linalg.slogdet(dense(program, [x])), rtol=1e-12)
    log = Program(derived.inputs, derived.equations, derived.outputs[1:])
    gradient = grad(log)
    assert largest(gradient) <= 60 * x.size
    direction = np.random.default_rng(1).normal(size=x.size)
    low, high = [interpret(log, [x + step * direction])[0] for step in (-1e-6, 1e-6)]
    np.testing.assert_allclose(interpret(gradient, [x])[0] @ direction, (high - low) / 2e-6, rtol=1e-5)
    batch = np.stack([x, 0.5 * x])
    found = interpret(vmap(derived, (0,), 2), [batch])
    np.testing.assert_allclose(found[1], [interpret(derived, [item])[1] for item in batch], rtol=1e-12)


# -- loops, branches, complex numbers --------------------------------------------------------------------------------------------


def loop(x, weights):
    half = x.size // 2

    def body(x, w):
        hidden = np.tanh(w @ x[:half])
        return np.concatenate([x[half:] * np.exp(hidden) + hidden, x[:half]]), ()

    return gw.scan(body, x, weights)[0]


def unrolled(x, weights):
    for w in weights:
        hidden = np.tanh(w @ x[: x.size // 2])
        x = np.concatenate([x[x.size // 2 :] * np.exp(hidden) + hidden, x[: x.size // 2]])
    return x


def test_the_determinant_of_a_loop_is_that_of_its_steps():
    n, length = 20, 30
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=n), rng.normal(size=(length, n // 2, n // 2)) / 3
    program = traced(loop, x, weights)
    steps = jacobian_slogdet(traced(lambda x, *weights: unrolled(x, weights), x, *weights))
    with recording() as choices:
        derived = jacobian_slogdet(program)
    assert f"1 block {n} x {n} of {length} steps (" in choices[-1].chosen
    assert "dense" not in choices[-1].chosen
    assert largest(derived) <= length * n * 2
    np.testing.assert_allclose(interpret(derived, [x, weights]), interpret(steps, [x, *weights]), rtol=1e-12)
    assert_as_dense(program, [x, weights])
    one, other = [Program(item.inputs, item.equations, item.outputs[1:]) for item in (derived, steps)]
    (found,) = interpret(grad(one, (1,)), [x, weights])
    needed = interpret(grad(other, range(1, length + 1)), [x, *weights])
    np.testing.assert_allclose(found, needed, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: gw.scan(lambda x, step: (np.sin(MATRICES[0] @ x) + 2 * x, ()), x, None, length=3)[0],
        lambda x: gw.scan(lambda x, step: (MATRICES[0] @ x, ()), x, None, length=3)[0],
        lambda x: np.concatenate(
            gw.scan(lambda c, step: ((c[1] * np.exp(c[0]), c[0]), ()), (x[:3], np.tanh(x[3:])), None, length=3)[0]
        ),
        lambda x: np.concatenate(gw.scan(lambda c, step: ((c[1], c[0] * c[1]), ()), (x[3:], x[:3]), None, length=3)[0][::-1]),
        lambda x: gw.scan(lambda c, step: ((c[0] * np.exp(c[0]), c[1] + np.sum(c[0])), ()), (x, 0.0), None, length=3)[0][0],
        lambda x: gw.scan(lambda c, step: ((c[0] * c[1], c[1] + np.sum(c[0])), ()), (x, 1.0), None, length=3)[0][0],
        lambda x: gw.scan(lambda c, y: (c * y, ()), np.exp(x), np.stack([x, x * x]))[0],
        lambda x: gw.scan(lambda c, y: (c + x * np.sin(c), ()), np.exp(x), None, length=2)[0],
        lambda x: gw.scan(lambda c, y: (np.concatenate([c[:1], c[:1] * 2, c[2:]]), ()), x, None, length=2)[0],
        lambda x: x + gw.scan(lambda c, y: (np.tanh(c), ()), x, None, length=2)[0],
    ],
)
def test_loops_of_all_kinds(function):
    x = np.random.default_rng(0).uniform(0.3, 0.9, N)
    assert_as_dense(traced(function, x), [x])


def coupled_step(c, y):
    return np.tanh(c + y), np.sin(y) * (2 + c)


STEPS = {
    "a map": (lambda x: gw.map(lambda row: np.tanh(MATRICES[0] @ row) + row, x), "6 blocks 6 x 6"),
    "a map of what is turned": (lambda x: gw.map(lambda row: MATRICES[0] @ np.sin(row) + row, x[::-1, ::-1])[:, ::-1], "6 x 6"),
    "a map with a branch": (
        lambda x: gw.map(lambda row: gw.cond(row[0] > 0, np.sin, lambda y: y * y[0], row), x),
        "6 blocks 6 x 6",
    ),
    "what is emitted": (lambda x: gw.scan(lambda c, y: (c + y, y * np.exp(np.tanh(c)) + c), np.zeros(N), x)[1], "6 blocks 6 x 6"),
    "what is emitted in reverse": (
        lambda x: gw.scan(lambda c, y: (c + y @ MATRICES[1], MATRICES[0] @ np.sin(y) + c), np.zeros(N), x, reverse=True)[1],
        "6 blocks 6 x 6",
    ),
    "one after the other": (lambda x: gw.scan(coupled_step, 0.5, np.reshape(x, -1))[1], "of one"),
    "one before the other": (lambda x: gw.scan(coupled_step, 0.5, np.reshape(x, -1)[::-1], reverse=True)[1], "of one"),
    "what all read": (lambda x: gw.map(lambda row: row * np.sum(x * x) + np.sin(row), x), "36 x 36"),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_steps_of_a_loop_are_apart(name):
    function, found = STEPS[name]
    x = np.random.default_rng(2).uniform(-1, 1, (N, N))
    program = gw.trace(lambda x: np.reshape(function(x), N * N), x)
    assert_as_dense(program, [x, *program.captured])
    assert found in blocks_of(program)
    assert "slogdet" not in str(jacobian_slogdet(program)) or found != "of one"


def test_the_volume_of_a_map_is_that_of_its_steps():
    x = np.random.default_rng(2).uniform(0.2, 1, (N, N))
    function = lambda x: gw.map(lambda row: np.concatenate([np.tanh(MATRICES[0] @ row) + row, row * row]), x)
    matrix = gw.jacobian(function)(x).reshape(-1, x.size)
    np.testing.assert_allclose(gw.jacobian_logvolume(function)(x), np.linalg.slogdet(matrix.T @ matrix)[1] / 2, rtol=1e-12)


def test_a_branch_is_one_block():
    def function(x):
        return gw.cond(x[0] > 0, lambda x: x * np.sin(x), lambda x: 2 * x + np.sum(x), np.exp(x) - 1)

    for sign in (1, -1):
        x = sign * np.random.default_rng(0).uniform(0.3, 1, N)
        assert_as_dense(traced(function, x), [x])


def test_complex_maps_that_are_linear_over_complex_numbers():
    rng = np.random.default_rng(0)
    matrix, z = [rng.normal(size=shape) + 1j * rng.normal(size=shape) for shape in ((N, N), (N,))]
    for function in [lambda z: z * np.exp(z), lambda z: matrix @ np.sin(z) + z * z, lambda z: z[::-1] * (2 - 1j)]:
        program = traced(function, z)
        columns = interpret(vmap(jvp(program), (None, 0), N), [z, np.eye(N, dtype=complex)])[0]
        needed = np.linalg.slogdet(columns.T)
        sign, log = interpret(jacobian_slogdet(program), [z])
        np.testing.assert_allclose([sign, log], needed, rtol=1e-12)
        np.testing.assert_allclose(interpret(jacobian_det(program), [z])[0], needed[0] * np.exp(needed[1]), rtol=1e-12)


def test_a_complex_number_between_real_ones_is_two_numbers():
    """There are fewer complex numbers between than inputs; that makes nothing singular."""
    x = np.random.default_rng(0).normal(size=N)
    shift = np.exp(1j * np.arange(N // 2 + 1))
    assert_as_dense(traced(lambda x: np.fft.irfft(shift.real * np.fft.rfft(np.sin(x)), N) + x, x), [x])
    assert_as_dense(traced(lambda x: np.abs(x * (1 + 2j)) ** 2 + x, x), [x])


def test_what_is_not_holomorphic_is_refused():
    with pytest.raises(NotDifferentiableError, match="needed a holomorphic function"):
        jacobian_slogdet(traced(lambda z: z * np.conj(z), np.ones(2, complex)))


def test_only_what_is_on_the_diagonal_is_computed():
    """The rest is not, and may be 0: its logarithm would be -inf, and its gradient NaN."""
    n = 40
    lower = np.tril(np.ones((n, n)))
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=n), rng.normal(size=(n, n)) * np.eye(n)
    cases = [
        (lambda x, w: (w * lower) @ x, np.eye(n) / np.where(w == 0, 1, w)),
        (lambda x, w: (np.exp(w) * lower) @ np.tanh(x), np.eye(n)),
        (lambda x, w: (w.T * lower * x[:, None]).T @ np.ones(n) + 0 * x, None),
    ]
    for function, needed in cases:
        program = traced(function, x, w)
        derived = jacobian_slogdet(program)
        assert needed is None or largest(derived) <= n
        assert_as_dense(program, [x, w])
        log = Program(derived.inputs, derived.equations, derived.outputs[1:])
        (found,) = interpret(grad(log, (1,)), [x, w])
        if needed is not None:
            np.testing.assert_allclose(found, needed, rtol=1e-12)


def test_zeros_of_captured_arrays_keep_blocks_apart():
    n = 40
    rng = np.random.default_rng(0)
    weights = np.tril(rng.normal(size=(n, n)), -1)
    x = rng.normal(size=n)
    function = gw.jacobian_slogdet(lambda x: x * np.exp(np.tanh(weights @ x)) + weights @ np.sin(x))
    assert "slogdet" not in str(gw.trace(function, x))
    np.testing.assert_allclose(function(x)[1], np.sum(np.tanh(weights @ x)), rtol=1e-12)


def test_large_blocks_are_not_copied_side_by_side():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(200, 32)), rng.normal(size=(32, 32)) / 32

    def function(x, w):
        for _ in range(3):
            x = np.tanh(x @ w) + x
        return x

    program = traced(function, x, w)
    assert "600 blocks 32 x 32" in blocks_of(program)
    derived = jacobian_slogdet(program)
    assert largest(derived) <= 200 * 32 * 32
    needed = sum(np.linalg.slogdet(block)[1] for block in _row_blocks(x, w))
    np.testing.assert_allclose(interpret(derived, [x, w])[1], needed, rtol=1e-12)


def _row_blocks(x, w):
    for _ in range(3):
        moved = np.tanh(x @ w)
        yield from (1 - moved**2)[:, :, None] * w.T + np.eye(32)
        x = moved + x


# -- convolutions --------------------------------------------------------------------------------------------------------------


def test_a_causal_convolution_is_triangular():
    rng = np.random.default_rng(0)
    x, taps = rng.normal(size=40), np.array([-1.5, 0.3, 0.2])
    assert_as_dense(traced(lambda x, taps: np.sinh(np.convolve(x, taps)[:40])[::-1], x, taps), [x, taps])
    program = traced(lambda x, taps: np.convolve(x, taps)[:40], x, taps)
    derived = jacobian_slogdet(program)
    assert largest(derived) <= 40
    np.testing.assert_allclose(interpret(derived, [x, taps]), [1, 40 * np.log(1.5)], rtol=1e-14)


def test_convolutions_of_rows_are_blocks():
    rng = np.random.default_rng(0)
    x, taps = rng.normal(size=(3, 20)), rng.normal(size=(3, 3)) + np.array([0, 5, 0])
    program = traced(lambda x, taps: x * call(find_primitive("convolve"), x, taps)[:, 1:-1], x, taps)
    assert_as_dense(program, [x, taps])
    assert "3 blocks 20 x 20" in blocks_of(program)
    assert largest(jacobian_slogdet(program)) <= 3 * 20 * 20
    program = traced(lambda taps, x: np.sin(call(find_primitive("convolve"), x, taps)[:, 1:4]) - 9 * taps, taps, x)
    assert_as_dense(program, [taps, x])


@pytest.mark.parametrize(("size", "found"), [(3, "banded (1 + 1)"), (101, "dense")])
def test_a_convolution_is_banded(size, found):
    rng = np.random.default_rng(0)
    x, taps = rng.normal(size=90), rng.normal(size=size)
    taps[1] += 5
    program = traced(lambda x, taps: x * np.convolve(x, taps)[1:91], x, taps)
    assert_as_dense(program, [x, taps])
    assert found in blocks_of(program)


# -- indices that the program computes ---------------------------------------------------------------------------------------


def test_indices_that_are_computed_tie_the_other_axes():
    """An autoregressive map with a table of its own for every row: what is looked up does not join the rows."""
    rng = np.random.default_rng(0)
    lower, tables = np.tril(rng.normal(size=(N, N)), -1), rng.uniform(0.5, 2, (N, 5))

    def function(x):
        knots = np.cumsum(np.tanh(lower @ x)[:, None] ** 2 + tables, axis=1)
        place = np.sum((x[:, None] > knots[:, :-1]).astype(np.int64), axis=1)[:, None]
        low, slope = [np.take_along_axis(item, place, axis=1)[:, 0] for item in (knots, np.exp(knots))]
        return low + slope * (x - low)

    x = 4 * rng.normal(size=N)
    program = traced(function, x)
    assert_as_dense(program, [x])
    assert blocks_of(program) == f"{5 * N} blocks of one"


PLACES = np.array([[2, 0, 1], [0, -1, 1], [1, 2, 0], [2, 1, 0]])
MOVES_BY_INDEX = {
    "rows sorted": (lambda x, i: np.sort(x, axis=1) ** 3, PLACES, "4 blocks 3 x 3"),
    "columns sorted": (lambda x, i: np.exp(np.sort(x, axis=0)), PLACES, "3 blocks 4 x 4"),
    "columns permuted": (lambda x, i: np.sinh(x[:, i]), PLACES[0], "4 blocks 3 x 3"),
    "rows permuted": (lambda x, i: np.sinh(x[i]), np.array([[3, 1], [-4, 2]]), "3 blocks 4 x 4"),
    "each row its own": (lambda x, i: np.sinh(np.take_along_axis(x, i, axis=1)), PLACES, "4 blocks 3 x 3"),
    "each row added": (
        lambda x, i: call(find_primitive("scatter_add"), np.sinh(x), i, axis=1, batch=1, size=3),
        PLACES,
        "4 blocks 3 x 3",
    ),
    "each row set": (
        lambda x, i: call(find_primitive("scatter"), np.exp(x), i, np.sinh(x), axis=1, batch=1),
        PLACES,
        "4 blocks 3 x 3",
    ),
}


@pytest.mark.parametrize("name", MOVES_BY_INDEX)
def test_moves_by_indices_of_the_input(name):
    function, places, found = MOVES_BY_INDEX[name]
    x = np.random.default_rng(3).normal(size=(4, 3))
    program = traced(lambda x, i: np.reshape(function(x, i), (4, 3)), x, places)
    assert_as_dense(program, [x, places])
    assert found in blocks_of(program)
    assert "set" in name or largest(jacobian_slogdet(program)) <= 48
