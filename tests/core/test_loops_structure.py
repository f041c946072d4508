"""Jacobians through loops and branches: what enters them keeps its structure, and no array within them is larger than that needs.

The arrays of sub-programs are counted as well: a Jacobian carried densely and compressed afterwards fails here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradwire as gw
from gradwire_core.builder import Builder
from gradwire_core.check import check_program
from gradwire_core.engine import Output, compile
from gradwire_core.program import Program
from gradwire_core.structure import strategy
from gradwire_core.structure.structured import StructuredJacobian
from gradwire_core.testing import interpret
from gradwire_core.transforms import Transform, grad, jacobian, jvp, structured_hessian, structured_jacobian, vmap
from gradwire_core.types import Dtype, TensorType
from tests.core.strategies import examples

DIRECTIONS = ["structured forward", "structured reverse"]


def traced(function, *shapes) -> Program:
    with Builder().tracing() as builder:
        returned = function(*[builder.input(TensorType(Dtype.FLOAT64, shape)) for shape in shapes])
        return builder.build(returned if isinstance(returned, tuple) else (returned,))


def sizes(program: Program) -> Iterator[int]:
    """The elements of each array that a program computes, those of its sub-programs included."""
    for equation in program.equations:
        yield from (var.type.size for var in equation.results)
        for param in equation.params.values():
            if isinstance(param, Program):
                yield from (var.type.size for var in param.inputs)
                yield from sizes(param)


def largest(program: Program) -> int:
    return max(sizes(program), default=0)


def structured(program: Program, arrays, argnum: int = 0, *, direction: str = "", order: int = 1) -> tuple[Program, list]:
    transform = structured_jacobian if order == 1 else structured_hessian
    with contextlib.ExitStack() as stack:
        if direction:
            stack.enter_context(strategy.forcing(direction))
        try:
            derived, specs = transform(program, (argnum,))
        except LookupError:  # it could not win
            stack.close()
            derived, specs = transform(program, (argnum,))
    check_program(derived)
    values = iter(interpret(derived, arrays))
    return derived, [spec.fill([next(values) for _ in range(spec.factor_count)]) for spec in specs]


def assert_is_the_derivative(found: list[StructuredJacobian], program: Program, arrays, argnum: int = 0, *, tolerance=1e-9) -> None:
    """All columns where they are few; else those of two directions, added."""
    size = arrays[argnum].size
    if size == 0:
        return
    rng = np.random.default_rng(8)
    tangents = np.eye(size) if size <= 40 else rng.normal(size=(2, size))
    shaped = tangents.reshape((len(tangents), *arrays[argnum].shape))
    columns = interpret(vmap(jvp(program, (argnum,)), (*[None] * len(arrays), 0), len(tangents)), [*arrays, shaped])
    for one, column in zip(found, columns, strict=True):
        got = one @ np.moveaxis(shaped, 0, -1)
        np.testing.assert_allclose(
            np.moveaxis(got, -1, 0), column, rtol=tolerance, atol=tolerance * max(1, np.max(np.abs(column), initial=0))
        )


def drawn(shapes, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


# -- what is held --------------------------------------------------------------------------------------------------------------


def power(x, a):
    return gw.fori_loop(0, 50, lambda i, c: np.sin(c) * a, x)


def recurrent(h, xs, w, u):
    return gw.scan(lambda h, x: (np.tanh(h @ w + x @ u), h), h, xs)[0]


def coupling(x, weights):
    half = x.shape[0] // 2

    def layer(x, w):
        first, second = x[:half], x[half:]
        hidden = np.tanh(w @ first)
        return np.concatenate([second * np.exp(hidden) + hidden, first]), None

    return gw.scan(layer, x, weights)[0]


def planar(x, u, w):
    return gw.scan(lambda x, layer: (x + layer[0] * np.tanh(x @ layer[1]), None), x, (u, w))[0]


def windows(count):
    def function(x):
        step = lambda i, c: 0.5 * c + 0.3 * np.sin(np.concatenate([c[1:], np.ones(1)])) * np.concatenate([np.ones(1), c[:-1]])
        return gw.fori_loop(0, count, step, x)

    return function


RECURRENT = [(20, 8), (5, 20, 6), (8, 8), (6, 8)]
STRUCTURES = {
    # name: function, shapes, the argument, elements that the factors may hold, elements of any array
    "loop over elements": (power, [(1000,), (1000,)], 0, 1000, 50_000),
    "loop over elements, by its constant": (power, [(1000,), (1000,)], 1, 1000, 50_000),
    "map over rows": (lambda x: gw.map(lambda row: np.sin(row) * row, x), [(60, 40)], 0, 2400, 2400),
    "map, by its constant": (lambda a, x: gw.map(lambda row: row * a, x), [(40,), (60, 40)], 0, 2400, 2400),
    "map of products": (lambda x, w: gw.map(lambda row: w @ row, x), [(60, 40), (30, 40)], 0, 1200, 2400),
    "map of some rows": (lambda x: gw.map(np.tanh, x[3:50:2]), [(60, 40)], 0, 960, 2400),
    "map of rows backwards": (lambda x: gw.map(np.tanh, x[::-1]), [(60, 40)], 0, 2400, 2400),
    "map over columns": (lambda x: gw.map(np.tanh, np.sin(x).T).T, [(60, 40)], 0, 2400, 2400),
    "map of a reshape": (lambda x: gw.map(np.sin, np.reshape(x, (60, 40))), [(2400,)], 0, 2400, 2400),
    "map of joined axes": (lambda x: gw.map(np.sin, np.reshape(x, (60, 40))), [(6, 10, 40)], 0, 2400, 4 * 2400),
    "map of a gather": (lambda x: gw.map(np.sin, x[np.arange(60) * 7 % 60]), [(60, 40)], 0, 2460, 2400),
    "map over pairs": (lambda x: gw.map(lambda p: p[0] * p[1], (x, np.cos(x))), [(60, 40)], 0, 2400, 2400),
    "two maps": (lambda x: gw.map(np.sin, gw.map(np.tanh, x)), [(60, 40)], 0, 2400, 2400),
    "nested maps": (lambda x: gw.map(lambda row: gw.map(np.sin, row), x), [(60, 40)], 0, 2400, 2400),
    "a step for each row": (
        lambda x: gw.scan(lambda c, row: (row, c * row), np.zeros(40), x)[1], [(60, 40)], 0, 60 * 60 * 40, 60 * 60 * 40,
    ),
    "recurrent net by its state": (recurrent, RECURRENT, 0, 20 * 8 * 8, 20 * 8 * 8 * 5),
    "recurrent net by its inputs": (recurrent, RECURRENT, 1, 20 * 8 * 5 * 6, 20 * 8 * 5 * 6 * 5),
    "recurrent net by its weights": (recurrent, RECURRENT, 2, 20 * 8 * 8 * 8, 20 * 8 * 8 * 8 * 5),
    "branches over elements": (lambda x: gw.cond(np.sum(x) > 0, np.sin, lambda x: x * x, x), [(1000,)], 0, 1000, 1000),
    "branch that keeps": (lambda x: gw.cond(np.sum(x) > 0, np.sin, lambda x: x, x), [(1000,)], 0, 1000, 1000),
    "branches in a loop": (
        lambda x: gw.fori_loop(0, 5, lambda i, c: gw.cond(i > 2, np.sin, lambda c: c * c, c), x), [(1000,)], 0, 1000, 5000,
    ),
    "loops in a loop": (
        lambda x: gw.fori_loop(0, 3, lambda i, c: gw.fori_loop(0, 4, lambda k, d: np.sin(d) + c, c), x), [(500,)], 0, 500, 6000,
    ),
    "loop in a branch": (
        lambda x: gw.cond(np.sum(x) > 0, lambda x: gw.fori_loop(0, 4, lambda i, c: np.sin(c), x), np.cos, x),
        [(1000,)], 0, 1000, 4000,
    ),
    "reversed loop": (
        lambda c, x: gw.scan(lambda c, row: (np.sin(c) * row, c), c, x, reverse=True), [(300,), (9, 300)], 0, 2 * 2700, 2700,
    ),
    "checkpointed loop": (
        lambda c, x: gw.scan(lambda c, row: (np.sin(c) * row, None), c, x, checkpoint=True)[0], [(300,), (9, 300)], 0, 300, 2700,
    ),
    "coupling layers": (coupling, [(40,), (8, 20, 20)], 0, 4 * 400, 8 * 400),
    "shifting windows": (windows(5), [(1000,)], 0, 11_100, 5000),
    "outer product into a loop": (
        lambda x, u, v: gw.fori_loop(0, 9, lambda i, c: np.sin(c), u * np.sum(v * x)), [(1000,)] * 3, 0, 2000, 9000,
    ),
    "planar layers": (planar, [(300,), (6, 300), (6, 300)], 0, 2 * 6 * 300 + 10, 2400),
    "vectors times sums": (
        lambda x, u: gw.fori_loop(0, 6, lambda i, c: np.sin(c) + u * np.sum(c * u), x), [(500,), (500,)], 0, 14 * 500, 7 * 500,
    ),
    "constant matrix into a map": (lambda x, w: gw.map(lambda row: np.sin(w @ row), x), [(60, 30), (20, 30)], 0, 600 + 1200, 1800),
}  # fmt: skip


@pytest.mark.parametrize("direction", ["", *DIRECTIONS])
@pytest.mark.parametrize("name", STRUCTURES)
def test_what_enters_a_loop_or_a_branch_keeps_its_structure(name, direction):
    function, shapes, argnum, held, most = STRUCTURES[name]
    program = traced(function, *shapes)
    arrays = drawn(shapes)
    derived, found = structured(program, arrays, argnum, direction=direction)
    assert_is_the_derivative(found, program, arrays, argnum)
    assert sum(one.nbytes for one in found) <= 8 * (held + 16)
    assert largest(derived) <= most


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("length", [0, 1, 2, 3, 8])
def test_loops_of_any_length(length, direction):
    def function(x, xs):
        last, ys = gw.scan(lambda c, row: (np.sin(c) * row + c[::-1], c * row), x, xs)
        return last, ys

    program = traced(function, (3,), (length, 3))
    arrays = drawn([(3,), (length, 3)])
    for argnum in range(2):
        _, found = structured(program, arrays, argnum, direction=direction)
        for one, dense in zip(found, interpret(jacobian(program, (argnum,)), arrays), strict=True):
            np.testing.assert_allclose(one.todense(), dense, rtol=1e-12, atol=1e-12)
        assert_is_the_derivative(found, program, arrays, argnum)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_windows_that_grow_for_ever_become_dense(direction):
    n = 30
    program = traced(windows(200), (n,))
    arrays = drawn([(n,)])
    derived, found = structured(program, arrays, direction=direction)
    assert_is_the_derivative(found, program, arrays)
    assert found[0].nbytes <= 8 * n * n
    assert largest(derived) <= max(200 * n, 4 * n * n)


def test_what_grows_is_made_dense_and_nothing_else():
    """The batch stays tied where the other axis is mixed ever further."""
    batch, n = 50, 20

    def step(i, c):
        return 0.5 * c + 0.3 * np.sin(np.concatenate([c[:, 1:], np.ones((batch, 1))], axis=1))

    program = traced(lambda x: gw.fori_loop(0, 60, step, x), (batch, n))
    arrays = drawn([(batch, n)])
    derived, found = structured(program, arrays, direction="structured forward")
    assert_is_the_derivative(found, program, arrays)
    assert found[0].nbytes <= 8 * batch * n * n
    assert largest(derived) <= max(60 * batch * n, 3 * batch * n * n)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_factor_of_the_branch_not_taken_does_not_count(direction):
    """Though it is infinite."""
    program = traced(lambda x, a: gw.cond(a[0] > 0, lambda x, a: x * a, lambda x, a: 3.0 * x[::-1], x, a), (4,), (4,))
    x = np.arange(4.0)
    for a, needed in [(np.full(4, np.inf), np.diag(np.full(4, np.inf))), (np.full(4, -np.inf), 3 * np.eye(4)[::-1])]:
        _, found = structured(program, [x, a], direction=direction)
        entries = found[0].todense()
        np.testing.assert_array_equal(entries[needed != 0], needed[needed != 0])
        assert np.isfinite(entries[needed == 0]).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_indices_that_change_from_step_to_step(direction):
    rows = np.array([[2, 0], [1, 1], [3, 2], [0, 3], [2, 2]])

    def function(x, index):
        carried = gw.scan(lambda c, i: (np.sin(gw.numpy.take(c, np.concatenate([i, i]))), None), x, index)[0]
        return carried, gw.map(lambda i: gw.numpy.take(np.cos(x), i), index)

    with Builder().tracing() as builder:
        x = builder.input(TensorType(Dtype.FLOAT64, (4,)))
        index = builder.input(TensorType(Dtype.INT64, rows.shape))
        program = builder.build(function(x, index))
    arrays = [np.linspace(0.2, 1.1, 4), rows]
    _, found = structured(program, arrays, direction=direction)
    for one, dense in zip(found, interpret(jacobian(program, (0,)), arrays), strict=True):
        np.testing.assert_allclose(one.todense(), dense, rtol=1e-12, atol=1e-12)
    assert_is_the_derivative(found, program, arrays)


HESSIANS = {
    "loop over elements": (
        lambda x, a: np.sum(gw.fori_loop(0, 20, lambda i, c: np.sin(c) * a, x)),
        [(1000,), (1000,)],
        3000,
        40_000,
    ),
    "map over rows": (lambda x: np.sum(gw.map(lambda row: np.sin(row) * row, x)), [(60, 40)], 2500, 2500),
    "branches": (lambda x: np.sum(gw.cond(x[0] > 0, lambda x: x**3, np.sin, x)), [(1000,)], 1100, 1100),
    "products of rows": (lambda x: np.sum(gw.map(np.prod, x)), [(60, 5)], 60 * 25 * 2, 60 * 25 * 5),
}


@pytest.mark.parametrize("direction", ["", *DIRECTIONS])
@pytest.mark.parametrize("name", HESSIANS)
def test_hessians_through_loops_and_branches(name, direction):
    function, shapes, held, most = HESSIANS[name]
    program = traced(function, *shapes)
    arrays = drawn(shapes)
    derived, found = structured(program, arrays, direction=direction, order=2)
    assert_is_the_derivative(found, grad(program, (0,)), arrays)
    assert found[0].nbytes <= 8 * held
    assert largest(derived) <= most


# -- random programs ---------------------------------------------------------------------------------------------------------

ROWS, COLUMNS, STEPS = 23, 29, 4


def elementwise(draw, rng, mixed):
    kind = draw(st.sampled_from(["function", "scale", "mix", "gate"]))
    if kind == "function":
        return draw(st.sampled_from([np.sin, np.tanh, np.negative, lambda x: x * x, lambda x: 0.5 * x + np.cos(x)]))
    if kind == "mix" and mixed:
        weights = rng.normal(size=(COLUMNS, COLUMNS)) / COLUMNS
        return lambda x: x @ weights
    if kind == "gate" and mixed:
        return lambda x: np.tanh(x) * np.sum(np.sin(x), axis=1, keepdims=True) / COLUMNS
    scale = rng.normal(size=draw(st.sampled_from([(ROWS, COLUMNS), (COLUMNS,), (ROWS, 1)])))
    return lambda x: x * scale


def chain(draw, rng, mixed, depth=0):
    """A map of matrices to matrices that keeps rows apart, and columns as well where nothing is mixed."""
    stages = [stage(draw, rng, mixed, depth) for _ in range(draw(st.integers(1, 3 if depth == 0 else 2)))]

    def apply(x):
        for one in stages:
            x = one(x)
        return x

    return apply


def stage(draw, rng, mixed, depth):
    kind = draw(st.sampled_from(["plain", "loop", "driven", "branch", "rows", "running"])) if depth < 2 else "plain"
    inner = elementwise(draw, rng, mixed) if kind == "plain" else chain(draw, rng, mixed, depth + 1)
    reverse = draw(st.booleans())
    if kind == "loop":
        return lambda x: gw.scan(lambda c, _: (np.sin(inner(c)) + c, None), x, length=STEPS, checkpoint=reverse)[0]
    if kind == "driven":
        given = rng.normal(size=(STEPS, ROWS, COLUMNS))
        return lambda x: gw.scan(lambda c, y: (np.tanh(inner(c)) * y + x, None), np.cos(x), given, reverse=reverse)[0]
    if kind == "branch":
        other = chain(draw, rng, mixed, depth + 1)
        return lambda x: gw.cond(np.sum(x) > 0, inner, lambda x: other(x) * 2.0, x)
    if kind == "rows":
        scale = rng.normal(size=COLUMNS)
        weights = rng.normal(size=(COLUMNS, COLUMNS)) / COLUMNS if mixed else np.eye(COLUMNS)
        return lambda x: gw.scan(
            lambda c, row: ((), np.sin(row * scale) @ weights if mixed else np.sin(row) * scale), (), inner(x), reverse=reverse
        )[1]
    if kind == "running":
        return lambda x: np.sum(gw.scan(lambda c, y: (inner(c), c * y), x, rng.normal(size=(STEPS, ROWS, COLUMNS)))[1], axis=0)
    return inner


@st.composite
def looping_programs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    mixed = draw(st.booleans())
    return traced(chain(draw, rng, mixed), (ROWS, COLUMNS)), mixed


@pytest.mark.parametrize("direction", DIRECTIONS)
@examples(25)
@given(case=looping_programs())
def test_no_array_within_loops_and_branches_is_larger_than_the_structure_needs(direction, case):
    """Rows are tied in all of these programs, and columns unless they are mixed; all steps of a loop at once are allowed for."""
    program, mixed = case
    x = np.random.default_rng(3).normal(size=(ROWS, COLUMNS))
    derived, found = structured(program, [x], direction=direction)
    assert_is_the_derivative(found, program, [x], tolerance=1e-8)
    needed = ROWS * COLUMNS * (COLUMNS if mixed else 1)
    assert largest(derived) <= STEPS * max(needed, STEPS * ROWS * COLUMNS)
    assert found[0].nbytes <= 8 * 4 * needed


@examples(25)
@given(case=looping_programs())
def test_the_peak_is_bounded_as_well(case):
    program, mixed = case
    executable = compile(program, [Output((Transform("jacobian"),), "structured")])
    needed = ROWS * COLUMNS * (COLUMNS if mixed else 1)
    residuals = 2 * max(sizes(program)) * len(list(sizes(program)))
    assert executable.plan.peak_bytes <= 8 * (8 * STEPS * needed + residuals)


def test_the_analysis_is_linear_in_the_body():
    def equations(count):
        def step(i, c):
            for _ in range(count):
                c = np.sin(c) * 1.5
            return c

        derived, _ = structured_jacobian(traced(lambda x: gw.fori_loop(0, 5, step, x), (100,)))
        return len(list(sizes(derived)))

    assert equations(80) <= 2.5 * equations(40)


def test_a_loop_over_few_numbers_carries_one_matrix():
    program = traced(lambda x: gw.fori_loop(0, 9, lambda i, c: c + 0.1 * np.stack([np.sin(c[1]), -c[0]]), x), (2,))
    arrays = drawn([(2,)])
    for direction in DIRECTIONS:
        derived, found = structured(program, arrays, direction=direction)
        assert_is_the_derivative(found, program, arrays)
        assert [one.shape for one in found[0].factors[0]] == [(2, 2)]
        assert derived.equations[-1].params["carry_count"] == 1
