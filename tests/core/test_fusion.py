"""Clusters for compiled loops: which equations become one, and that programs stay the same. Python runs the loops here."""

from __future__ import annotations

import numpy as np
import pytest

import gradwire as gw
from gradwire_core.check import check_program
from gradwire_core.engine import Output, compile
from gradwire_core.errors import ArgumentError
from gradwire_core.executor import Executor, _Kernels, _watch
from gradwire_core.kernels import fusion
from gradwire_core.kernels.cluster import CLUSTER
from gradwire_core.kernels.fusion import fuse, plan_fused
from gradwire_core.native.loops import Loops
from gradwire_core.native.nest import Nest
from gradwire_core.planner import Plan, plan
from gradwire_core.program import Program
from gradwire_core.transforms import Transform
from tests.core.loops_in_python import run_in_python
from tests.core.test_executor import draw, floats, interpret, random_program, trace
from tests.core.work import calls_of

RNG = np.random.default_rng(5)


@pytest.fixture
def is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make clusters of small arrays, whatever they gain."""
    monkeypatch.setattr(fusion, "LEAST_ELEMENTS", 2)
    monkeypatch.setattr(fusion, "_GAIN", np.inf)


def run_fused(program: Program, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Run a program equation by equation, clusters by their loops, or by their body where these leave it to others."""
    known = dict(zip(program.inputs, arrays, strict=True))
    with np.errstate(all="ignore"):
        for equation in program.equations:
            operands = [np.asarray(known.get(item, getattr(item, "value", None))) for item in equation.operands]
            found = None
            if equation.primitive is CLUSTER:
                found = Loops(equation.params["body"], run_in_python, equation.params["layouts"])(*operands)
            if found is None:
                found = equation.primitive.kernel(*operands, **equation.params)
            known.update(zip(equation.results, found if isinstance(found, (tuple, list)) else (found,), strict=True))
    return [np.asarray(known.get(item, getattr(item, "value", None))) for item in program.outputs]


def layouts_of(program: Program, arrays):
    return _watch(plan(program), _Kernels(), None, *arrays)[1]


def gradient(function, *arrays) -> Plan:
    return compile(gw.trace(function, *arrays), [Output((Transform("grad", (0,)),))]).plan


def bodies(program: Program) -> list[Program]:
    return [equation.params["body"] for equation in program.equations if equation.primitive is CLUSTER]


def names(program: Program) -> list[str]:
    return [equation.primitive.name for equation in program.equations]


@pytest.mark.usefixtures("is_small")
@pytest.mark.parametrize("seed", range(80))
def test_random_programs_stay_the_same(seed: int) -> None:
    program = random_program(seed, 40)
    rng = np.random.default_rng(seed)
    arrays = [draw(type, rng, special=bool(seed % 2)) for type in program.input_types]
    fused = fuse(program, layouts_of(program, arrays))
    for body in bodies(fused):
        check_program(body)
    for one, other in zip(run_fused(fused, arrays), interpret(program, arrays), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-11)


@pytest.mark.usefixtures("is_small")
def test_random_programs_have_clusters() -> None:
    found = [body for seed in range(20) for body in bodies(fuse(random_program(seed, 40), {}))]
    assert len(found) > 40
    assert {"broadcast_to", "slice", "reshape", "sum"} <= {equation.primitive.name for body in found for equation in body.equations}


