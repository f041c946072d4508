"""The driver of the rules: it re-emits a program, so that equal equations become one and constants are folded as well."""

from __future__ import annotations

from gradwire_core.builder import Builder, Value
from gradwire_core.passes.rules import RULES, Rule
from gradwire_core.program import Equation, Operand, Program


def simplify(program: Program) -> Program:
    """Return the program rewritten by `RULES` until none applies; itself where none does."""
    if not _is_reducible(program):
        return program
    builder = Builder()
    known: dict[Operand, Value] = dict(zip(program.inputs, builder.repeat_inputs(program), strict=True))
    made: dict[Operand, Equation] = {}
    for equation in program.equations:
        rule = RULES.get(equation.primitive.name)
        operands = [builder.resolve(operand, known) for operand in equation.operands]
        if rule is None:
            results = builder.repeat(equation, operands)
        else:
            results = _rewrite(builder, equation, operands, made, rule)
            if builder.equations:
                last = builder.equations[-1]
                made[last.results[0]] = last
        known.update(zip(equation.results, results, strict=True))
    return builder.build([builder.resolve(operand, known) for operand in program.outputs])


def _is_reducible(program: Program) -> bool:
    """Whether a rule applies anywhere."""
    made: dict[Operand, Equation] = {}
    for equation in program.equations:
        rule = RULES.get(equation.primitive.name)
        if rule is not None:
            if rule(equation.operands, equation.params, made) is not None:
                return True
            made[equation.results[0]] = equation
    return False


def _rewrite(
    builder: Builder, equation: Equation, operands: list[Value], made: dict[Operand, Equation], rule: Rule
) -> tuple[Value, ...]:
    """Return the results of an equation on other operands, after the rule for its primitive."""
    primitive, params = equation.primitive, equation.params
    while True:
        found = rule(tuple([value.operand for value in operands]), params, made)
        if found is None:
            break
        if not isinstance(found, tuple):
            return (Value(builder, found),)
        operands, params = [Value(builder, operand) for operand in found[0]], found[1]
    return builder.repeat(equation, operands) if params is equation.params else builder.emit(primitive, operands, params)
