"""The type checker: every way to break a program is refused by an error of ours, and what is accepted computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gradwire_core.check import check_program
from gradwire_core.errors import DtypeError, GradwireError, NotDifferentiableError, ProgramError, ShapeError
from gradwire_core.ops import PRIMITIVES, find_primitive
from gradwire_core.program import Equation, Literal, Primitive, Program, Var
from gradwire_core.testing import interpret
from gradwire_core.transforms import jvp, vjp, vmap
from gradwire_core.types import Dtype, TensorType

VECTOR, SCALAR = TensorType(Dtype.FLOAT64, (3,)), TensorType(Dtype.FLOAT64, ())


def equation(name: str, operands, results, **params) -> Equation:
    return Equation(find_primitive(name), tuple(operands), params, tuple(results))


# -- the grammar -------------------------------------------------------------------------------------------------------------


def test_a_sound_program_passes():
    x, y, total = Var(VECTOR), Var(VECTOR), Var(SCALAR)
    equations = (equation("sin", [x], [y]), equation("sum", [y], [total], axes=(0,)))
    check_program(Program((x,), equations, (total, y, x, Literal(np.ones(2)))))


def broken() -> dict[str, tuple[Program, type[GradwireError], str]]:
    x, y, z = Var(VECTOR), Var(VECTOR), Var(VECTOR)
    sine, cosine = equation("sin", [x], [y]), equation("cos", [x], [y])
    wrong = Var(SCALAR)
    return {
        "an input twice": (Program((x, x), (), (x,)), ProgramError, "inputs: needed values not assigned before"),
        "a result twice": (Program((x,), (sine, cosine), (y,)), ProgramError, "equation 1: needed values not assigned before"),
        "a result that is an input": (Program((x,), (equation("sin", [x], [x]),), (x,)), ProgramError, "equation 0: needed"),
        "one equation twice": (Program((x,), (sine, sine), (y,)), ProgramError, "equation 1: needed values not assigned"),
        "an operand assigned later": (
            Program((x,), (equation("sin", [y], [z]), sine), (z,)),
            ProgramError,
            r"equation 0 \(sin\): needed values assigned before their use",
        ),
        "an operand of its own": (Program((x,), (equation("sin", [y], [y]),), (y,)), ProgramError, r"equation 0 \(sin\): needed"),
        "an unknown output": (Program((x,), (), (y,)), ProgramError, "outputs: needed values assigned before their use"),
        "too few operands": (Program((x,), (equation("add", [x], [y]),), (y,)), ProgramError, "needed 2 operands, got 1"),
        "too many operands": (Program((x,), (equation("sin", [x, x], [y]),), (y,)), ProgramError, "needed 1 operands, got 2"),
        "a param missing": (Program((x,), (equation("sum", [x], [y]),), (y,)), ProgramError, "needed params axes, got none"),
        "a param too many": (
            Program((x,), (equation("sin", [x], [y], axes=(0,)),), (y,)),
            ProgramError,
            "needed params none, got axes",
        ),
        "a wrong result": (
            Program((x,), (equation("sin", [x], [wrong]),), (wrong,)),
            ProgramError,
            r"equation 0 \(sin\): needed results of type float64\[3\], got float64\[\]",
        ),
        "too many results": (Program((x,), (equation("sin", [x], [y, z]),), (y,)), ProgramError, "needed results of type"),
        "a shape": (
            Program((x,), (equation("add", [x, Literal(np.ones(4))], [y]),), (y,)),
            ShapeError,
            "operands must have one shape",
        ),
        "a dtype": (
            Program((x,), (equation("add", [x, Literal(np.ones(3, np.int32))], [y]),), (y,)),
            DtypeError,
            "add: needed operands",
        ),
    }


@pytest.mark.parametrize("name", broken())
def test_a_broken_program_is_refused(name):
    program, kind, text = broken()[name]
    with pytest.raises(kind, match=text) as caught:
        check_program(program)
    assert type(caught.value) is kind


def test_a_sub_program_is_checked_too():
    inner = Program((), (), (Var(SCALAR),))
    x, y = Var(VECTOR), Var(VECTOR)
    with pytest.raises(ProgramError, match="outputs: needed values assigned"):
        check_program(Program((x,), (Equation(primitive_with_a_program(), (x,), {"body": inner}, (y,)),), (y,)))


def primitive_with_a_program() -> Primitive:
    sine = find_primitive("sin")
    return Primitive(
        name="wrapped", kernel=sine.kernel, infer=lambda x, *, body: (x,), derivative=sine.derivative, batch=sine.batch, arity=1,
        params=("body",), doc="", samples=sine.samples, flops=sine.flops,
    )  # fmt: skip


# -- what clients may send ---------------------------------------------------------------------------------------------------
# Params come from the wire: of the right kind (the codec sees to that), and otherwise anything.

MOST_ELEMENTS = 10_000


def mutated_params(params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, value in params.items():
        for other in mutations(value):
            yield {**params, name: other}


def mutations(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (-(2**63), -1, 0, 1, 2, 7, 2**40, 2**63 - 1)
    elif isinstance(value, float):
        yield from (0.0, -1.0, float("nan"), float("inf"))
    elif isinstance(value, str):
        yield from (
            "",
            "->",
            ",",
            "i",
            "i->",
            "->i",
            "ij,jk->ik",
            "i,i,i->i",
            "ii->i",
            "i->ii",
            "i->j",
            "1->1",
            "i" * 100,
            "é->é",
            value * 2,
        )
        yield from (value[:-1], value[1:], value.replace("i", "j"), "left", "right", "lower")
    elif isinstance(value, Dtype):
        yield from Dtype
    elif isinstance(value, tuple):
        yield from ((), value[:-1], value[1:], value[::-1], value * 2, (*value, 0), (*value, 1), (0, *value))
        for place, item in enumerate(value):
            for other in mutations(item):
                yield (*value[:place], other, *value[place + 1 :])


def mutated_types(types: tuple[TensorType, ...]) -> Iterator[tuple[TensorType, ...]]:
    for place, type in enumerate(types):
        shapes = [type.shape[1:], type.shape[:-1], (1, *type.shape), (*type.shape, 2), type.shape[::-1], (), (0,), (1, 1, 1, 1)]
        for axis, length in enumerate(type.shape):
            shapes += [(*type.shape[:axis], other, *type.shape[axis + 1 :]) for other in (0, 1, length + 1)]
        others = [type.with_shape(shape) for shape in shapes] + [type.with_dtype(dtype) for dtype in Dtype]
        for other in others:
            yield (*types[:place], other, *types[place + 1 :])
    yield types[:-1]
    yield (*types, *types[:1])
    yield tuple(type.with_dtype(Dtype.FLOAT32) for type in types)


def calls(primitive: Primitive) -> Iterator[tuple[tuple[TensorType, ...], dict[str, Any]]]:
    for sample in primitive.samples(np.random.default_rng(0)):
        types, params = tuple(map(TensorType.of, sample.operands)), dict(sample.params)
        for others in mutated_params(params):
            yield types, others
        for other_types in mutated_types(types):
            yield other_types, params


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
def test_a_call_is_refused_by_an_error_of_ours_or_computes_what_was_inferred(name):
    primitive = PRIMITIVES[name]
    accepted = 0
    for types, params in calls(primitive):
        inputs = tuple(map(Var, types))
        try:
            inferred = primitive.infer(*types, **params) if primitive.arity in (None, len(types)) else None
        except GradwireError as error:
            assert error.metadata or error.message  # noqa: PT017  # any error of ours will do
            continue
        if inferred is None:
            continue
        results = tuple(map(Var, inferred))
        program = Program(inputs, (Equation(primitive, inputs, params, results),), results)
        check_program(program)
        assert 0 <= primitive.flops(*types, **params) < np.inf, (types, params)
        if sum(type.size for type in (*types, *inferred)) > MOST_ELEMENTS:
            continue
        accepted += 1
        arrays = [np.ones(type.shape, type.dtype.numpy) * (0 if type.dtype in (Dtype.INT64, Dtype.INT32) else 1) for type in types]
        with contextlib.suppress(IndexError):  # an index into nothing
            interpret(program, arrays)
        if accepted % 4 == 0:
            with contextlib.suppress(NotDifferentiableError):
                transformed(program, types)
    assert accepted or primitive.arity == 0


def transformed(program: Program, types: tuple[TensorType, ...]) -> None:
    """What is accepted can be differentiated and batched."""
    if types:
        check_program(vmap(program, (0,) * len(types), 2))
    argnums = [index for index, type in enumerate(types) if type.dtype.is_inexact]
    if argnums and all(type.dtype.is_inexact for type in program.output_types):
        check_program(jvp(program, argnums))
        check_program(vjp(program, argnums))
