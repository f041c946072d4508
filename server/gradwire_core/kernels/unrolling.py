"""Loops taken apart: a tape of all their steps, of which machine code makes loops again (`native/repeats.py`).

In Python's floats a step takes what its operations take, and a tape of many steps is long to make: so this is for machine code
alone, which is made beside what runs. Nothing else may live here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradwire_core.kernels.tape import OTHERS, Emitter, Other, count_operations, is_small, loop_of
from gradwire_core.program import Equation
from gradwire_core.types import Array

MOST_HELD = 2**18
"""So many numbers stand at the ends of a loop at most: each becomes a register."""


def _count(equation: Equation) -> int | None:
    body, length = loop_of(equation)
    types = [*body.input_types, *body.output_types]
    held = sum(operand.type.size for operand in (*equation.operands, *equation.results))
    if not length or held > MOST_HELD or not all(map(is_small, types)):
        return None
    total = 0
    for inner in body.equations:
        count = count_operations(inner, WITH_LOOPS)
        if count is None:
            return None
        total += count
    return length * total


def _expand(emitter: Emitter, equation: Equation, operands: Sequence[Array]) -> list[Array]:
    body, length = loop_of(equation)
    const_count, carry_count = equation.params["const_count"], equation.params["carry_count"]
    assert isinstance(const_count, int)
    assert isinstance(carry_count, int)
    constants, carry = operands[:const_count], [*operands[const_count : const_count + carry_count]]
    given = operands[const_count + carry_count :]
    ys = [np.empty(result.type.shape, np.int64) for result in equation.results[carry_count:]]
    for step in range(length)[::-1] if equation.params["is_reversed"] else range(length):
        found = emitter.call(body, [*constants, *carry, *[x[step] for x in given]])
        carry = found[:carry_count]
        for y, part in zip(ys, found[carry_count:], strict=True):
            y[step] = part
    return [*carry, *ys]


WITH_LOOPS = {**OTHERS, "scan": Other(_count, _expand, is_loop=True)}
"""How equations are taken apart that are neither moves nor elementwise, loops included."""
