"""The plain meaning of a program: its equations run one by one, kernel by kernel. What is planned and compiled is held to this."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradwire_core.program import Literal, Operand, Program
from gradwire_core.types import Array


def interpret(program: Program, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """Return the outputs of a program for its inputs, which must be of the types it declares."""
    known: dict[Operand, Array] = dict(zip(program.inputs, arrays, strict=True))

    def read(operand: Operand) -> Array:
        return operand.value if isinstance(operand, Literal) else known[operand]

    with np.errstate(all="ignore"):
        for equation in program.equations:
            found = equation.primitive.kernel(*map(read, equation.operands), **equation.params)
            results = found if isinstance(found, tuple) else (found,)
            known.update(zip(equation.results, map(np.asarray, results), strict=True))
    return tuple(map(read, program.outputs))
