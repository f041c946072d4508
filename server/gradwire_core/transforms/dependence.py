"""Which equations depend on which values: what parts a linearized program."""

from __future__ import annotations

from collections.abc import Sequence

from gradwire_core.builder import Builder, Value
from gradwire_core.program import Equation, Operand


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
