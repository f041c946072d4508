"""The type checker: one pass over a program, one error for each way to break the grammar."""

from __future__ import annotations

from collections.abc import Iterable

from gradwire_core.errors import ProgramError
from gradwire_core.program import Equation, Literal, Operand, Params, Primitive, Program, Var


def check_program(program: Program) -> None:
    """Check that a program obeys its grammar and its types.

    Every value is assigned once and before its use, every primitive gets the operands and params it takes, and the results
    have the types the primitive infers.

    Raises:
        ProgramError: the grammar is broken; the text names the equation by its number, counted from 0.
        ShapeError, DtypeError: the operands of an equation do not fit its primitive.
    """
    known: set[Var] = set()
    _assign(known, program.inputs, "inputs")
    for number, equation in enumerate(program.equations):
        _check_equation(known, equation, number)
        _assign(known, equation.results, f"equation {number}")
    _check_operands(known, program.outputs, "outputs")


def _assign(known: set[Var], variables: Iterable[Var], where: str) -> None:
    for var in variables:
        if var in known:
            raise ProgramError(f"{where}: needed values not assigned before, got one twice; assign each once", where=where)
        known.add(var)


def _check_operands(known: set[Var], operands: Iterable[Operand], where: str) -> None:
    for operand in operands:
        if not isinstance(operand, Literal) and operand not in known:
            raise ProgramError(
                f"{where}: needed values assigned before their use, got a later or unknown one; reorder", where=where
            )


def _check_equation(known: set[Var], equation: Equation, number: int) -> None:
    primitive = equation.primitive
    where = f"equation {number} ({primitive.name})"
    _check_operands(known, equation.operands, where)
    check_call(primitive, len(equation.operands), equation.params, where)
    for param in equation.params.values():
        if isinstance(param, Program):
            check_program(param)
    inferred = primitive.infer(*(operand.type for operand in equation.operands), **equation.params)
    given = tuple(var.type for var in equation.results)
    if inferred != given:
        needed, got = ", ".join(map(str, inferred)), ", ".join(map(str, given))
        raise ProgramError(f"{where}: needed results of type {needed}, got {got}; correct the types", needed=needed, given=got)


def check_call(primitive: Primitive, count: int, params: Params, where: str) -> None:
    """Check the number of operands and the names of the params of a call.

    Raises:
        ProgramError: they are not those the primitive takes.
    """
    if primitive.arity is not None and count != primitive.arity:
        raise ProgramError(f"{where}: needed {primitive.arity} operands, got {count}; pass exactly those", given=count)
    names = set(params)
    if names != set(primitive.params):
        needed, got = ", ".join(primitive.params) or "none", ", ".join(sorted(names)) or "none"
        raise ProgramError(f"{where}: needed params {needed}, got {got}; pass exactly those", needed=needed, given=got)
