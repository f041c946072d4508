"""Functions of arrays as programs, for the tests of operations."""

from __future__ import annotations

import numpy as np

from gradwire_core.builder import Builder
from gradwire_core.check import check_program
from gradwire_core.program import Program
from gradwire_core.testing import interpret
from gradwire_core.types import TensorType


def trace(function, arrays) -> tuple[Program, list]:
    """The program of a function, and the arrays it captured, which are its last inputs."""
    with Builder(captures_arrays=True).tracing() as builder:
        result = function(*[builder.input(TensorType.of(np.asarray(array))) for array in arrays])
        program = builder.build([builder.lift(result)])
    check_program(program)
    return program, builder.captures


def traced(function, *arrays) -> Program:
    """The program of a function of these arrays alone."""
    return trace(function, arrays)[0]


def run(function, *arrays) -> np.ndarray:
    """The value of a function, through its program."""
    program, captures = trace(function, arrays)
    return interpret(program, [*arrays, *captures])[0]


def assert_agrees(function, *arrays, rtol: float = 0.0) -> None:
    """A traced function gives the dtype, shape and numbers that NumPy gives."""
    found, needed = run(function, *arrays), np.asarray(function(*arrays))
    assert found.dtype == needed.dtype, (found.dtype, needed.dtype)
    assert found.shape == needed.shape, (found.shape, needed.shape)
    np.testing.assert_allclose(found, needed, rtol=rtol, atol=rtol)
