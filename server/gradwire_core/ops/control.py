"""Control flow as primitives: `cond`, `scan` and `custom` run sub-programs, which are params.

A sub-program takes everything by its inputs. Derivatives and batches of such a primitive are of it as a whole; they need the
transforms, and are entered in `RULES` by `gradwire_core.transforms.control`.

    cond[on_true, on_false](condition, x...)                        -> on_true(x...) or on_false(x...)
    scan[body, length, const_count, carry_count, is_reversed, is_checkpointed](constant..., carry..., x...)
        carry[0], y[0] = body(constant, carry, x[0]); carry[1], y[1] = body(constant, carry[0], x[1]); ... -> carry[-1]..., y...
    custom[body, tangent](x...)                                     -> body(x...), whose tangents are tangent(x..., t...)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, Value, check_operands
from gradwire_core.errors import DtypeError, ProgramError, ShapeError
from gradwire_core.interpreter import interpret
from gradwire_core.ops._declare import Sample, declare, draw
from gradwire_core.ops.elementwise import add, cos, multiply, sin
from gradwire_core.program import Param, Params, Primitive, Program, Whole
from gradwire_core.types import Array, Dtype, Shape, TensorType

Runner = Callable[..., Sequence[Array]]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a primitive with sub-programs: see `Whole` and `Primitive.batch`."""

    linearize: Callable[..., Any]
    transpose: Callable[..., Any]
    batch: Callable[..., Any]


RULES: dict[str, Rules] = {}


def _whole(name: str) -> Whole:
    def linearize(operands: Any, tangents: Any, params: Any) -> Any:
        return RULES[name].linearize(operands, tangents, params)

    def transpose(cotangents: Any, operands: Any, params: Any) -> Any:
        return RULES[name].transpose(cotangents, operands, params)

    return Whole(linearize, transpose)


def _batch(name: str) -> Callable[..., Any]:
    def batch(batched: Any, operands: Any, params: Any) -> Any:
        return RULES[name].batch(batched, operands, params)

    return batch


def lower(name: str, params: Params, compile: Callable[[Program], Any]) -> tuple[Runner, dict[str, Any]]:
    """Return the function that runs a primitive with sub-programs, and its keyword arguments.

    Args:
        name: the primitive.
        params: its params.
        compile: makes what runs a sub-program: a function of its inputs that returns its outputs.
    """
    given: dict[str, Any] = {key: compile(value) if isinstance(value, Program) else value for key, value in params.items()}
    if name == "cond":
        return run_cond, given
    if name == "custom":
        return run_custom, {"body": given["body"]}
    body, count = params["body"], params["carry_count"]
    assert isinstance(body, Program)
    assert isinstance(count, int)
    del given["is_checkpointed"]
    return run_scan, {**given, "stacked": tuple((type.shape, type.dtype.value) for type in body.output_types[count:])}


def _kernel(name: str) -> Runner:
    def kernel(*operands: Array, **params: Param) -> tuple[Array, ...]:
        function, given = lower(name, params, lambda program: lambda *arrays: interpret(program, arrays))
        return tuple(function(*operands, **given))

    return kernel


def _flops(program: Program) -> float:
    return sum(
        equation.primitive.flops(*[operand.type for operand in equation.operands], **equation.params)
        for equation in program.equations
    )


# -- cond --------------------------------------------------------------------------------------------------------------------


def run_cond(condition: Any, *operands: Any, on_true: Runner, on_false: Runner) -> tuple[Array, ...]:
    return tuple((on_true if condition else on_false)(*operands))


def _infer_cond(*given: TensorType, on_true: Program, on_false: Program) -> tuple[TensorType, ...]:
    if not given:
        raise ProgramError("cond: needed a condition, then operands, got none; pass it first")
    condition, *operands = given
    if condition != TensorType(Dtype.BOOL, ()):
        raise DtypeError(f"cond: needed a condition bool[], got {condition}; compare or reduce it", given=condition)
    for name, branch in (("on_true", on_true), ("on_false", on_false)):
        check_operands(branch.input_types, operands, f"cond {name} input")
    if on_true.output_types != on_false.output_types:
        one, other = [", ".join(map(str, branch.output_types)) for branch in (on_true, on_false)]
        raise ShapeError(
            f"cond: branches must have the same outputs, got ({one}) and ({other}); make them agree", on_true=one, on_false=other
        )
    return on_true.output_types


def _program(function: Callable[..., Sequence[Value]], *types: TensorType) -> Program:
    builder = Builder()
    return builder.build(function(*[builder.input(type) for type in types]))


_SCALAR, _VECTOR = TensorType(Dtype.FLOAT64, ()), TensorType(Dtype.FLOAT64, (3,))

cond_primitive = declare(
    Primitive(
        name="cond",
        kernel=_kernel("cond"),
        infer=_infer_cond,
        derivative=lambda position: _whole("cond"),
        batch=_batch("cond"),
        arity=None,
        params=("on_true", "on_false"),
        doc="The outputs of one of two sub-programs, of which only the chosen one runs.",
        samples=lambda rng: [
            Sample(
                (np.asarray(flag), draw(rng, 3), draw(rng, 3)),
                {
                    "on_true": _program(lambda x, y: [multiply(sin(x), y), y], _VECTOR, _VECTOR),
                    "on_false": _program(lambda x, y: [add(x, y), cos(x)], _VECTOR, _VECTOR),
                },
            )
            for flag in (True, False)
        ],
        flops=lambda *operands, on_true, on_false: max(_flops(on_true), _flops(on_false)),
    )
)


