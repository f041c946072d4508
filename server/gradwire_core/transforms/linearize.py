"""Linearization: a program and its tangent, parted into what depends on the tangents and what does not.

Every derivative begins here. The equations that depend on tangents are linear in them; the others compute the primal and the
residuals. Zero tangents are None and cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.errors import ArgumentError, NotDifferentiableError
from gradwire_core.ops._declare import call, zeros_of
from gradwire_core.ops.elementwise import add
from gradwire_core.program import Equation, Linear, Operand, Param, Primitive, Program, Tangent, Whole
from gradwire_core.transforms.dependence import linear_equations
from gradwire_core.transforms.masking import mask_residuals
from gradwire_core.types import TensorType


@dataclass(frozen=True, slots=True, eq=False)
class Linearized:
    """A linearized program, in a builder.

    Attributes:
        builder: holds all equations; its inputs are those of the program.
        outputs: the primal outputs.
        tangents: the tangent of each chosen input, a free Value.
        equations: those that depend on tangents, linear in them, in order.
        tangent_outputs: the tangent of each output; None for zero.
    """

    builder: Builder
    outputs: list[Value]
    tangents: list[Value]
    equations: list[Equation]
    tangent_outputs: list[Value | None]


def linearize(program: Program, argnums: Sequence[int]) -> Linearized:
    """Linearize a program in the inputs of the given positions.

    Raises:
        ArgumentError: an input does not exist or is named twice.
        NotDifferentiableError: an input is of an integer or boolean dtype.
    """
    check_argnums(program, argnums)
    builder = Builder()
    primals = builder.repeat_inputs(program)
    tangents = [builder.free(program.inputs[index].type) for index in argnums]
    seeds: dict[Operand, Value] = dict(zip((program.inputs[index] for index in argnums), tangents, strict=True))
    outputs, dots = push_forward(builder, program, primals, seeds)
    equations, masked = mask_residuals(builder, linear_equations(builder, tangents, dots), tangents, dots)
    return Linearized(builder, outputs, tangents, equations, masked)


def check_argnums(program: Program, argnums: Sequence[int]) -> None:
    """Check that inputs exist, are named once, and can be differentiated.

    Raises:
        ArgumentError: an input does not exist or is named twice.
        NotDifferentiableError: an input is of an integer or boolean dtype.
    """
    count = len(program.inputs)
    for index in argnums:
        if not 0 <= index < count:
            raise ArgumentError(f"argnums: needed numbers from 0 to {count - 1}, got {index}; name an existing input", given=index)
        type = program.inputs[index].type
        if not type.dtype.is_inexact:
            text = f"input {index}: needed a floating dtype to differentiate in, got {type}; convert it or choose another argument"
            raise NotDifferentiableError(text, given=type, input=index)
    if len(set(argnums)) != len(argnums) or not argnums:
        raise ArgumentError(f"argnums: needed distinct inputs, at least one, got {tuple(argnums)}; name each once", given=argnums)


def push_forward(
    builder: Builder, program: Program, primals: Sequence[Value], seeds: Mapping[Operand, Value]
) -> tuple[list[Value], list[Value | None]]:
    """Add a program's equations and their tangents; return its outputs and their tangents.

    Args:
        builder: where the equations are added.
        program: the program.
        primals: its inputs.
        seeds: the tangents of some of its inputs.
    """
    known: dict[Operand, Value] = dict(zip(program.inputs, primals, strict=True))
    dots: dict[Operand, Value] = dict(seeds)
    resolve, is_apart = builder.resolve, dots.keys().isdisjoint
    for equation in program.equations:
        operands = [known[operand] if operand in known else resolve(operand, known) for operand in equation.operands]
        if is_apart(equation.operands):
            known.update(zip(equation.results, builder.repeat(equation, operands), strict=True))
            continue
        given = [dots.get(operand) for operand in equation.operands]
        first = equation.primitive.derivative(0)
        if isinstance(first, Whole):
            results, found = first.linearize(operands, given, equation.params)
        else:
            results = builder.repeat(equation, operands)
            found = tangents_of(equation.primitive, operands, results, given, equation.params)
        for var, result, dot in zip(equation.results, results, found, strict=True):
            known[var] = result
            if dot is not None and var.type.dtype.is_inexact:
                dots[var] = dot
    outputs = [builder.resolve(operand, known) for operand in program.outputs]
    return outputs, [dots.get(operand) for operand in program.outputs]


def tangents_of(
    primitive: Primitive,
    operands: Sequence[Value],
    results: Sequence[Value],
    tangents: Sequence[Value | None],
    params: Mapping[str, Param],
) -> list[Value | None]:
    """Return the tangents of an equation's results: the sum of the derivatives in each operand."""
    total: list[Value | None] = [None] * len(results)
    joint = False
    answer = results[0] if len(results) == 1 else tuple(results)
    for position, tangent in enumerate(tangents):
        if tangent is None:
            continue
        derivative = primitive.derivative(position)
        if isinstance(derivative, Tangent):
            part = derivative.rule(tangent, answer, *operands, **params)
        elif isinstance(derivative, Linear) and derivative.joint:
            joint = True
            continue
        elif isinstance(derivative, Linear):
            replaced = [tangent if index == position else item for index, item in enumerate(operands)]
            part = derivative.tangent(*replaced, **params) if derivative.tangent else call(primitive, *replaced, **params)
        else:
            continue
        total = _add_all(total, part)
    return _add_all(total, _joint_tangent(primitive, operands, tangents, params)) if joint else total


def _joint_tangent(
    primitive: Primitive, operands: Sequence[Value], tangents: Sequence[Value | None], params: Mapping[str, Param]
) -> Any:
    derivatives = [primitive.derivative(position) for position in range(len(operands))]
    joint = [isinstance(item, Linear) and item.joint for item in derivatives]
    rule = next(item.tangent for item in derivatives if isinstance(item, Linear) and item.joint)
    if rule is not None:
        mixed = [tangent if flag else item for tangent, flag, item in zip(tangents, joint, operands, strict=True)]
        return rule(*mixed, **params)
    full = [
        item if not flag else zeros_of(item.type, item) if tangent is None else tangent
        for tangent, flag, item in zip(tangents, joint, operands, strict=True)
    ]
    return call(primitive, *full, **params)


def _add_all(total: list[Value | None], part: Any) -> list[Value | None]:
    if len(total) == 1 and total[0] is None:
        return [part[0] if isinstance(part, tuple) else part]
    parts = part if isinstance(part, tuple) else (part,)
    return [one if other is None else other if one is None else add(one, other) for one, other in zip(total, parts, strict=True)]


def instantiate(builder: Builder, tangent: Value | None, type: TensorType) -> Value:
    """Return a tangent or cotangent of a primal of the given type as a Value: zeros for None."""
    if tangent is not None:
        return tangent
    value: Value = zeros_of(type, builder.literal(np.zeros(())))
    return value
