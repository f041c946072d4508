"""Tapes computed in Python's floats: no array between the inputs and the outputs.

A short tape is compiled to one function at once. A long one is cut into chunks over a list of registers: at first a loop runs them,
and each further call compiles some, so a program that runs a few times never waits for the compiler. The source is made of our
own templates and integer names alone. What raises (`operations` says when) is computed by NumPy instead, from the beginning.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np

from gradwire_core.kernels.chunks import Chunk, Chunks
from gradwire_core.kernels.operations import OPERATIONS, function_of
from gradwire_core.kernels.source import make_function
from gradwire_core.kernels.tape import Row, Tape
from gradwire_core.types import Array

Runner = Callable[..., tuple[Array, ...]]

# Up to this many operations a tape is compiled to one function at once; a longer one is cut into chunks.
STRAIGHT = 400
CHUNK = 500
# Expressions are nested up to this depth; the parser has a limit of its own.
MOST_NESTED = 10
# So many more calls may end at NaN or inf than not, before floats are no longer tried.
MOST_FAILURES = 8


class Floats:
    """A tape as a function of arrays.

    Args:
        tape: what is computed.
        make_numpy: returns what computes the same by NumPy, which is asked for where Python's floats raise.
    """

    def __init__(self, tape: Tape, make_numpy: Callable[[], Runner]) -> None:
        self._make_numpy = make_numpy
        self._numpy: Runner | None = None
        self._balance = 0
        names = {name for _, name, _ in tape.rows}
        run = _compile_straight(tape) if len(tape.rows) <= STRAIGHT else _Chunks(tape).run
        self._run: Runner = np.errstate(all="ignore")(run) if any(function_of(name)[1] for name in names) else run

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """Return the outputs for the inputs."""
        try:
            return self._run(*arrays)
        except (ArithmeticError, ValueError):
            return self._run_numpy(arrays)

    def _run_numpy(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        if self._numpy is None:
            self._numpy = np.errstate(all="ignore")(self._make_numpy())
        self._balance += 1
        if self._balance > MOST_FAILURES:
            self._run = self._numpy
        return self._numpy(*arrays)


# -- source --------------------------------------------------------------------------------------------------------------------


def _functions(rows: Sequence[Row]) -> dict[str, Any]:
    return {name: function_of(name)[0] for name in dict.fromkeys([name for _, name, _ in rows])}


def _count_uses(rows: Sequence[Row]) -> dict[int, int]:
    """Return how often rows take each register."""
    counts: dict[int, int] = {}
    for _, _, operands in rows:
        for operand in operands:
            counts[operand] = counts.get(operand, 0) + 1
    return counts


def _statements(rows: Sequence[Row], kept: Container[int], store: Callable[[int], str]) -> list[str]:
    """Return statements for rows: a value that is used once becomes part of an expression.

    Args:
        rows: what is computed.
        kept: the registers that are needed after these rows.
        store: says where else than in a variable such a register is assigned to.
    """
    counts = _count_uses(rows)
    named = {operand for _, name, operands in rows if OPERATIONS[name].is_repeating for operand in operands}
    texts: dict[int, tuple[str, int]] = {}
    lines: list[str] = []
    for register, name, operands in rows:
        parts, depth = [], 0
        for operand in operands:
            found = texts.get(operand)
            if found is None:
                parts.append(f"v{operand}")
            else:
                parts.append(found[0])
                depth = max(depth, found[1])
        text = OPERATIONS[name].text.format(*parts)
        if register in kept:
            lines.append(f"v{register} = {store(register)}{text}")
        elif counts.get(register) == 1 and depth < MOST_NESTED and register not in named:
            texts[register] = (text, depth + 1)
        else:
            lines.append(f"v{register} = {text}")
    return lines


def _nested(registers: Any) -> str:
    """Return nested lists of registers as text, of their variables."""
    return f"[{', '.join(map(_nested, registers))}]" if isinstance(registers, list) else f"v{registers}"


def _pattern(registers: Any) -> str:
    """Return nested lists of registers as a target of assignment."""
    return f"({''.join(f'{_pattern(item)}, ' for item in registers)})" if isinstance(registers, list) else f"v{registers}"


def _compile_straight(tape: Tape) -> Runner:
    """Return a tape as one function."""
    kept = {register for registers in tape.outputs for register in registers.ravel().tolist()}
    lines = [f"{_pattern(registers.tolist())} = x{index}.tolist()" for index, registers in enumerate(tape.inputs)]
    lines += _statements(tape.rows, kept, lambda _: "")
    results = [f"array({_nested(registers.tolist())})" for registers in tape.outputs]
    lines.append(f"return ({', '.join(results)},)" if results else "return ()")
    bound = {**_functions(tape.rows), **{f"v{register}": number for register, number in tape.constants.items()}, "array": np.array}
    return make_function(", ".join([f"x{index}" for index in range(len(tape.inputs))]), lines, bound)


# -- long tapes ----------------------------------------------------------------------------------------------------------------

_Played = tuple[Callable[..., Any], int, int, int, int]


class _Chunks(Chunks[Row]):
    """A long tape, over a list in which registers share places once they are dead."""

    def __init__(self, tape: Tape) -> None:
        rows = tape.rows
        self._outputs = [registers.ravel().tolist() for registers in tape.outputs]
        self._shapes = [registers.shape for registers in tape.outputs]
        self._places = self._share_places(tape)
        self._constants = [*tape.constants.values()]
        self._spare = [None] * (max(self._places.values(), default=0) + 1 - self._input_count - len(self._constants))
        parts = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        self._kept = self._find_kept(parts)
        super().__init__(parts)

    def _share_places(self, tape: Tape) -> dict[int, int]:
        """Return where each register stands: inputs, then constants, then what is computed."""
        last = {register: len(tape.rows) for registers in self._outputs for register in registers}
        for number in range(len(tape.rows) - 1, -1, -1):
            for operand in tape.rows[number][2]:
                last.setdefault(operand, number)
        held = [register for registers in tape.inputs for register in registers.ravel().tolist()]
        self._input_count = len(held)
        places = {register: place for place, register in enumerate([*held, *tape.constants])}
        lasting, count = frozenset(places), len(places)
        free: list[int] = []
        for number, (register, _, operands) in enumerate(tape.rows):
            dying = [operand for operand in dict.fromkeys(operands) if last[operand] == number and operand not in lasting]
            free += [places[operand] for operand in dying]
            if free:
                places[register] = free.pop()
            else:
                places[register] = count
                count += 1
        return places

    def _find_kept(self, parts: Sequence[Sequence[Row]]) -> set[int]:
        """Return the registers that another chunk takes than the one that computes them, or the outputs."""
        kept = {register for registers in self._outputs for register in registers}
        made: dict[int, int] = {}
        for number, chunk in enumerate(parts):
            for register, _, operands in chunk:
                made[register] = number
                kept.update([operand for operand in operands if made.get(operand, number) != number])
        return kept

    def run(self, *arrays: Array) -> tuple[Array, ...]:
        """Return the outputs for the inputs."""
        memory: list[Any] = [number for array in arrays for number in array.ravel().tolist()]
        memory += self._constants
        memory += self._spare
        self._run_all(memory)
        places = self._places
        found = [np.array([memory[places[register]] for register in registers]) for registers in self._outputs]
        return tuple([array.reshape(shape) for array, shape in zip(found, self._shapes, strict=True)])

    def _interpret(self, part: Sequence[Row]) -> Chunk:
        places, functions = self._places, _functions(part)
        played: list[_Played] = [
            (functions[name], places[register], *[places[operand] for operand in operands], *_PADDING[len(operands)])
            for register, name, operands in part
        ]
        return functools.partial(_play, played)

    def _write(self, part: Sequence[Row]) -> Chunk:
        places, own = self._places, {register for register, _, _ in part}
        taken = [operand for operand in _count_uses(part) if operand not in own]
        lines = [f"v{operand} = s[{places[operand]}]" for operand in taken]
        lines += _statements(part, self._kept, lambda register: f"s[{places[register]}] = ")
        return make_function("s", lines, _functions(part))


_PADDING = {1: (-1, -1), 2: (-1,), 3: ()}


def _play(rows: list[_Played], memory: list[Any]) -> None:
    """Run operations one by one."""
    for function, result, x, y, z in rows:
        if y < 0:
            memory[result] = function(memory[x])
        elif z < 0:
            memory[result] = function(memory[x], memory[y])
        else:
            memory[result] = function(memory[x], memory[y], memory[z])
