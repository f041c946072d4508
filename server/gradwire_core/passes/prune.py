"""Dead code: equations whose results nothing needs are left out."""

from __future__ import annotations

from gradwire_core.program import Operand, Program


def prune(program: Program) -> Program:
    """Return the program without the equations that no output depends on; itself where there are none."""
    needed: set[Operand] = set(program.outputs)
    kept = []
    for equation in reversed(program.equations):
        if not needed.isdisjoint(equation.results):
            needed.update(equation.operands)
            kept.append(equation)
    if len(kept) == len(program.equations):
        return program
    kept.reverse()
    return Program(program.inputs, tuple(kept), program.outputs)
