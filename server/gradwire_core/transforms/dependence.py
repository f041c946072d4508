"""Which equations depend on which values: what parts a linearized program."""

from __future__ import annotations

from collections.abc import Sequence

from gradwire_core.builder import Builder, Value
from gradwire_core.program import Equation, Linear, Operand, Program, Whole


def linear_equations(builder: Builder, inputs: Sequence[Value], outputs: Sequence[Value | None] | None = None) -> list[Equation]:
    """Return the equations of a builder that depend on any of the inputs, in order; with outputs, those that also lead to one."""
    linear: set[Operand] = {value.operand for value in inputs}
    found = []
    for equation in builder.equations:
        if not linear.isdisjoint(equation.operands):
            linear.update(equation.results)
            found.append(equation)
    return found if outputs is None else _leading_to(found, outputs)


def _leading_to(equations: Sequence[Equation], outputs: Sequence[Value | None]) -> list[Equation]:
    needed: set[Operand] = {value.operand for value in outputs if value is not None}
    kept = []
    for equation in reversed(equations):
        if not needed.isdisjoint(equation.results):
            needed.update(equation.operands)
            kept.append(equation)
    return kept[::-1]


def is_linear(program: Program, positions: Sequence[int]) -> bool:
    """Whether every equation of a program that depends on chosen inputs is linear in what depends on them."""
    linear: set[Operand] = {program.inputs[position] for position in positions}
    for equation in program.equations:
        reached = [position for position, operand in enumerate(equation.operands) if operand in linear]
        if not reached:
            continue
        derivatives = [equation.primitive.derivative(position) for position in reached]
        if not all(isinstance(item, Linear | Whole) for item in derivatives):
            return False
        if len(reached) > 1 and any(isinstance(item, Linear) and not item.joint for item in derivatives):
            return False
        linear.update(equation.results)
    return True