# -- scan --------------------------------------------------------------------------------------------------------------------


def run_scan(
    *operands: Any,
    body: Runner,
    length: int,
    const_count: int,
    carry_count: int,
    is_reversed: bool,
    stacked: tuple[tuple[Shape, str], ...],
) -> tuple[Array, ...]:
    first = const_count + carry_count
    constants, carry, xs = operands[:const_count], operands[const_count:first], operands[first:]
    ys = tuple(np.empty((length, *shape), dtype) for shape, dtype in stacked)
    for index in range(length)[::-1] if is_reversed else range(length):
        found = tuple(body(*constants, *carry, *[x[index] for x in xs]))
        carry = found[:carry_count]
        for y, part in zip(ys, found[carry_count:], strict=True):
            y[index] = part
    return (*carry, *ys)


def _infer_scan(
    *operands: TensorType, body: Program, length: int, const_count: int, carry_count: int, is_reversed: bool, is_checkpointed: bool
) -> tuple[TensorType, ...]:
    first = const_count + carry_count
    if length < 0 or const_count < 0 or carry_count < 0 or first > len(operands) or len(body.outputs) < carry_count:
        given = f"length {length}, {const_count} constants, {carry_count} carries, {len(operands)} operands"
        raise ProgramError(
            f"scan: needed non-negative counts within the operands and outputs, got {given}; correct them", given=given
        )
    for number, x in enumerate(operands[first:]):
        if not x.shape or x.shape[0] != length:
            raise ShapeError(
                f"scan: needed {length} elements along axis 0 of x {number}, got {x}; make them agree", needed=length, given=x
            )
    elements = [*operands[:first], *[x.with_shape(x.shape[1:]) for x in operands[first:]]]
    check_operands(body.input_types, elements, "scan body input")
    carries = operands[const_count:first]
    check_operands(carries, body.output_types[:carry_count], "scan carry")
    return (*carries, *[type.with_shape((length, *type.shape)) for type in body.output_types[carry_count:]])


def _scan_samples(rng: np.random.Generator) -> list[Sample]:
    body = _program(lambda a, c, x: [sin(multiply(a, add(c, x))), multiply(c, x)], _VECTOR, _VECTOR, _VECTOR)
    total = _program(lambda c, x: [add(c, x)], _SCALAR, _SCALAR)
    return [
        Sample(
            (draw(rng, 3), draw(rng, 3), draw(rng, 4, 3)),
            {"body": body, "length": 4, "const_count": 1, "carry_count": 1, "is_reversed": flag, "is_checkpointed": flag},
        )
        for flag in (False, True)
    ] + [
        Sample(
            (draw(rng), draw(rng, 3)),
            {"body": total, "length": 3, "const_count": 0, "carry_count": 1, "is_reversed": False, "is_checkpointed": False},
        )
    ]


scan_primitive = declare(
    Primitive(
        name="scan",
        kernel=_kernel("scan"),
        infer=_infer_scan,
        derivative=lambda position: _whole("scan"),
        batch=_batch("scan"),
        arity=None,
        params=("body", "length", "const_count", "carry_count", "is_reversed", "is_checkpointed"),
        doc="A sub-program run along axis 0, each time on the carry it left: the last carry, and its other outputs stacked.",
        samples=_scan_samples,
        flops=lambda *operands, body, length, **params: length * _flops(body),
    )
)


# -- custom ------------------------------------------------------------------------------------------------------------------


def run_custom(*operands: Any, body: Runner) -> tuple[Array, ...]:
    return tuple(body(*operands))


def _infer_custom(*operands: TensorType, body: Program, tangent: Program) -> tuple[TensorType, ...]:
    check_operands(body.input_types, operands, "custom input")
    inexact = [item for item in operands if item.dtype.is_inexact]
    check_operands(tangent.input_types, [*operands, *inexact], "custom tangent input")
    check_operands([item for item in body.output_types if item.dtype.is_inexact], tangent.output_types, "custom tangent output")
    return body.output_types


custom_primitive = declare(
    Primitive(
        name="custom",
        kernel=_kernel("custom"),
        infer=_infer_custom,
        derivative=lambda position: _whole("custom"),
        batch=_batch("custom"),
        arity=None,
        params=("body", "tangent"),
        doc="A sub-program whose tangents are given by another, linear in the tangents of its floating operands, which stand last.",
        samples=lambda rng: [
            Sample(
                (draw(rng, 3),),
                {
                    "body": _program(lambda x: [sin(x)], _VECTOR),
                    "tangent": _program(lambda x, t: [multiply(cos(x), t)], _VECTOR, _VECTOR),
                },
            )
        ],
        flops=lambda *operands, body, tangent: _flops(body),
    )
)
