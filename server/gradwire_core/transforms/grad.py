"""grad: the gradient of a scalar program."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.errors import NotDifferentiableError, ShapeError
from gradwire_core.program import Program
from gradwire_core.transforms.vjp import pull_back


def grad(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of the gradient in each chosen input, shaped as the input; in a complex one `df/dx - i df/dy`.

    Raises:
        ShapeError: the program has not one scalar output.
        ArgumentError: an input does not exist or is named twice.
        NotDifferentiableError: an input or the output is of an integer or boolean dtype, or the output is complex.
    """
    check_scalar("grad", program)
    return pull_back(program, argnums, _one)


def check_scalar(where: str, program: Program) -> None:
    """Check that a program has one output, a scalar.

    Raises:
        ShapeError: it has not.
        NotDifferentiableError: the output is complex.
    """
    types = program.output_types
    if len(types) == 1 and types[0].dtype.numpy.kind == "c":
        text = f"{where}: needed a real output, got {types[0]}; take its real part or absolute value, or use vjp"
        raise NotDifferentiableError(text, given=types[0], output=0)
    if len(types) != 1 or types[0].shape:
        given = ", ".join(map(str, types))
        raise ShapeError(f"{where}: needed one scalar output, got {given}; sum it to a scalar, or use jacobian", given=given)


def _one(builder: Builder, output: Value) -> Value:
    return builder.literal(np.ones((), output.dtype))
