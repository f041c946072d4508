"""Safe zeros: the partials of a branch that `where` did not take are 0, even where they are infinite or NaN.

`where(x > 0, sqrt(x), 0)` at 0 has the derivative 0, though that of sqrt is inf there, and a cotangent 0 times inf is NaN. No
global rule says that 0 times inf is 0. Instead each tangent gets its demand, the mask of the elements that anything takes,
and a residual that multiplies or divides it is masked by that: `where(demand, partial, 0)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops._declare import convert
from gradwire_core.ops.elementwise import greater, logical_and, logical_not, logical_or, where
from gradwire_core.ops.shaping import broadcast_to
from gradwire_core.program import Equation, Linear, Operand, Primitive
from gradwire_core.transforms.dependence import linear_equations
from gradwire_core.types import Dtype

# What a residual becomes where it is not demanded, by the primitive and the position of the tangent.
NEUTRAL = {("multiply", 0): 0.0, ("multiply", 1): 0.0, ("divide", 0): 1.0}


def mask_residuals(
    builder: Builder, equations: Sequence[Equation], tangents: Sequence[Value], outputs: Sequence[Value | None]
) -> tuple[list[Equation], list[Value | None]]:
    """Return linear equations whose residuals are masked where nothing takes them, and their outputs.

    Args:
        builder: where the equations are; masked ones are added.
        equations: equations linear in the tangents, in order.
        tangents: what they are linear in.
        outputs: the results that are asked for; None for zero.
    """
    if not any(equation.primitive.name == "where" for equation in equations):
        return list(equations), list(outputs)
    masks = _demands(builder, equations, tangents, outputs)
    if not masks:
        return list(equations), list(outputs)
    known: dict[Operand, Value] = {value.operand: value for value in tangents}
    for equation in equations:
        operands = [known.get(operand, Value(builder, operand)) for operand in equation.operands]
        mask = masks.get(equation.results[0])
        if mask is not None:
            operands = _masked(equation.primitive, operands, [operand in known for operand in equation.operands], mask)
        known.update(zip(equation.results, builder.emit(equation.primitive, operands, equation.params), strict=True))
    found = [None if value is None else known.get(value.operand, value) for value in outputs]
    return linear_equations(builder, tangents, found), found


def _masked(primitive: Primitive, operands: Sequence[Value], is_linear: Sequence[bool], mask: Value) -> list[Value]:
    """Return the operands of a call, with a residual masked."""
    for position, flag in enumerate(is_linear):
        neutral = NEUTRAL.get((primitive.name, position)) if flag else None
        if neutral is not None:
            residual = 1 - position
            return [where(mask, item, neutral) if index == residual else item for index, item in enumerate(operands)]
    return list(operands)


# -- demand --------------------------------------------------------------------------------------------------------------------

EVERYTHING = None
"""The demand of what is taken whole, or by an operation that demand is not followed through."""


def _demands(
    builder: Builder, equations: Sequence[Equation], tangents: Sequence[Value], outputs: Sequence[Value | None]
) -> dict[Operand, Value]:
    """Return the mask of the elements of each linear value that are taken, for those of which not all are."""
    linear: set[Operand] = {value.operand for value in tangents}
    linear.update(var for equation in equations for var in equation.results)
    demands: dict[Operand, Value | None] = {value.operand: EVERYTHING for value in outputs if value is not None}
    for equation in reversed(equations):
        taken = [demands[result] for result in equation.results if result in demands]
        if not taken:
            continue
        demand = taken[0] if len(equation.results) == 1 else EVERYTHING
        for position, operand in enumerate(equation.operands):
            if operand in linear:
                own = _operand_demand(builder, equation, position, demand)
                demands[operand] = _union(demands[operand], own) if operand in demands else own
    return {operand: demand for operand, demand in demands.items() if demand is not None}


def _union(one: Value | None, other: Value | None) -> Value | None:
    if one is None or other is None:
        return EVERYTHING
    if one.operand is other.operand:
        return one
    both: Value = logical_or(one, other)
    return both


def _operand_demand(builder: Builder, equation: Equation, position: int, demand: Value | None) -> Value | None:
    """Return which elements of an operand are taken, when those of the result are."""
    name = equation.primitive.name
    if name == "where":
        condition = Value(builder, equation.operands[0])
        own = condition if position == 1 else logical_not(condition)
        return own if demand is None else logical_and(own, demand)
    if demand is None:
        return EVERYTHING
    if equation.primitive.is_elementwise or name == "convert":
        return demand
    return _pulled_back(builder, equation, position, demand) if name in COUNTING else EVERYTHING


# Linear primitives that move, repeat and add elements, or multiply them: their transpose counts in how many demanded results an
# element takes part, when residuals are taken as 1.
COUNTING = frozenset({
    "broadcast_to", "concatenate", "cumsum", "diagonal", "einsum", "embed", "flip", "pad", "reshape", "scatter_add", "slice", "sum",
    "take", "transpose",
})  # fmt: skip


def _pulled_back(builder: Builder, equation: Equation, position: int, demand: Value) -> Value:
    derivative = equation.primitive.derivative(position)
    assert isinstance(derivative, Linear)
    one = builder.literal(np.ones(()))
    operands: list[Any] = []
    for index, item in enumerate(equation.operands):
        type = item.type.with_dtype(Dtype.FLOAT64)
        is_linear = index == position or derivative.joint
        operands.append(
            type if is_linear else broadcast_to(one, type.shape) if item.type.dtype.is_inexact else Value(builder, item)
        )
    counts = derivative.transpose(convert(demand, Dtype.FLOAT64), *operands, **equation.params)
    value: Value = greater(counts, 0.0)
    return value
