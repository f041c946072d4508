"""A system restricted to some of its blocks: their equations once more, from their inputs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops._declare import call, find_primitive, zeros_of
from gradwire_core.ops.elementwise import add, multiply
from gradwire_core.ops.shaping import reshape
from gradwire_core.program import Equation, Operand, Var
from gradwire_core.structure.selection import picked
from gradwire_core.structure.system import INNER, INPUT, OUTPUT, Group, System
from gradwire_core.types import Array


def restricted(system: System, group: Group) -> tuple[list[Value], list[Value], list[Equation]]:
    """Add the equations of a group's blocks again, from seeds alone: the system restricted to them.

    Returns:
        The seeds and the results, each in the order of the values, and the equations that depend on seeds.
    """
    builder = system.builder
    start = len(builder.equations)
    places = {key: np.sort(array, axis=None) for key, array in group.places.items()}
    tangents: dict[Var, Value] = {}
    seeds: list[Value] = []
    ends: list[Value] = []

    def settle(var: Var, computed: Value) -> None:
        inner, seeded, asked = [places.get((var, part)) for part in (INNER, INPUT, OUTPUT)]
        if asked is not None:
            ends.append(picked(computed, asked))
        parts: list[Value] = []
        if inner is not None:
            parts.append(computed if inner.size == var.type.size else multiply(computed, _mask(builder, var, inner)))
        if seeded is not None:
            is_whole = seeded.size == var.type.size
            seeds.append(builder.free(var.type if is_whole else var.type.with_shape((seeded.size,))))
            parts.append(seeds[-1] if is_whole else _spread(seeds[-1], seeded, var))
        if parts:
            tangents[var] = reduce(add, parts)

    variables = dict.fromkeys(var for var, _ in places)
    for var in variables:
        if var in system.sources:
            source = system.sources[var]
            settle(var, tangents.get(source, _zeros(builder, var)) if source is not None else _zeros(builder, var))
        elif system.equation(var) is None:
            settle(var, _zeros(builder, var))
        else:
            settle(var, _again(system, var, tangents))
    return seeds, ends, dependent(builder.equations[start:], seeds)


def _zeros(builder: Builder, var: Var) -> Value:
    return zeros_of(var.type, builder.literal(np.zeros(())))  # type: ignore[no-any-return]


def _again(system: System, var: Var, tangents: Mapping[Var, Value]) -> Value:
    """Return the result of an equation for other tangents: none is zero."""
    builder, equation = system.builder, system.equation(var)
    assert equation is not None
    operands = [
        (tangents[item] if item in tangents else _zeros(builder, item))
        if isinstance(item, Var) and item in system
        else Value(builder, item)
        for item in equation.operands
    ]
    if not any(item in tangents for item in equation.operands):
        return _zeros(builder, var)
    return builder.emit(equation.primitive, operands, equation.params)[equation.results.index(var)]


def _mask(builder: Builder, var: Var, places: Array) -> Value:
    mask = np.zeros(var.type.size, var.type.dtype.numpy)
    mask[places] = 1
    return builder.literal(mask.reshape(var.type.shape))


def _spread(seed: Value, places: Array, var: Var) -> Value:
    """Return zeros of the shape of a value with a seed at flat positions."""
    indices = seed.builder.literal(places)
    flat = call(find_primitive("scatter_add"), seed, indices, axis=0, batch=0, size=var.type.size)
    return reshape(flat, var.type.shape)  # type: ignore[no-any-return]


def dependent(equations: Sequence[Equation], seeds: Sequence[Value]) -> list[Equation]:
    """Return the equations that depend on seeds, in order."""
    linear: set[Operand] = {seed.operand for seed in seeds}
    found = []
    for equation in equations:
        if not linear.isdisjoint(equation.operands):
            linear.update(equation.results)
            found.append(equation)
    return found


def var_of(value: Value) -> Var:
    assert isinstance(value.operand, Var)
    return value.operand