def rosenbrock(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def test_a_gradient_of_slices_is_one_pass() -> None:
    x = RNG.normal(size=3000)
    found = gradient(rosenbrock, x)
    fused = fuse(found.program, {})
    assert names(fused) == ["cluster"]
    assert len(Nest(bodies(fused)[0]).regions) == 3
    np.testing.assert_allclose(run_fused(fused, [x])[0], interpret(found.program, [x])[0], rtol=1e-13)


@pytest.mark.parametrize(("shape", "scratch_bytes"), [((3000, 2000), 3000 * 8), ((3000, 100), 0)])
def test_what_compensates_sums_counts_as_memory(shape: tuple[int, int], scratch_bytes: int) -> None:
    fused = fuse(gw.trace(lambda x: np.sum(np.exp(x) * x, axis=1), np.ones(shape)), {})
    (cluster,) = [equation for equation in fused.equations if equation.primitive is CLUSTER]
    assert cluster.params["scratch_bytes"] == scratch_bytes
    assert plan(fused).peak_bytes == 8 * (shape[0] * shape[1] + shape[0]) + scratch_bytes


@pytest.mark.usefixtures("is_small")
def test_what_is_dear_is_not_computed_again() -> None:
    def function(x):
        y = np.exp(x) * 2.0
        return y[1:] * y[:-1]

    fused = fuse(gw.trace(function, np.ones(3000)), {})
    assert [len(body.inputs) for body in bodies(fused)] == [1, 1]
    assert [sum(item.primitive.name == "exp" for item in body.equations) for body in bodies(fused)] == [1, 0]


@pytest.mark.usefixtures("is_small")
def test_rows_and_columns_are_read_where_they_are_needed() -> None:
    def softmax(x, bias):
        z = np.exp(x + bias - np.max(x, axis=1, keepdims=True))
        return z / np.sum(z, axis=1, keepdims=True)

    x, bias = RNG.normal(size=(30, 40)), RNG.normal(size=40)
    program = gw.trace(softmax, x, bias)
    fused = fuse(program, {})
    assert names(fused)[-2:] == ["cluster", "cluster"]
    np.testing.assert_allclose(run_fused(fused, [x, bias])[0], interpret(program, [x, bias])[0], rtol=1e-13)


def test_parts_that_are_padded_and_added_are_one_pass() -> None:
    def function(x):
        return np.sum(np.exp(x[:, :10]) * np.sin(x[:, 10:20]) + np.square(x[:, 20:]))

    x = RNG.normal(size=(50, 30))
    found = gradient(function, x)
    fused = fuse(found.program, {})
    assert names(fused) == ["cluster", "cluster"]
    np.testing.assert_allclose(run_fused(fused, [x])[0], interpret(found.program, [x])[0], rtol=1e-13)


def test_zeros_keep_their_signs_at_edges() -> None:
    def function(x):
        y = -x[1:]
        return np.pad(y, (0, 1)) + np.pad(y, (1, 0))

    x = np.zeros(200)
    program = gw.trace(function, x)
    fused = fuse(program, {})
    assert names(fused) == ["cluster"]
    np.testing.assert_array_equal(np.signbit(run_fused(fused, [x])[0]), np.signbit(interpret(program, [x])[0]))


@pytest.mark.usefixtures("is_small")
@pytest.mark.parametrize("transpose", [False, True])
def test_a_product_of_a_matrix_that_is_made_for_it_is_one_pass(*, transpose: bool) -> None:
    def function(w, mask, x):
        matrix = w * mask
        return np.tanh((matrix.T if transpose else matrix) @ x)

    w, mask = RNG.normal(size=(40, 60)), (RNG.random((40, 60)) > 0.5) * 1.0
    x = RNG.normal(size=40 if transpose else 60)
    program = compile(gw.trace(function, w, mask, x), [Output()]).program
    fused = fuse(program, {})
    assert names(fused)[0] == "cluster"
    assert "einsum" not in names(fused)
    np.testing.assert_allclose(run_fused(fused, [w, mask, x])[0], interpret(program, [w, mask, x])[0], rtol=1e-12)


def test_a_matrix_that_others_take_is_made() -> None:
    program = compile(
        gw.trace(lambda w, mask, x: (w * mask) @ ((w * mask) @ x), np.ones((50, 50)), np.ones((50, 50)), np.ones(50)), [Output()]
    )
    assert names(fuse(program.program, {})).count("einsum") == 2


@pytest.mark.usefixtures("is_small")
def test_declared_zeros_are_checked() -> None:
    mask = np.tri(30, dtype=np.bool_)
    program = gw.trace(lambda w, x: (gw.zeros_outside(w, mask) * 2.0) @ x, np.ones((30, 30)), np.ones(30))
    fused = fuse(program, {})
    assert names(fused) == ["cluster"]
    w, x = RNG.normal(size=(30, 30)) * mask, RNG.normal(size=30)
    np.testing.assert_allclose(run_fused(fused, [w, x])[0], 2.0 * w @ x, rtol=1e-12)
    w[0, 1] = 1.0
    with pytest.raises(ArgumentError, match="zeros_outside"):
        run_fused(fused, [w, x])


def test_the_order_in_memory_is_kept() -> None:
    def function(x, row):
        y = np.exp(x) * row
        return y + 1.0, np.sum(y, axis=2), np.sum(y, axis=(0, 1))

    x, row = np.asarray(RNG.normal(size=(40, 6, 5)).transpose(1, 0, 2)), RNG.normal(size=5)
    program = gw.trace(function, x, row)
    fused = fuse(program, layouts_of(program, [x, row]))
    assert names(fused) == ["cluster"]
    found = run_fused(fused, [x, row])
    assert found[0].transpose(1, 0, 2).flags.c_contiguous
    assert found[1].T.flags.c_contiguous
    for one, other in zip(found, interpret(program, [x, row]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


def test_where_nothing_is_gained_the_program_stays() -> None:
    for program in (gw.trace(lambda x: x + 1.0, np.ones(200)), gw.trace(lambda x: x @ x.T, np.ones((200, 200)))):
        assert fuse(program, {}) is program


def test_more_memory_than_was_promised_is_not_taken() -> None:
    def function(x):
        y = [np.exp(x) * float(number) for number in range(1, 9)]
        return sum(np.sum(item) * item[0] for item in y)

    found = compile(gw.trace(function, np.ones(200_000)), [Output()]).plan
    fused = plan_fused(found, {})
    assert fused is None or fused.peak_bytes <= found.peak_bytes * 1.02 + 2**19


def test_finding_clusters_is_linear() -> None:
    def layers(length: int) -> Program:
        def function(x):
            y = x
            for number in range(length // 4):
                y = np.pad((np.sin(y) * x + 1.0)[1:], (0, 1)) if number % 3 == 0 else np.cos(y * x)
            return y

        return trace(function, floats(300))

    short, long = [calls_of(lambda length=length: fuse(layers(length), {})) for length in (200, 2000)]
    assert long < 11 * short


def test_plans_of_programs_within_loops_stay_as_they_are() -> None:
    x = RNG.normal(size=300)
    program = gw.trace(lambda x: gw.fori_loop(0, 3, lambda i, c: np.sin(c) * 1.1, x), x)
    found = compile(program, [Output()])
    np.testing.assert_allclose(Executor(found.plan)(x)[0], interpret(program, [x])[0], rtol=1e-12)
