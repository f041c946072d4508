"""Constants: small values that depend on no input are computed once, by the kernels that would compute them in each run.

A broadcast stays for what is elementwise, which reads its source, and so does what calls programs. An equation whose kernel refuses
its operands stays too, and is refused when it runs.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np

from gradwire_core.builder import FOLD_ELEMENTS
from gradwire_core.errors import GradwireError
from gradwire_core.passes.prune import prune
from gradwire_core.program import Equation, Literal, Operand, Program
from gradwire_core.types import Array

MOST_ELEMENTS = 2**17
"""Of all constants that are computed for a program; of each, as many as the builder computes."""


def fold_constants(program: Program) -> Program:
    """Return the program with its small constants as literals; itself where there are none."""
    return _Folding().run(program)


@dataclass(slots=True)
class _Folding:
    """The state of the pass.

    Attributes:
        arrays: the constants so far.
        broadcasts: those of them that are broadcasts.
        literals: those that were asked for.
        elements: how many elements more are computed.
    """

    arrays: dict[Operand, Array] = field(default_factory=dict)
    broadcasts: set[Operand] = field(default_factory=set)
    literals: dict[Operand, Literal] = field(default_factory=dict)
    elements: int = MOST_ELEMENTS

    def run(self, program: Program) -> Program:
        """Return the program with its constants as literals."""
        equations = []
        for equation in program.equations:
            if _is_constant(equation, self.arrays) and self._compute(equation):
                if equation.primitive.name != "broadcast_to":
                    continue
                self.broadcasts.update(equation.results)
            equations.append(self._resolve_all(equation))
        if not self.arrays:
            return program
        return prune(Program(program.inputs, tuple(equations), tuple(map(self._resolve, program.outputs))))

    def _compute(self, equation: Equation) -> bool:
        """Compute an equation, unless its kernel refuses or there were enough."""
        self.elements -= sum(result.type.size for result in equation.results)
        if self.elements < 0:
            return False
        if not any(result.type.size for result in equation.results):
            self.arrays.update({result: np.zeros(result.type.shape, result.type.dtype.numpy) for result in equation.results})
            return True
        operands = [operand.value if isinstance(operand, Literal) else self.arrays[operand] for operand in equation.operands]
        try:
            with np.errstate(all="ignore"):
                found = equation.primitive.kernel(*operands, **equation.params)
        except (GradwireError, ArithmeticError, LookupError, ValueError):
            return False
        self.arrays.update(zip(equation.results, found if isinstance(found, tuple) else (found,), strict=True))
        return True

    def _resolve_all(self, equation: Equation) -> Equation:
        if self.arrays.keys().isdisjoint(equation.operands):
            return equation
        stays = self.broadcasts if equation.primitive.is_elementwise else ()
        operands = tuple([operand if operand in stays else self._resolve(operand) for operand in equation.operands])
        return Equation(equation.primitive, operands, equation.params, equation.results)

    def _resolve(self, operand: Operand) -> Operand:
        """Return the literal of a constant, else the operand."""
        if operand not in self.arrays:
            return operand
        found = self.literals.get(operand)
        if found is None:
            found = self.literals[operand] = Literal(self.arrays[operand])
        return found


def _is_constant(equation: Equation, constants: Container[Operand]) -> bool:
    """Whether an equation is computed once, where some values are; what has no elements needs no computing."""
    return all(result.type.size == 0 for result in equation.results) or (
        all(isinstance(operand, Literal) or operand in constants for operand in equation.operands)
        and all(result.type.size <= FOLD_ELEMENTS for result in equation.results)
        and not any(isinstance(value, Program) for value in equation.params.values())
    )
