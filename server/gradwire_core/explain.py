"""A program as a derivation: each equation with its differential, then what the plan says it costs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from gradwire_core.builder import Builder
from gradwire_core.engine import Output, compile
from gradwire_core.errors import ArgumentError
from gradwire_core.planner import plan
from gradwire_core.program import (
    Constant,
    Equation,
    Linear,
    Literal,
    Operand,
    Program,
    Tangent,
    Var,
    Whole,
    letters,
    show_literal,
    show_param,
)

EXPLAINED = 200
EXPRESSION_EQUATIONS = 12


class _Text(NamedTuple):
    """An expression as text, and how tightly it binds: 0 a sum, 1 a product, 2 a name or a call."""

    text: str
    level: int

    def within(self, level: int) -> str:
        """Return the text where something of the given level is needed."""
        return self.text if self.level >= level else f"({self.text})"


# How an operation is written, how tightly that binds, and what its operands must.
INFIX = {
    "add": ("{} + {}", 0, (0, 0)),
    "divide": ("{} / {}", 1, (1, 2)),
    "multiply": ("{} * {}", 1, (1, 1)),
    "negative": ("-{}", 0, (1,)),
    "subtract": ("{} - {}", 0, (0, 1)),
}


def explain(program: Program, outputs: Sequence[Output] = (), *, format: str = "text") -> str:
    """Return outputs of a program as a derivation: its equations, each with its differential, then the totals of its plan.

    The differential of `c = sin(a)` is written `dc = da * cos(a)`. A long program is cut after its first equations.

    Raises:
        ArgumentError: there is no such format.
    """
    if format != "text":
        raise ArgumentError(f"explain: needed the format text, got {format!r}; choose it", given=format)
    if outputs:
        program = compile(program, outputs).program
    printed = str(program).splitlines()
    shown = program.equations[:EXPLAINED]
    names: dict[Operand, str] = {}
    for var in (*program.inputs, *[result for equation in program.equations for result in equation.results]):
        names[var] = letters(len(names))
    lines = printed[:1]
    varying: set[Operand] = set(program.inputs)
    for equation, line in zip(shown, printed[1:], strict=False):
        lines.append(line)
        if not varying.isdisjoint(equation.operands):
            varying.update(equation.results)
            lines += [f"      {text}" for text in _differentials(equation, names, varying)]
    if len(shown) < len(program.equations):
        lines.append(f"  ... {len(program.equations) - len(shown)} more equations")
    return "\n".join([*lines, printed[-1], "", *str(plan(program)).splitlines()[:5]])


def _differentials(equation: Equation, names: dict[Operand, str], varying: Collection[Operand]) -> list[str]:
    """Return the differential of each result, as text; none for what has no derivative."""
    parts: list[list[str]] = [[] for _ in equation.results]
    for position, operand in enumerate(equation.operands):
        if operand in varying and operand.type.dtype.is_inexact:
            for part, text in zip(parts, _partial(equation, position, names), strict=True):
                part.extend([text] if text else [])
    return [f"d{names[result]} = {_sum_text(part)}" for result, part in zip(equation.results, parts, strict=True) if part]


def _sum_text(parts: Sequence[str]) -> str:
    return parts[0] + "".join([f" - {part[1:]}" if part.startswith("-") else f" + {part}" for part in parts[1:]])


def _partial(equation: Equation, position: int, names: dict[Operand, str]) -> list[str]:
    """Return, for each result, the text of its differential in one operand; empty where it is zero."""
    derivative = equation.primitive.derivative(position)
    none = [""] * len(equation.results)
    if isinstance(derivative, Constant):
        return none
    if isinstance(derivative, Whole):
        return [
            f"{equation.primitive.name}'(d{names[equation.operands[position]]})" if x.type.dtype.is_inexact else ""
            for x in equation.results
        ]
    builder, params = Builder(), equation.params
    operands = [builder.literal(x.value) if isinstance(x, Literal) else builder.input(x.type) for x in equation.operands]
    results = tuple([builder.input(result.type) for result in equation.results])
    tangent = builder.input(equation.operands[position].type)
    if isinstance(derivative, Tangent):
        made = derivative.rule(tangent, results if len(results) > 1 else results[0], *operands, **params)
    elif derivative.tangent is not None:
        absent = [derivative.joint and _is_joint(equation, place) for place in range(len(operands))]
        given = [tangent if place == position else None if absent[place] else item for place, item in enumerate(operands)]
        made = derivative.tangent(*given, **params)
    else:
        linear = [tangent if place == position else item for place, item in enumerate(operands)]
        made = builder.emit(equation.primitive, linear, params)
    values = [None if item is None else builder.lift(item).operand for item in (made if isinstance(made, tuple) else (made,))]
    differential = f"d{names[equation.operands[position]]}"
    if len(builder.equations) > EXPRESSION_EQUATIONS:
        return ["" if item is None else f"{differential} by {len(builder.equations)} equations" for item in values]
    known = {
        value.operand: _Text(names[item], 2)
        for value, item in zip((*operands, *results), (*equation.operands, *equation.results), strict=True)
        if isinstance(item, Var)
    }
    known[tangent.operand] = _Text(differential, 2)
    _write_expressions(builder.equations, known)
    return ["" if item is None else _expression(item, known).text for item in values]


def _is_joint(equation: Equation, position: int) -> bool:
    derivative = equation.primitive.derivative(position)
    return isinstance(derivative, Linear) and derivative.joint


def _expression(operand: Operand, known: dict[Operand, _Text]) -> _Text:
    return _Text(show_literal(operand), 2) if isinstance(operand, Literal) else known[operand]


def _write_expressions(equations: Sequence[Equation], known: dict[Operand, _Text]) -> None:
    """Write the results of equations as expressions of what is known."""
    for equation in equations:
        name, (result, *others) = equation.primitive.name, equation.results
        texts = [_expression(item, known) for item in equation.operands]
        if name == "broadcast_to":
            known[result] = texts[0]
        elif name in INFIX:
            template, level, needed = INFIX[name]
            known[result] = _Text(template.format(*[item.within(least) for item, least in zip(texts, needed, strict=True)]), level)
        else:
            given = ", ".join(f"{key}={show_param(value)}" for key, value in equation.params.items())
            text = f"{name}{f'[{given}]' if given else ''}({', '.join(item.text for item in texts)})"
            known[result] = _Text(f"{text}.0" if others else text, 2)
            known.update({other: _Text(f"{text}.{number}", 2) for number, other in enumerate(others, 1)})
