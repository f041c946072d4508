"""Loops as tapes of all their steps: the bits of the steps themselves, as machine code, which makes loops of them again."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason='the native tier needs llvmlite: pip install "gradwire[jit]"')

import gradwire as gw
from gradwire_core.engine import Output, compile
from gradwire_core.interpreter import interpret
from gradwire_core.kernels import unrolling
from gradwire_core.kernels.numbers import MACHINE, Numbers, list_tape
from gradwire_core.kernels.tape import FLOATS, expand, is_worthwhile
from gradwire_core.native.assembly import assemble
from gradwire_core.native.machine import compile_here
from gradwire_core.program import Program
from gradwire_core.transforms import Transform
from tests.core.test_executor import same_bits

X = np.array([0.3, -0.7, 1.1])
XS = np.random.default_rng(0).normal(size=(20, 3))


def mixed(x, xs):
    """Constants, carries of which one is a truth value, elements, and two stacked outputs."""

    def step(carry, element):
        place, total, flag = carry
        place = np.where(flag, place * 0.5 + element * x, place - x[0])
        total = total + np.sum(place * element)
        return (place, total, total > 0.25), (place * total, np.logical_not(flag))

    return gw.scan(step, (x, x[0] * 2.0, x[0] > 0.0), xs)


def backwards(x, xs):
    return gw.scan(lambda carry, element: (carry * 0.75 + element, carry), x, xs, reverse=True)


def nested(x, xs):
    def inner(carry, element):
        return gw.scan(lambda carry, _: (carry * x + element, carry[0]), carry, None, length=4)

    return gw.scan(inner, x, xs)


def moving(x, xs):
    """Steps that compute nothing, and what is the same in all of them."""
    return gw.scan(lambda carry, element: (carry[::-1], (element, x * 2.0)), x, xs)


def from_constants(x, xs):
    """Steps that begin with numbers that are known."""
    return gw.scan(lambda carry, element: (carry * element[0] + x[0] * 2.0, carry), 0.0, xs)


def as_numbers(program: Program) -> Numbers:
    return Numbers.of(expand(program, MACHINE) or pytest.fail("needed a tape"), compile_here) or pytest.fail("needed code")


@pytest.fixture(autouse=True)
def any_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What enters and leaves may be more than a program of few numbers takes."""
    monkeypatch.setattr("gradwire_core.kernels.tape.MOST_ELEMENTS", 100)
    monkeypatch.setattr("gradwire_core.kernels.numbers.FEWEST_OPERATIONS", 0)


@pytest.mark.parametrize("function", [mixed, backwards, nested, moving, from_constants])
def test_a_loop_has_the_bits_of_its_steps(function) -> None:
    program = gw.trace(function, X, XS)
    run = as_numbers(program).run
    for x, xs in ((X, XS), (-X, XS[::-1]), (np.array([np.nan, -0.0, np.inf]), XS)):
        for found, expected in zip(run(x, xs), interpret(program, [x, xs]), strict=True):
            assert same_bits(found, expected)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_the_gradient_of_a_loop_has_the_bits_of_its_steps(checkpoint: bool) -> None:
    def function(x):
        step = lambda carry, _: (carry * x + np.sqrt(carry * carry + 1.0), carry[0])
        last, kept = gw.scan(step, x, None, length=200, checkpoint=checkpoint)
        return last[0] + last[1] * last[2] + kept[3]

    program = compile(gw.trace(function, X), [Output((Transform("grad", (0,)),))]).plan.program
    assert sum(equation.primitive.name == "scan" for equation in program.equations) >= 2
    for x in (X, -X):
        (found,), (expected,) = as_numbers(program).run(x), interpret(program, [x])
        np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_steps_become_a_loop_of_machine_code_again() -> None:
    def text(length: int) -> str:
        step = lambda place, _: (place + 0.1 * np.sin(place) * place, None)
        found = assemble(list_tape(expand(gw.trace(lambda x: gw.scan(step, x, None, length=length)[0], 0.5), MACHINE)))
        assert found is not None
        return found.text

    assert len(text(4000)) < 1.1 * len(text(1000))


def test_floats_do_not_take_loops_apart() -> None:
    program = gw.trace(lambda x: gw.scan(lambda c, _: (c * 0.5, None), x, None, length=10)[0], 0.5)
    assert not is_worthwhile(program, FLOATS)
    assert is_worthwhile(program, MACHINE)


DECLINED = {
    "whole numbers": lambda x: gw.scan(lambda c, i: (c * x + i, None), x, np.arange(50))[0],
    "large steps": lambda x: np.sum(gw.scan(lambda c, _: (c * x, None), np.ones(101), None, length=50)[0]),
    "other steps": lambda x: gw.scan(lambda c, _: (c + np.sort(c) * x, None), np.ones(3), None, length=50)[0][0],
    "many steps": lambda x: gw.scan(lambda c, _: (c * x + 0.5, None), x, None, length=MACHINE.most)[0],
}


@pytest.mark.parametrize("kind", DECLINED)
def test_other_loops_are_numpys(kind: str) -> None:
    assert expand(gw.trace(DECLINED[kind], 0.5), MACHINE) is None


def test_a_loop_that_holds_much_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    program = gw.trace(mixed, X, XS)
    monkeypatch.setattr(unrolling, "MOST_HELD", 100)
    assert expand(program, MACHINE) is None
