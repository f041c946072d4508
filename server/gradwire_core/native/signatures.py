"""How the operands of loops are written: a letter each, and how many elements an array has.

    "d b D3000 F1 C3000 S1024"  =  two numbers, an array that is read, two that are written, and one of scratch memory

A call hands over one tuple: numbers as floats, arrays that are row-major and aligned, and one array for all scratch memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradwire_core.types import Dtype

Run = Callable[[tuple[Any, ...]], int]
"""Runs loops on their operands; tells whether some value is not right."""

NUMBERS = {Dtype.FLOAT64: "d", Dtype.BOOL: "b"}
READ = {Dtype.FLOAT64: "D", Dtype.BOOL: "B"}
RESULTS = {Dtype.FLOAT64: "F", Dtype.BOOL: "C"}
SCRATCH = "S"

BEHAVED = 0x101
"""NumPy's flags of an array that is row-major and aligned."""

_LINE = 8  # numbers of a cache line, at whose multiples each part of the scratch memory begins


def scratch_starts(signature: str) -> tuple[list[int], int]:
    """Return where in the scratch memory each part begins, and how many numbers all take."""
    starts, total = [], 0
    for item in signature.split():
        if item[0] == SCRATCH:
            starts.append(total)
            total += int(item[1:]) + -int(item[1:]) % _LINE
    return starts, total
