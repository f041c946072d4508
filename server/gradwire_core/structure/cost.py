"""The predicted cost of a program, known before anything runs: shapes are static."""

from __future__ import annotations

from dataclasses import dataclass

from gradwire_core.builder import VIEWS
from gradwire_core.program import Program

SECONDS_PER_FLOP = 2e-10
SECONDS_PER_BYTE = 1e-10
SECONDS_PER_EQUATION = 1e-6


@dataclass(frozen=True, slots=True)
class Cost:
    """A predicted cost.

    Attributes:
        flops: floating point operations.
        bytes: bytes of results written.
        equations: the number of equations.
    """

    flops: float
    bytes: float
    equations: int

    @property
    def seconds(self) -> float:
        """The predicted time on one core; good for comparing strategies, not for promises."""
        return self.flops * SECONDS_PER_FLOP + self.bytes * SECONDS_PER_BYTE + self.equations * SECONDS_PER_EQUATION


def predict(program: Program) -> Cost:
    """Return the predicted cost of one evaluation of a program."""
    flops = written = 0.0
    for equation in program.equations:
        flops += equation.primitive.flops(*[operand.type for operand in equation.operands], **equation.params)
        if equation.primitive.name not in VIEWS:
            written += sum(var.type.nbytes for var in equation.results)
    return Cost(flops, written, len(program.equations))
