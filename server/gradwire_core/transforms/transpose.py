"""Transposition: linear equations run backwards, from cotangents of results to cotangents of operands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradwire_core.builder import Builder, Value
from gradwire_core.errors import InternalError
from gradwire_core.ops.elementwise import add
from gradwire_core.program import Equation, Linear, Operand, Whole


def transpose(
    builder: Builder, equations: Sequence[Equation], inputs: Sequence[Value], cotangents: Iterable[tuple[Value | None, Value]]
) -> list[Value | None]:
    """Add the transposed equations and return the cotangent of each input, None for zero.

    With `y = A x` for the equations together, this computes `A^T ct`; the cotangents of a value that is used several times are
    summed over its uses.

    Args:
        builder: where the equations are added.
        equations: linear equations, in order.
        inputs: what they are linear in.
        cotangents: pairs of a result, None where it is zero, and its cotangent.
    """
    linear: set[Operand] = {value.operand for value in inputs}
    linear.update(var for equation in equations for var in equation.results)
    found: dict[Operand, Value] = {}

    def accumulate(operand: Operand, part: Value) -> None:
        known = found.get(operand)
        found[operand] = part if known is None else add(known, part)

    for result, cotangent in cotangents:
        if result is not None:
            accumulate(result.operand, cotangent)
    for equation in reversed(equations):
        given = [found.get(result) for result in equation.results]
        if all(item is None for item in given):
            continue
        operands = [operand.type if operand in linear else Value(builder, operand) for operand in equation.operands]
        first = equation.primitive.derivative(0)
        if isinstance(first, Whole):
            parts = first.transpose(given, operands, equation.params)
        else:
            parts = [
                _transpose_one(equation, place, given[0], operands) if item in linear else None
                for place, item in enumerate(equation.operands)
            ]
        for operand, part in zip(equation.operands, parts, strict=True):
            if operand in linear and part is not None:
                accumulate(operand, part)
    return [found.get(value.operand) for value in inputs]


def _transpose_one(equation: Equation, position: int, cotangent: Value | None, operands: Sequence[object]) -> Value:
    derivative = equation.primitive.derivative(position)
    if not isinstance(derivative, Linear):
        name = equation.primitive.name
        raise InternalError(f"transpose: needed an equation linear in operand {position}, got {name}; report its derivative rule")
    value: Value = derivative.transpose(cotangent, *operands, **equation.params)
    return value
