"""Programs that are deep, or have more paths than atoms: every algorithm is iterative, and linear in their equations.

Linear is shown by counting derived equations, and by wall bounds a hundred times what is needed; that nothing recurses, by a limit
of 100 frames.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.sparse.csgraph  # noqa: F401  # an import recurses deeper than what is tested may

from gradwire_core import canonical
from gradwire_core.builder import Builder
from gradwire_core.check import check_program
from gradwire_core.engine import Output, compile
from gradwire_core.program import Program
from gradwire_core.testing import interpret
from gradwire_core.transforms import (
    Transform,
    grad,
    hessian,
    hvp,
    jacobian,
    jacobian_det,
    jacobian_slogdet,
    jvp,
    structured_jacobian,
    vjp,
    vmap,
)
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.program import decode_program, encode_program

DEEP = 100_000
MODEST = 1_000
FRAMES = 100
SECONDS = 300


@contextlib.contextmanager
def shallow() -> Iterator[None]:
    """Allow 100 more frames than there are, and a generous time."""
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    limit, start = sys.getrecursionlimit(), time.perf_counter()
    sys.setrecursionlimit(depth + FRAMES)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
    assert time.perf_counter() - start < SECONDS


def chain(count: int, shape: tuple[int, ...] = ()) -> Program:
    """Alternating sin and multiplication by the input."""
    builder = Builder()
    x = builder.input(TensorType(Dtype.FLOAT64, shape))
    y = x
    for _ in range(count // 2):
        y = np.sin(y) * x
    return builder.build([y])


def paths(count: int) -> Program:
    """`x = x * x + x`, repeated: 2^count paths from the input to the output, over 2 count equations."""
    builder = Builder()
    x = builder.input(TensorType(Dtype.FLOAT64, ()))
    for _ in range(count):
        x = x * x + x
    return builder.build([x])


def wide(count: int) -> Program:
    """A sum of many functions of one value."""
    builder = Builder()
    x = builder.input(TensorType(Dtype.FLOAT64, ()))
    total = x
    for number in range(count // 3):
        total = total + np.sin(x * float(number))
    return builder.build([total])


def chain_value(x: float, count: int) -> tuple[float, float]:
    value, slope = x, 1.0
    for _ in range(count // 2):
        value, slope = np.sin(value) * x, np.cos(value) * slope * x + np.sin(value)
    return value, slope


@pytest.fixture(scope="module")
def deep() -> Program:
    with shallow():
        return chain(DEEP)


def test_a_deep_chain_is_traced(deep):
    assert len(deep.equations) == DEEP


def test_a_deep_chain_is_printed_named_and_checked(deep):
    with shallow():
        assert len(str(deep).splitlines()) == DEEP + 2
        assert len(deep.digest) == 64
        assert len(canonical.encode(deep)) < 200 * DEEP
        check_program(deep)


def test_a_deep_chain_crosses_the_wire(deep):
    with shallow():
        assert decode_program(encode_program(deep)).digest == deep.digest


def test_a_deep_chain_has_a_gradient(deep):
    with shallow():
        derived = grad(deep)
        assert len(derived.equations) <= 5 * DEEP
        check_program(derived)
        (found,) = interpret(derived, [1.5])
    np.testing.assert_allclose(found, chain_value(1.5, DEEP)[1], rtol=1e-9)


def test_a_deep_chain_has_a_tangent():
    with shallow():
        derived = jvp(chain(DEEP // 5))
        assert len(derived.equations) <= DEEP
        (found,) = interpret(derived, [1.5, 1.0])
    np.testing.assert_allclose(found, chain_value(1.5, DEEP // 5)[1], rtol=1e-9)


def test_a_deep_chain_is_batched(deep):
    with shallow():
        derived = vmap(deep, (0,), 2)
        assert len(derived.equations) == DEEP
        (found,) = interpret(derived, [[1.5, 2.0]])
    np.testing.assert_allclose(found, [chain_value(1.5, DEEP)[0], chain_value(2.0, DEEP)[0]], rtol=1e-9)


def test_a_deep_chain_compiles_and_runs():
    program = chain(DEEP // 5)
    with shallow():
        executable = compile(program, [Output(), Output((Transform("grad"),))])
        (value,), (slope,) = executable.run([np.array(1.5)], [[], []])
    np.testing.assert_allclose([value, slope], chain_value(1.5, DEEP // 5), rtol=1e-9)


def test_a_deep_chain_of_vectors_keeps_a_diagonal_jacobian():
    n = 1000
    program = chain(MODEST, (n,))
    with shallow():
        derived, (spec,) = structured_jacobian(program)
    assert str(spec.patterns[0]) == "dY[i]/dX[i] = A[i]"
    assert max(var.type.size for equation in derived.equations for var in equation.results) <= n
    x = np.linspace(1.2, 2, n)
    found = spec.fill(interpret(derived, [x]))
    np.testing.assert_allclose(found.factors[0][0], [chain_value(item, MODEST)[1] for item in x], rtol=1e-9)


TRANSFORMS = {
    "grad": grad,
    "jvp": jvp,
    "vjp": vjp,
    "hvp": hvp,
    "jacobian": jacobian,
    "hessian": hessian,
    "jacobian_det": jacobian_det,
    "jacobian_slogdet": jacobian_slogdet,
    "structured_jacobian": lambda program: structured_jacobian(program)[0],
    "vmap": lambda program: vmap(program, (0,), 3),
    "vmap of grad": lambda program: vmap(grad(program), (0,), 3),
    "jvp of vjp": lambda program: jvp(vjp(program)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("family", [chain, wide])
def test_twice_the_equations_give_twice_the_equations(family, name):
    transform = TRANSFORMS[name]
    with shallow():
        one, two = [transform(family(count)) for count in (MODEST // 2, MODEST)]
    check_program(two)
    assert len(two.equations) <= 2.05 * len(one.equations) + 10
    assert len(two.equations) <= 30 * MODEST


@pytest.mark.parametrize("name", TRANSFORMS)
def test_more_paths_than_can_be_counted(name):
    transform = TRANSFORMS[name]
    with shallow():
        half, whole = [transform(paths(count)) for count in (30, 60)]
    check_program(whole)
    assert len(whole.equations) <= 2.05 * len(half.equations) + 10


def test_derivatives_over_2_to_the_60_paths_are_exact():
    count, x = 60, -0.4
    value, slope, curve = x, 1.0, 0.0
    for _ in range(count):
        value, slope, curve = value * value + value, (2 * value + 1) * slope, (2 * value + 1) * curve + 2 * slope * slope
    program = paths(count)
    assert len(program.equations) == 2 * count
    assert interpret(program, [x]) == [value]
    for derived in (grad(program), jacobian(program)):
        np.testing.assert_allclose(interpret(derived, [x])[0], slope, rtol=1e-13)
    np.testing.assert_allclose(interpret(jvp(program), [x, 2.0])[0], 2 * slope, rtol=1e-13)
    np.testing.assert_allclose(interpret(hessian(program), [x])[0], curve, rtol=1e-12)
    np.testing.assert_allclose(interpret(hvp(program), [x, 2.0])[0], 2 * curve, rtol=1e-12)
    executable = compile(program, [Output(), Output((Transform("grad"),)), Output((Transform("hessian"),))])
    (found,), (first,), (second,) = executable.run([np.array(x)], [[], [], []])
    np.testing.assert_allclose([found, first, second], [value, slope, curve], rtol=1e-12)


def test_a_deep_program_is_inlined_into_another(deep):
    with shallow():
        builder = Builder()
        x = builder.input(TensorType(Dtype.FLOAT64, ()))
        first = builder.inline(deep, [x])
        again = builder.inline(deep, [x])
    assert len(builder.equations) == DEEP
    assert first[0].operand is again[0].operand
