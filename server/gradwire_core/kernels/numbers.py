"""Tapes as machine code, which takes over from Python's floats, or from NumPy's calls, where these run long."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradwire_core.kernels.operations import function_of
from gradwire_core.kernels.source import make_function
from gradwire_core.kernels.tape import Costs, Tape
from gradwire_core.kernels.unrolling import WITH_LOOPS
from gradwire_core.native.assembly import Assembly, Listing, assemble
from gradwire_core.native.instructions import TEMPLATES, addresses, called
from gradwire_core.native.machine import Code
from gradwire_core.types import Array, Dtype

Runner = Callable[..., tuple[Array, ...]]

FEWEST_OPERATIONS = 8
"""A call of machine code takes as long as so many operations on floats."""

MACHINE = Costs(operation=1.5e-9, edge=1e-8, call=6e-7, most=500_000, others=WITH_LOOPS)
# Predicted seconds of a function of libm, and of a call for which other threads need not wait.
FUNCTION_SECONDS = 8e-9
LONG_SECONDS = 2e-5


def is_compiled(tape: Tape) -> bool:
    """Whether a tape has enough operations, all with NumPy's bits or functions whose last bits differ between libraries."""
    names = {name for _, name, _ in tape.rows}
    return len(tape.rows) >= FEWEST_OPERATIONS and all(
        name in TEMPLATES and (called([name]) or not function_of(name)[1]) for name in names
    )


class Numbers:
    """A tape as machine code over memory that holds its registers; threads may share it.

    Args:
        tape: what is computed.
        listing: the same, over places.
        assembly: the same, as a module, which says what is in memory.
        code: computes it.

    Attributes:
        run: returns the outputs for the inputs.
        kernels: what it consists of.
    """

    kernels = ("machine code of all operations",)

    def __init__(self, tape: Tape, listing: Listing, assembly: Assembly, code: Code) -> None:
        self._code = code  # is freed with it
        self._listing = listing
        self._size = assembly.size
        self._functions = addresses(assembly.functions)
        self._inputs = [registers.shape for registers in tape.inputs]
        self._outputs = [registers.shape for registers in tape.outputs]
        self._spare: list[tuple[Any, ...]] = []
        call_count = sum(1 for name in listing.operations if called([name]))
        is_long = MACHINE.operation * len(tape.rows) + FUNCTION_SECONDS * call_count > LONG_SECONDS
        self.run = self._make_run(code.run if is_long else code.run_briefly, tape.output_dtypes)

    @classmethod
    def of(cls, tape: Tape, compile: Callable[[str], Code]) -> Numbers | None:
        """Return a tape as machine code; None where that is not worthwhile, or would be too much code."""
        if not is_compiled(tape):
            return None
        listing = list_tape(tape)
        found = assemble(listing)
        return None if found is None else cls(tape, listing, found, compile(found.text))

    def _make_run(self, call: Callable[[int], None], dtypes: Sequence[Dtype]) -> Runner:
        """Return the function of the inputs; while it runs, nothing else has the memory it takes."""
        inputs = [f"i{place}" for place in range(len(self._inputs))]
        outputs = [f"o{place}" for place in range(len(self._outputs))]
        results = [f"o{place}.{'astype(bool)' if dtype is Dtype.BOOL else 'copy()'}" for place, dtype in enumerate(dtypes)]
        lines = [
            "try:",
            "    memory = take()",
            "except IndexError:",
            "    memory = make()",
            f"{', '.join(['address', *inputs, *outputs])}, _ = memory",
            *[f"i{place}[()] = x{place}" for place in range(len(inputs))],
            "call(address)",
            f"results = ({''.join([f'{result}, ' for result in results])})",
            "give(memory)",
            "return results",
        ]
        bound = {"take": self._spare.pop, "give": self._spare.append, "make": self._allocate, "call": call}
        return make_function(", ".join([f"x{place}" for place in range(len(inputs))]), lines, bound)

    def _allocate(self) -> tuple[Any, ...]:
        """Return memory: its address, a view of each input and of each output, and the whole."""
        listing = self._listing
        memory = np.zeros(self._size + len(self._functions))
        memory[self._size :].view(np.uint64)[:] = self._functions
        begin = len(listing.inputs)
        memory[begin : begin + len(listing.constants)] = listing.constants
        inputs = _views(memory, 0, self._inputs)
        outputs = _views(memory, self._size - len(listing.outputs), self._outputs)
        return (memory.ctypes.data, *inputs, *outputs, memory)


def _views(memory: Array, start: int, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Return parts of memory, one after the other."""
    views = []
    for shape in shapes:
        stop = start + math.prod(shape)
        views.append(memory[start:stop].reshape(shape))
        start = stop
    return views


def list_tape(tape: Tape) -> Listing:
    """Return a tape over places."""
    held = [register for registers in tape.inputs for register in registers.ravel().tolist()]
    rows = tape.rows
    registers = [*held, *tape.constants, *[register for register, _, _ in rows]]
    places = np.empty(max(registers) + 1, np.int64)
    places[registers] = np.arange(len(registers))
    arity = np.array([len(operands) for _, _, operands in rows], np.int64)
    operands = np.full((len(rows), 3), -1)
    taken = np.fromiter(itertools.chain.from_iterable([operands for _, _, operands in rows]), np.int64)
    operands[np.arange(3) < arity[:, None]] = places[taken]
    outputs: list[int] = [place for registers in tape.outputs for place in places[registers.ravel()].tolist()]
    dtypes = [dtype for registers, dtype in zip(tape.inputs, tape.input_dtypes, strict=True) for _ in range(registers.size)]
    return Listing(
        inputs=[dtype is Dtype.BOOL for dtype in dtypes],
        constants=[*tape.constants.values()],
        operations=[name for _, name, _ in rows],
        operands=operands,
        outputs=outputs,
    )
