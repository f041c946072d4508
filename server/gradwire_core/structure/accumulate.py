"""Accumulation: a linear program applied to the identity, term by term.

Equations are walked in their order; every value holds the terms of its Jacobian by each input, joined as they meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gradwire_core.builder import Builder, Value
from gradwire_core.program import Equation, Linear, Var, Whole
from gradwire_core.structure.actions import act
from gradwire_core.structure.loops import through
from gradwire_core.structure.terms import Term, identity, join

ByInput = dict[int, list[Term]]


def accumulate(builder: Builder, equations: Iterable[Equation], inputs: Sequence[Var]) -> dict[Var, ByInput]:
    """Return, for each value that is linear in the inputs, the terms of its Jacobian by each input, by position.

    Args:
        builder: holds the residuals; the factors are built there.
        equations: the linear equations, in order.
        inputs: the values they are linear in.
    """
    known = identities(builder, inputs)
    propagate(builder, equations, known)
    return known


def identities(builder: Builder, inputs: Sequence[Var]) -> dict[Any, ByInput]:
    """Return the terms of the inputs by themselves: where accumulation begins."""
    return {
        var: {index: [identity(builder, var.type.shape, var.type.dtype)]} if var.type.size else {}
        for index, var in enumerate(inputs)
    }


def propagate(builder: Builder, equations: Iterable[Equation], known: dict[Any, ByInput]) -> None:
    """Add to the terms of values those of the results of linear equations.

    Args:
        builder: holds the residuals; the factors are built there.
        equations: equations, in order; those without an operand that has terms are left out.
        known: the terms of each linear value, by input; those of the results are added.
    """
    for equation in equations:
        if known.keys().isdisjoint(equation.operands):
            continue
        if isinstance(equation.primitive.derivative(0), Whole):
            known.update(zip(equation.results, through(builder, equation, known, propagate), strict=True))
        else:
            known[equation.results[0]] = _accumulate_one(builder, equation, known)


def _accumulate_one(builder: Builder, equation: Equation, known: dict[Any, ByInput]) -> ByInput:
    operands = [operand.type if operand in known else Value(builder, operand) for operand in equation.operands]
    found: ByInput = {}
    if equation.results[0].type.size == 0:
        return found
    for position, operand in enumerate(equation.operands):
        if not isinstance(operand, Var) or operand not in known:
            continue
        assert isinstance(equation.primitive.derivative(position), Linear), equation.primitive.name
        for index, terms in known[operand].items():
            found.setdefault(index, []).extend(act(equation, terms, position, operands))
    return {index: join(terms) for index, terms in found.items()}
