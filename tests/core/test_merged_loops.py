"""Loops over the same steps become one; each value keeps its bits, and what was stacked between them is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import gradwire as gw
from gradwire_core.builder import Builder
from gradwire_core.check import check_program
from gradwire_core.executor import Executor
from gradwire_core.passes import merge_loops, prune, run_passes
from gradwire_core.planner import plan
from gradwire_core.program import Program
from gradwire_core.testing import interpret
from gradwire_core.transforms import grad, jvp, structured_jacobian
from gradwire_core.types import Dtype, TensorType
from tests.core.language import language_programs
from tests.core.strategies import Case, examples


def traced(function, *shapes) -> Program:
    with Builder().tracing() as builder:
        returned = function(*[builder.input(TensorType(Dtype.FLOAT64, shape)) for shape in shapes])
        return builder.build(returned if isinstance(returned, tuple) else (returned,))


def loops(program: Program) -> list:
    return [equation for equation in program.equations if equation.primitive.name == "scan"]


def assert_same_bits(program: Program, arrays) -> Program:
    after = merge_loops(prune(program))
    check_program(after)
    for one, other in zip(interpret(after, arrays), interpret(program, arrays), strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()
    return after


def power(x, a):
    return gw.fori_loop(0, 50, lambda i, c: np.sin(c) * a, x)


def test_a_loop_and_its_tangents_hold_one_step():
    n = 10_000
    program = traced(power, (n,), (n,))
    arrays = [np.linspace(0, 1, n), np.linspace(1, 2, n)]
    for derived, inputs in [(jvp(program), [*arrays, arrays[1]]), (structured_jacobian(program)[0], arrays)]:
        after = assert_same_bits(derived, inputs)
        assert len(loops(after)) == 1
        assert plan(run_passes(derived)).peak_bytes <= 8 * 6 * n


def test_a_loop_run_backwards_stays_apart():
    program = traced(lambda x, a: np.sum(power(x, a)), (30,), (30,))
    arrays = [np.linspace(0, 1, 30), np.linspace(1, 2, 30)]
    assert len(loops(assert_same_bits(grad(program), arrays))) == 2


def by_a_carry(x):
    last, ys = gw.scan(lambda c, y: (c + y, c), x[0], x)
    return gw.scan(lambda c, y: (c * y, c), last, ys)[1]


def by_a_constant(x):
    last, ys = gw.scan(lambda c, y: (c + y, c), x[0], x)
    return gw.map(lambda y: y * last, ys)


def by_what_is_between(x):
    ys = gw.map(np.cos, x)
    return gw.map(lambda pair: pair[0] * pair[1], (ys, np.sin(ys)))


def crossed(x):
    one, other = gw.map(np.cos, x), gw.map(np.sin, x)
    first = gw.map(lambda pair: pair[0] * pair[1], (one, other[::-1]))
    return first, gw.map(lambda pair: pair[0] - pair[1], (other, one[::-1]))


def asked_for(x):
    ys = gw.map(np.cos, x)
    return ys, gw.map(np.sin, ys)


MEETINGS = {
    # name: function, and how many loops are left
    "a map of what a loop stacks": (lambda x: gw.map(np.sin, gw.scan(lambda c, y: (c + y, c * y), x[0], x)[1]), 1),
    "a chain of maps": (lambda x: gw.map(np.sin, gw.map(np.cos, gw.map(np.tanh, x))), 1),
    "by a carry": (by_a_carry, 2),
    "by a constant": (by_a_constant, 2),
    "by what is computed between": (by_what_is_between, 2),
    "the other way round": (lambda x: gw.scan(lambda c, y: (c, y * y), x[0], gw.map(np.cos, x), reverse=True)[1], 2),
    "of another length": (lambda x: gw.map(np.sin, gw.map(np.cos, x)[1:]), 2),
    "crossed": (crossed, 3),
    "both are asked for": (asked_for, 1),
    "what is stacked is not asked for": (lambda x: gw.scan(lambda c, y: (c * y, np.exp(c)), x[0], x)[0], 1),
}


@pytest.mark.parametrize("name", MEETINGS)
def test_loops_meet_where_nothing_else_leads_from_one_to_the_other(name):
    function, count = MEETINGS[name]
    program = traced(function, (5, 3))
    x = np.random.default_rng(0).normal(size=(5, 3))
    x[2, 1], x[3, 0] = np.nan, -np.inf
    with np.errstate(all="ignore"):
        after = assert_same_bits(program, [x])
    assert len(loops(after)) == count
    taken = {operand for equation in after.equations for operand in equation.operands}.union(after.outputs)
    assert all(var in taken for equation in loops(after) for var in equation.results[equation.params["carry_count"] :])


@examples(30)
@given(language_programs())
def test_random_programs_keep_their_bits(case: Case):
    for program, arrays in [(jvp(case.program, case.argnums), [*case.arrays, *case.arrays]), (case.program, case.arrays)]:
        assert_same_bits(program, arrays)


def test_many_loops_are_merged_in_linear_time():
    def function(x):
        for number in range(300):
            x = gw.map(lambda row, number=number: np.sin(row) * float(number), x)
        return x

    program = traced(function, (4, 2))
    after = merge_loops(program)
    assert len(loops(after)) == 1
    (loop,) = loops(after)
    assert len(loop.results) == 1
    x = np.random.default_rng(0).normal(size=(4, 2))
    np.testing.assert_array_equal(Executor(plan(after))(x)[0], interpret(program, [x])[0])
