"""Clusters run block by block: what is computed between their inputs and their outputs stays in the cache.

The equations of a block become NumPy calls, and calls of numexpr where that is wanted, that write into buffers, which blocks and
calls use again, and into the outputs. Several threads may share the blocks, each with buffers of its own; sums are added in their
order, so that the same number of threads gives the same bits. Threads may also share a cluster: each call takes buffers of its own.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.kernels import expressions
from gradwire_core.kernels.source import make_function
from gradwire_core.kernels.splitting import Split
from gradwire_core.kernels.team import Team
from gradwire_core.planner import narrow_operands
from gradwire_core.program import Equation, Literal, Operand, Params, Program
from gradwire_core.types import Array, Shape, TensorType

LENGTH = 2**13
"""The elements of a block, of 8 bytes each: some arrays of it fit into a second-level cache."""
SHARED = 4
"""Blocks are up to so many times as long where threads share them: a call of NumPy's must take longer than waking a thread, or the
others hardly get the interpreter's lock between two calls of one."""
PIECES = 4
"""So many pieces of a cluster each thread does, if all are equally fast."""


# -- how a cluster is cut ------------------------------------------------------------------------------------------------------


def _whole_shape(body: Program) -> Shape:
    """Return the shape over which a body computes."""
    return next(equation.results[0].type.shape for equation in body.equations if equation.primitive.is_elementwise)


def _block_of(body: Program, shape: Shape) -> Program:
    """Return the body over a block: arrays are of its shape, numbers stay."""
    builder = Builder()
    known: dict[Operand, Value] = {
        var: builder.input(TensorType(var.type.dtype, shape if var.type.shape else ())) for var in body.inputs
    }
    for equation in body.equations:
        params = OF_BLOCKS[equation.primitive.name](shape) if equation.primitive.name in OF_BLOCKS else equation.params
        operands = [builder.resolve(operand, known) for operand in equation.operands]
        known.update(zip(equation.results, builder.emit(equation.primitive, operands, params), strict=True))
    return builder.build([known[output] for output in body.outputs])


# The params of what is not elementwise, over a block.
OF_BLOCKS: Mapping[str, Callable[[Shape], Params]] = {
    "broadcast_to": lambda shape: {"shape": shape},
    "sum": lambda shape: {"axes": tuple(range(len(shape)))},
}


# -- a block -------------------------------------------------------------------------------------------------------------------


def _logistic(x: Array, out: Array, scratch: Array) -> None:
    np.exp(np.negative(np.abs(x, out=out), out=out), out=out)
    np.add(1, out, out=scratch)
    np.maximum(out, x >= 0, out=out)
    np.divide(out, scratch, out=out)


def _sech_squared(x: Array, out: Array, scratch: Array) -> None:
    np.exp(np.multiply(-2, np.abs(x, out=out), out=out), out=out)
    np.square(np.add(1, out, out=scratch), out=scratch)
    np.divide(np.multiply(4, out, out=out), scratch, out=out)


def _where(condition: Array, x: Array, y: Array, out: Array) -> None:
    np.copyto(out, y)
    np.copyto(out, x, where=condition)


# Kernels that are not ufuncs, writing into memory that is none of their operands', and the buffers they need beside it.
WRITING: Mapping[str, tuple[Callable[..., None], int]] = {
    "logistic": (_logistic, 1),
    "sech_squared": (_sech_squared, 1),
    "where": (_where, 0),
}


@dataclass(eq=False)
class _Block:
    """A block as a function of its inputs, its outputs, buffers and what computes its expressions.

    Attributes:
        run: computes it; returns the parts of what is summed over all blocks.
        buffers: their types.
        expressions: those that numexpr computes.
        is_shaped: whether it is for one shape only, and not for others with buffers of theirs.
        spare: buffers, and what computes expressions, that no call has.
    """

    run: Callable[..., tuple[Any, ...]]
    buffers: tuple[TensorType, ...]
    expressions: tuple[Equation, ...]
    is_shaped: bool = False
    spare: list[list[Any]] = field(default_factory=list)

    def take(self) -> list[Any]:
        """Return what a call needs of its own; it is put back into `spare`."""
        try:
            return self.spare.pop()
        except IndexError:
            buffers = [np.empty(type.shape, type.dtype.numpy) for type in self.buffers]
            return [*buffers, *map(expressions.compile_expression, self.expressions)]

    def over(self, shape: Shape) -> _Block:
        """Return it for another shape, with buffers of its own."""
        return _Block(self.run, tuple([type.with_shape(shape) for type in self.buffers]), self.expressions)

    @property
    def nbytes(self) -> int:
        """The bytes of the buffers."""
        return sum(type.nbytes for type in self.buffers)


