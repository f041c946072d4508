"""Accumulation: a linear program applied to the identity, term by term.

Equations are walked in their order; every value holds the terms of its Jacobian by each input, joined as they meet.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradwire_core.builder import Builder, Value
from gradwire_core.program import Equation, Linear, Var, Whole
from gradwire_core.structure.actions import act, act_whole
from gradwire_core.structure.terms import Term, identity, join

ByInput = dict[int, list[Term]]


def accumulate(builder: Builder, equations: Sequence[Equation], inputs: Sequence[Var]) -> dict[Var, ByInput]:
    """Return, for each value that is linear in the inputs, the terms of its Jacobian by each input, by position.

    Args:
        builder: holds the residuals; the factors are built there.
        equations: the linear equations, in order.
        inputs: the values they are linear in.
    """
    known: dict[Var, ByInput] = {
        var: {index: [identity(builder, var.type.shape, var.type.dtype)]} if var.type.size else {}
        for index, var in enumerate(inputs)
    }
    for equation in equations:
        if isinstance(equation.primitive.derivative(0), Whole):
            known.update(zip(equation.results, _accumulate_whole(builder, equation, known), strict=True))
        else:
            known[equation.results[0]] = _accumulate_one(builder, equation, known)
    return known


def _accumulate_one(builder: Builder, equation: Equation, known: dict[Var, ByInput]) -> ByInput:
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


def _accumulate_whole(builder: Builder, equation: Equation, known: dict[Var, ByInput]) -> list[ByInput]:
    """Return the terms of the results of an equation with sub-programs: all columns of its linear operands at once, dense."""
    operands = [operand.type if operand in known else Value(builder, operand) for operand in equation.operands]
    linear = [known[operand] if isinstance(operand, Var) and operand in known else {} for operand in equation.operands]
    found: list[ByInput] = [{} for _ in equation.results]
    for index in sorted({index for terms in linear for index in terms}):
        columns = act_whole(equation, [terms.get(index, []) for terms in linear], operands)
        for terms, term in zip(found, columns, strict=True):
            terms[index] = [term]
    return found
