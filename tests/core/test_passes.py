"""The passes: each rule fires, keeps every bit, and leaves a program that the checker takes."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_core.builder import Builder, Value
from gradwire_core.check import check_program
from gradwire_core.executor import Executor
from gradwire_core.interpreter import interpret
from gradwire_core.ops import PRIMITIVES
from gradwire_core.ops.zeros import zeros_outside
from gradwire_core.passes import PIPELINE, fold_constants, prune, run_passes, simplify
from gradwire_core.passes.constants import MOST_ELEMENTS
from gradwire_core.passes.rules import RULES
from gradwire_core.planner import plan
from gradwire_core.program import Equation, Literal, Program, Var
from gradwire_core.types import Dtype, TensorType

HARD = np.array([[0.0, -0.0, np.inf], [-np.inf, np.nan, -np.nan], [5e-324, -5e-324, 1.5]])


def trace(function) -> Program:
    builder = Builder()
    found = function(builder.input(TensorType(Dtype.FLOAT64, HARD.shape)))
    return builder.build(found if isinstance(found, tuple) else (found,))


def emit(name: str, *operands: Value, **params) -> Value:
    return operands[0].builder.emit(PRIMITIVES[name], operands, params)[0]


def ones(x: Value) -> Value:
    return emit("broadcast_to", x.builder.literal(np.float64(1)), shape=x.shape)


# Each row: what is written, and how many equations are left.
REWRITES = {
    "transpose twice": (lambda x: x.T.T, 0),
    "transpose, composed": (lambda x: np.transpose(np.transpose(np.reshape(x, (3, 1, 3)), (1, 2, 0)), (1, 2, 0)), 2),
    "transpose, identity": (lambda x: emit("transpose", x, axes=(0, 1)), 0),
    "reshape twice": (lambda x: np.reshape(np.reshape(x, (9,)), (1, 9)), 1),
    "reshape and back": (lambda x: np.reshape(np.reshape(np.reshape(x, (9,)), (1, 9)), (3, 3)), 0),
    "reshape, identity": (lambda x: emit("reshape", x, shape=(3, 3)), 0),
    "broadcast twice": (lambda x: np.broadcast_to(np.broadcast_to(x, (2, 3, 3)), (5, 2, 3, 3)), 1),
    "broadcast, identity": (lambda x: emit("broadcast_to", x, shape=(3, 3)), 0),
    "convert, identity": (lambda x: emit("convert", x, dtype=Dtype.FLOAT64), 0),
    "negative twice": (lambda x: np.negative(-x), 0),
    "negative three times": (lambda x: np.negative(np.negative(-x)), 1),
    "times one": (lambda x: emit("multiply", x, ones(x)), 0),
    "one times": (lambda x: emit("multiply", ones(x), x), 0),
    "times ones": (lambda x: x * np.ones(3), 0),
    "over one": (lambda x: x / 1.0, 0),
    "one over": (lambda x: 1.0 / x, 2),
    "plus zero": (lambda x: x + 0.0, 2),
    "equal after a rewrite": (lambda x: np.sin(x.T.T) + np.sin(x), 2),
    "zeros declared twice": (lambda x: zeros_outside(zeros_outside(x, HARD != 0), HARD != 0), 1),
    "other zeros": (lambda x: zeros_outside(zeros_outside(x, HARD != 0), True), 2),
    "two outputs": (lambda x: (x.T.T, x, np.negative(-x).T), 1),
}  # fmt: skip


def bits(program: Program, *arrays: np.ndarray) -> list[bytes]:
    return [array.tobytes() for array in Executor(plan(program))(*arrays)]


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_shortens_and_keeps_every_bit(name: str) -> None:
    function, count = REWRITES[name]
    program = trace(function)
    after = run_passes(program)
    check_program(after)
    assert len(after.equations) == count
    assert bits(after, HARD) == bits(program, HARD)


def test_every_rule_is_tried() -> None:
    fired = set()
    for function, count in REWRITES.values():
        program = trace(function)
        if count < len(program.equations):
            fired |= {equation.primitive.name for equation in program.equations}
    assert set(RULES) <= fired


@pytest.mark.parametrize("dtype", [Dtype.COMPLEX128, Dtype.INT64])
def test_a_product_with_one_stays_where_it_is_not_exact_or_not_float(dtype: Dtype) -> None:
    builder = Builder()
    x = builder.input(TensorType(dtype, (3,)))
    program = builder.build([x * builder.literal(np.ones(3, dtype.numpy))])
    assert len(run_passes(program).equations) == 1


@pytest.mark.parametrize("one", PIPELINE)
def test_a_pass_that_finds_nothing_returns_the_program_itself(one) -> None:
    program = trace(lambda x: np.sin(x) @ x)
    assert one(program) is program


def test_prune_keeps_an_equation_of_which_one_result_is_needed() -> None:
    x = Var(TensorType(Dtype.FLOAT64, (3, 3)))
    number = TensorType(Dtype.FLOAT64, ())
    sign, log = Var(number), Var(number)
    dead = Var(x.type)
    sine, slogdet = PRIMITIVES["sin"], PRIMITIVES["slogdet"]
    program = Program((x,), (Equation(slogdet, (x,), {}, (sign, log)), Equation(sine, (x,), {}, (dead,))), (log,))
    after = prune(program)
    assert [equation.primitive for equation in after.equations] == [slogdet]
    assert after.inputs == (x,)


def test_a_pass_folds_what_became_constant() -> None:
    def function(x: Value) -> Value:
        large = x.builder.literal(np.ones((3, 3)))
        return x * emit("transpose", emit("transpose", large, axes=(1, 0)), axes=(1, 0))

    assert len(simplify(trace(function)).equations) == 0


def test_contractions_share_what_they_have_in_common() -> None:
    builder = Builder()
    x, y, z = [builder.input(TensorType(Dtype.FLOAT64, (40, length))) for length in (5, 6, 3)]
    outputs = [np.einsum("sa,sb,sc->abc", x, y, z), np.einsum("sc,sb,sa->bca", z, y, x), np.einsum("sb,sa,sc->cba", y, x, z)]
    after = run_passes(builder.build(outputs))
    check_program(after)
    assert [equation.primitive.name for equation in after.equations] == ["einsum", "einsum", "transpose", "transpose", "transpose"]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=var.type.shape) for var in after.inputs]
    for found, axes in zip(Executor(plan(after))(*arrays), ("abc", "bca", "cba"), strict=True):
        np.testing.assert_allclose(found, np.einsum(f"sa,sb,sc->{axes}", *arrays), rtol=1e-12, atol=1e-12)


def test_contractions_absorb_transposes() -> None:
    after = run_passes(trace(lambda x: np.sin((x.T @ x.T[::-1].T).T)))
    assert [equation.primitive.name for equation in after.equations] == ["transpose", "flip", "einsum", "sin"]


def test_a_transpose_beside_other_uses_of_a_contraction_stays() -> None:
    def function(x: Value) -> tuple[Value, ...]:
        product = x.T @ x[::-1]
        return product, product.T

    names = [equation.primitive.name for equation in run_passes(trace(function)).equations]
    assert names == ["flip", "einsum", "transpose"]


def test_a_contraction_of_many_becomes_pairs() -> None:
    program = trace(lambda x: np.einsum("ij,jk,kl,lm->im", x, x, x, x))
    after = run_passes(program)
    check_program(after)
    assert [len(equation.operands) for equation in after.equations] == [2, 2]
    x = np.random.default_rng(0).normal(size=HARD.shape)
    np.testing.assert_allclose(Executor(plan(after))(x)[0], np.linalg.matrix_power(x, 4), rtol=1e-12)


# Each row: what is written, and the names of the equations that the pass leaves.
CONSTANTS = {
    "eye": (lambda x: emit("multiply", x, emit_eye(x)), ["multiply"]),
    "a chain": (lambda x: emit("multiply", x, np.flip(np.cumsum(emit_eye(x), 0), 1)), ["multiply"]),
    "as output": (lambda x: np.flip(emit_eye(x), 0), []),
    "a broadcast that is read": (lambda x: emit("multiply", x, ones(x)), ["broadcast_to", "multiply"]),
    "a broadcast that is made": (lambda x: x @ ones(x), ["einsum"]),
    "a broadcast as output": (ones, []),
    "without elements": (lambda x: np.sin(x[:0]) * x[:0], []),
    "too large": (lambda x: np.sum(x) * emit_eye(x, 40), ["sum", "eye", "broadcast_to", "multiply"]),
    "of an input": (lambda x: np.cumsum(x, 0), ["cumsum"]),
}  # fmt: skip


def emit_eye(x: Value, rows: int = 3) -> Value:
    return x.builder.emit(PRIMITIVES["eye"], [], {"rows": rows, "columns": rows, "dtype": Dtype.FLOAT64})[0]


@pytest.mark.parametrize("name", CONSTANTS)
def test_small_constants_are_computed_once(name):
    function, names = CONSTANTS[name]
    program = trace(function)
    folded = fold_constants(program)
    check_program(folded)
    assert [equation.primitive.name for equation in folded.equations] == names
    with np.errstate(all="ignore"):
        (expected,), (found,) = interpret(program, [HARD]), interpret(folded, [HARD])
    assert np.asarray(found).tobytes() == np.ascontiguousarray(expected).tobytes()


def test_constants_of_a_program_are_bounded():
    builder = Builder()
    x = builder.input(TensorType(Dtype.FLOAT64, (32, 32)))
    values = [x + np.cumsum(builder.literal(np.full((32, 32), float(n))), 0)[::-1] * emit_eye(x, 32) for n in range(200)]
    folded = fold_constants(builder.build(values))
    literals = {operand for equation in folded.equations for operand in equation.operands if isinstance(operand, Literal)}
    added = [literal for literal in literals if np.count_nonzero(literal.value) <= 32]
    assert 0 < sum(literal.type.size for literal in added) <= MOST_ELEMENTS
    assert any(equation.primitive.name == "multiply" for equation in folded.equations)


def test_a_constant_that_its_kernel_refuses_is_left_to_run():
    places = Literal(np.array([7]))
    taken = Var(TensorType(Dtype.FLOAT64, (1,)))
    take = Equation(PRIMITIVES["take"], (Literal(np.ones(2)), places), {"axis": 0, "batch": 0}, (taken,))
    program = Program((), (take,), (taken,))
    assert fold_constants(program).equations == (take,)