class _Writing:
    """The source of a block."""

    def __init__(self, program: Program, is_written: Sequence[bool]) -> None:
        self._program = program
        self._names: dict[Operand, str] = {var: f"x{place}" for place, var in enumerate(program.inputs)}
        self._bound: dict[str, Any] = {}
        self._lines: list[str] = []
        self._buffers: list[TensorType] = []
        self._expressions: list[Equation] = []
        self._is_shaped = False
        self._free: dict[TensorType, list[str]] = {}
        self._owned: dict[Operand, tuple[TensorType, str]] = {}
        self._targets: dict[Operand, str] = {}
        self._returned: list[Operand] = []
        for place, (output, has_memory) in enumerate(zip(program.outputs, is_written, strict=True)):
            if not has_memory:
                self._returned.append(output)
            elif output not in self._targets:
                self._targets[output] = f"y{place}"

    def write(self, is_written: Sequence[bool]) -> _Block:
        """Return the block."""
        program = self._program
        narrow = narrow_operands(program)
        last = self._last_uses(narrow)
        for number, equation in enumerate(program.equations):
            if equation.results[0] in last:
                dying = [operand for operand in dict.fromkeys(narrow[number]) if last[operand] == number and operand in self._owned]
                self._write_equation(equation, narrow[number], dying)
        for place, (output, has_memory) in enumerate(zip(program.outputs, is_written, strict=True)):
            if has_memory and self._names[output] != f"y{place}":
                self._lines.append(f"copyto(y{place}, {self._names[output]})")
        self._lines.append(f"return ({''.join(f'{self._names[output]}, ' for output in self._returned)})")
        arguments = [f"x{place}" for place in range(len(program.inputs))]
        arguments += [f"y{place}" for place, has_memory in enumerate(is_written) if has_memory]
        arguments += [f"b{place}" for place in range(len(self._buffers))]
        arguments += [f"e{place}" for place in range(len(self._expressions))]
        run = make_function(", ".join(arguments), self._lines, {**self._bound, "copyto": np.copyto})
        return _Block(run, tuple(self._buffers), tuple(self._expressions), self._is_shaped)

    def _last_uses(self, narrow: Sequence[tuple[Operand, ...]]) -> dict[Operand, int]:
        last: dict[Operand, int] = dict.fromkeys(self._program.outputs, len(narrow))
        for number in range(len(narrow) - 1, -1, -1):
            if self._program.equations[number].results[0] in last:
                for operand in narrow[number]:
                    last.setdefault(operand, number)
        return last

    def _write_equation(self, equation: Equation, operands: Sequence[Operand], dying: Sequence[Operand]) -> None:
        result, name, kernel = equation.results[0], equation.primitive.name, equation.primitive.kernel
        given = ", ".join([self._read(operand) for operand in operands])
        if name == "sum":
            self._write_sum(equation, given)
            self._release(dying)
        elif isinstance(kernel, np.ufunc) and result.type.shape:
            self._release(dying)  # a ufunc may write over its operands
            self._lines.append(f"{self._bind(kernel)}({given}, out={self._target(result)})")
        elif equation.primitive is expressions.EXPRESSION:
            self._release(dying)  # numexpr too may write over its operands
            self._lines.append(f"e{len(self._expressions)}({given}, out={self._target(result)}, ex_uses_vml=False)")
            self._expressions.append(equation)
        elif name in WRITING:
            function, count = WRITING[name]
            scratch = [self._take(result.type) for _ in range(count)]
            target = self._target(result)
            self._lines.append(f"{self._bind(function)}({', '.join([given, target, *scratch])})")
            self._free.setdefault(result.type, []).extend(scratch)
            self._release(dying)
        else:
            bound = functools.partial(kernel, **equation.params) if equation.params else kernel
            self._is_shaped = self._is_shaped or bool(equation.params)
            self._names[result] = f"v{len(self._names)}"
            self._lines.append(f"{self._names[result]} = {self._bind(bound)}({given})")
            self._release(dying)

    def _write_sum(self, equation: Equation, given: str) -> None:
        result = equation.results[0]
        self._names[result] = f"v{len(self._names)}"
        self._lines.append(
            f"{self._names[result]} = {self._bind(np.add.reduce)}({given}, None, {self._bind(result.type.dtype.numpy)})"
        )

    def _read(self, operand: Operand) -> str:
        found = self._names.get(operand)
        if found is None:
            assert isinstance(operand, Literal)
            found = self._names[operand] = self._bind(operand.value[()])
        return found

    def _bind(self, item: Any) -> str:
        name = f"k{len(self._bound)}"
        self._bound[name] = item
        return name

    def _target(self, result: Operand) -> str:
        """Return where a result is written: into an output, or into a buffer."""
        target = self._targets.get(result)
        if target is None:
            target = self._take(result.type)
            self._owned[result] = (result.type, target)
        self._names[result] = target
        return target

    def _take(self, type: TensorType) -> str:
        free = self._free.setdefault(type, [])
        if free:
            return free.pop()
        self._buffers.append(type)
        return f"b{len(self._buffers) - 1}"

    def _release(self, dying: Sequence[Operand]) -> None:
        for operand in dying:
            type, buffer = self._owned.pop(operand)
            self._free[type].append(buffer)


