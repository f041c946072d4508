"""Some elements of a Value, without the others where that is possible: a selection goes in front of what it selects from."""

from __future__ import annotations

import numpy as np

from gradwire_core.builder import Value
from gradwire_core.ops.indexing import take_flat
from gradwire_core.ops.shaping import reshape, slice_axes
from gradwire_core.program import Equation, Literal, Operand
from gradwire_core.types import Array

FEW = 8
"""Elements are selected before they are computed where there are so many times more."""
DEEPEST = 16
"""So many equations are followed at most."""


def picked(value: Value, positions: Array) -> Value:
    """Return the elements of a Value at flat positions, in the shape of those."""
    flat = positions.ravel()
    part = _before(value, flat, {}, DEEPEST) if FEW * flat.size <= value.size else _of(value, flat)
    return reshape(part, positions.shape)  # type: ignore[no-any-return]


def _before(value: Value, flat: Array, known: dict[Operand, Value], depth: int) -> Value:
    """Return elements of a Value as a vector, from those of the operands of the elementwise equation that it is made by."""
    found = known.get(value.operand)
    if found is None:
        equation = value.builder.producer(value.operand)
        if equation is None or depth == 0:
            found = _of(value, flat)
        elif equation.primitive.is_elementwise or equation.primitive.name == "convert":
            operands = [_before(Value(value.builder, item), flat, known, depth - 1) for item in equation.operands]
            (found,) = value.builder.emit(equation.primitive, operands, equation.params)
        else:
            source = _source(equation, flat)
            operand = Value(value.builder, equation.operands[0]) if equation.operands else value
            found = _of(value, flat) if source is None else _before(operand, source, {}, depth - 1)
        known[value.operand] = found
    return found


def _source(equation: Equation, flat: Array) -> Array | None:
    """Return where the elements of a result stand in the operand, if the equation only moves them."""
    name, shape = equation.primitive.name, equation.results[0].type.shape
    if name == "reshape":
        return flat
    if name not in ("broadcast_to", "transpose"):
        return None
    index = np.unravel_index(flat, shape) if shape else ()
    given = equation.operands[0].type.shape
    if name == "transpose":
        axes = equation.params["axes"]
        assert isinstance(axes, tuple)
        kept = [index[axes.index(axis)] for axis in range(len(given))]
    else:
        kept = [
            item if length > 1 else np.zeros_like(item)
            for item, length in zip(index[len(shape) - len(given) :], given, strict=True)
        ]
    return np.ravel_multi_index(tuple(kept), given) if given else np.zeros_like(flat)


def _of(value: Value, flat: Array) -> Value:
    """Return elements as a vector, by a slice where they are one."""
    if isinstance(value.operand, Literal):
        return value.builder.literal(value.operand.value.ravel()[flat])
    whole: Value = reshape(value, (value.size,))
    step = int(flat[1] - flat[0]) if flat.size > 1 else 1
    if step < 1 or not np.array_equal(flat, flat[0] + step * np.arange(flat.size)):
        taken: Value = take_flat(whole, flat, 0)
        return taken
    part: Value = slice_axes(whole, (int(flat[0]),), (int(flat[-1]) + 1,), (step,))
    return part
