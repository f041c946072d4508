"""vmap: a program over a batch axis, every equation once, by the batching rule of its primitive."""

from __future__ import annotations

from collections.abc import Sequence

from gradwire_core.builder import Builder, Value
from gradwire_core.errors import ArgumentError
from gradwire_core.ops.shaping import broadcast_to, transpose
from gradwire_core.program import Equation, Operand, Program


def vmap(program: Program, in_axes: Sequence[int | None], axis_size: int) -> Program:
    """Return the program over a batch: every output has its batch axis at 0.

    Args:
        program: the program for one element of the batch.
        in_axes: for each input, the position of its batch axis; None where all elements share it.
        axis_size: the number of elements.

    Raises:
        ArgumentError: `in_axes` does not fit the inputs, or names no batch axis at all.
    """
    check_axes(program, in_axes, axis_size)
    builder = Builder()
    known: dict[Operand, Value] = {}
    batched: set[Operand] = set()
    for var, axis in zip(program.inputs, in_axes, strict=True):
        shape = var.type.shape
        if axis is None:
            known[var] = builder.input(var.type)
        else:
            place = axis % (len(shape) + 1)
            value = builder.input(var.type.with_shape((*shape[:place], axis_size, *shape[place:])))
            known[var] = transpose(value, (place, *[item for item in range(len(shape) + 1) if item != place]))
            batched.add(var)
    batch_equations(builder, program.equations, known, batched)
    return builder.build([_batched_output(builder, operand, known, batched, axis_size) for operand in program.outputs])


def batch_equations(builder: Builder, equations: Sequence[Equation], known: dict[Operand, Value], batched: set[Operand]) -> None:
    """Add equations over a batch, and record their results.

    Args:
        builder: where they are added.
        equations: the equations, in order.
        known: the Value of each operand, where it is not the operand itself; results are added.
        batched: the operands that have a batch axis, at 0; results are added.
    """
    for equation in equations:
        operands = [builder.resolve(operand, known) for operand in equation.operands]
        flags = [operand in batched for operand in equation.operands]
        if any(flags):
            found = equation.primitive.batch(flags, operands, equation.params)
            results = found if isinstance(found, tuple) else (found,)
            batched.update(equation.results)
        else:
            results = builder.emit(equation.primitive, operands, equation.params)
        known.update(zip(equation.results, results, strict=True))


def _batched_output(
    builder: Builder, operand: Operand, known: dict[Operand, Value], batched: set[Operand], axis_size: int
) -> Value:
    value = builder.resolve(operand, known)
    full: Value = value if operand in batched else broadcast_to(value, (axis_size, *value.shape))
    return full


def check_axes(program: Program, in_axes: Sequence[int | None], axis_size: int) -> None:
    """Check that batch axes fit the inputs of a program.

    Raises:
        ArgumentError: they do not.
    """
    if len(in_axes) != len(program.inputs):
        text = f"vmap: needed one axis or None for each of {len(program.inputs)} inputs, got {len(in_axes)}; correct in_axes"
        raise ArgumentError(text, given=len(in_axes))
    for index, (axis, type) in enumerate(zip(in_axes, program.input_types, strict=True)):
        if axis is not None and not -type.ndim - 1 <= axis <= type.ndim:
            text = f"vmap: needed an axis from {-type.ndim - 1} to {type.ndim} for input {index}, got {axis}; correct in_axes"
            raise ArgumentError(text, given=axis, input=index)
    if all(axis is None for axis in in_axes):
        raise ArgumentError("vmap: needed at least one input with a batch axis, got none; correct in_axes")
    if axis_size < 0:
        raise ArgumentError(f"vmap: needed a non-negative axis_size, got {axis_size}; correct it", given=axis_size)