def _write(body: Program, shape: Shape, given: Collection[str] = ()) -> _Block:
    """Return a block of a shape, with what is given to numexpr unless it needs more buffers so."""
    found = _write_first(body, frozenset(given))
    return _write_anew(body, shape, given) if found.is_shaped else found.over(shape)


@functools.lru_cache(maxsize=32)
def _write_first(body: Program, given: frozenset[str]) -> _Block:
    """Return a block of some shape: most serve others as well, with other buffers."""
    return _write_anew(body, (LENGTH,), given)


def _write_anew(body: Program, shape: Shape, given: Collection[str]) -> _Block:
    is_written = [bool(output.type.shape) for output in body.outputs]
    block = _block_of(body, shape)
    plain = _Writing(block, is_written).write(is_written)
    if not given:
        return plain
    joined = _Writing(expressions.join_expressions(block, given), is_written).write(is_written)
    return joined if joined.nbytes <= plain.nbytes else plain


def block_bytes(body: Program, threads: int = 1) -> int:
    """Return the bytes of the buffers that a cluster needs, shared by any number of threads up to the given one.

    They are those of a block for each thread, and those of the last block.
    """
    elements = max((count + 1) * _length_of(body, count) for count in range(1, threads + 1))
    return -(-elements * _write(body, (LENGTH,)).nbytes // LENGTH)


def _length_of(body: Program, threads: int) -> int:
    """Return the elements of a block: twice as many where all are of 4 bytes, and more for several threads."""
    sizes = [equation.results[0].type.dtype.numpy.itemsize for equation in body.equations]
    least = LENGTH * 8 // max(4, *sizes)
    share = math.prod(_whole_shape(body)) // (PIECES * threads)
    return least if threads == 1 else max(least, min(SHARED * least, share))


# -- a cluster -----------------------------------------------------------------------------------------------------------------


class Blocks:
    """What runs a cluster.

    Args:
        body: the cluster as a program.
        team: the threads that share its blocks; None: the one that calls.
        threads: how many of them at most; 0: all.
        given: the names of the operations that numexpr computes; the others are NumPy's.
    """

    def __init__(self, body: Program, team: Team | None = None, threads: int = 0, given: Collection[str] = ()) -> None:
        self._shape = _whole_shape(body)
        self._types = body.output_types
        self._cut = [bool(type.shape) for type in body.input_types]
        self._block = functools.cache(lambda shape: _write(body, shape, given))
        self._team = team
        self._threads = 1 if team is None else min(threads or team.size, team.size)
        self._length = _length_of(body, self._threads)
        self._is_given = bool(given)

    def __str__(self) -> str:
        return f"blocks on {self._threads} thread{'s' * (self._threads > 1)}"

    def __call__(self, *operands: Array, out: Sequence[Array | None] | Array | None = None) -> Any:
        """Return the outputs: an array, or a list of several; `out` is memory for it, or for each of them."""
        given = [out] if len(self._types) == 1 else out or [None] * len(self._types)
        results = [_memory(type, array) for type, array in zip(self._types, given, strict=True)]
        written = [array for array in results if array is not None]
        length = self._length if not self._is_given or expressions.has_one_thread() else expressions.LENGTH
        split = Split(self._shape, [*zip(operands, self._cut, strict=True)], written, length)
        totals = iter(zip(*self._run_all(split), strict=True))
        found = [
            np.add.reduce(np.array(next(totals)), 0, type.dtype.numpy) if array is None else array
            for array, type in zip(results, self._types, strict=True)
        ]
        return found[0] if len(found) == 1 else found

    def _run_all(self, split: Split) -> list[tuple[Any, ...]]:
        """Run all blocks, and return their parts of the sums, in order."""
        if self._team is None or self._threads == 1:
            parts = [self._run(split, starts, shape) for starts, shape in split.blocks]
        else:
            for _, shape in split.blocks:
                self._block(shape)  # written once, not by each thread
            pieces = split.pieces(PIECES * self._threads)
            parts = self._team.run(lambda number: self._run(split, *pieces[number]), len(pieces), self._threads)
        return list(itertools.chain.from_iterable(parts))

    def _run(self, split: Split, starts: range, shape: Shape) -> list[tuple[Any, ...]]:
        """Run blocks of one shape, and return their parts of the sums."""
        block = self._block(shape)
        own = block.take()
        run, parts, operands, results = block.run, [], split.operands(), split.results
        for start in starts:
            place = slice(start, start + shape[0])
            inputs = [array[place] if is_cut else array for array, is_cut in operands]
            parts.append(run(*inputs, *[array[place] for array in results], *own))
        block.spare.append(own)
        return parts


def _memory(type: TensorType, given: Array | None) -> Array | None:
    """Return memory for an output: what is given, else new one; None for a number."""
    if not type.shape:
        return None
    return np.empty(type.shape, type.dtype.numpy) if given is None else given
