"""How a tape runs over columns: where each value stands, what is computed once and what for each block, and what that takes.

A value is a column of a buffer, which another takes over once it is dead; or a number, if all samples share it. The elements of an
output stand side by side, and so do those of an input. `Layout` says how samples lie in arrays. Nothing here touches a number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gradwire_core.kernels.lanes import Places
from gradwire_core.kernels.lowering import Operation, lower
from gradwire_core.kernels.prices import BATCH_SECONDS, EDGE_SECONDS, LOOP_SECONDS, OPERATION_SECONDS
from gradwire_core.kernels.tape import Tape
from gradwire_core.types import Dtype, Shape, TensorType

# Of the columns of a block together: those in use stay in a second-level cache, and calls are long enough to be worth it.
BLOCK_BYTES = 2**21
SHORTEST, LONGEST = 512, 4096


def is_even(places: Places) -> bool:
    """Whether lanes at some places of a row-major array are like one: samples lie at equal distances."""
    return places == tuple(range(places[0], places[0] + len(places)))


@dataclass(frozen=True)
class Layout:
    """How samples lie in the arrays of a batch.

    Attributes:
        lanes: the lengths of the axes along which they lie.
        inputs: the type of each input, and where it has the lanes; no places where all samples share it.
        outputs: the type of each output, and where it has the lanes.
    """

    lanes: Shape
    inputs: tuple[tuple[TensorType, Places], ...]
    outputs: tuple[tuple[TensorType, Places], ...]

    @property
    def are_shared(self) -> tuple[bool, ...]:
        """Which inputs all samples share."""
        return tuple([not places for _, places in self.inputs])

    def cut(self, length: int) -> tuple[int, Shape]:
        """Return along which lane blocks of at most so many samples are cut, evenly, and the shape of a block."""
        lanes = self.lanes
        axis = next((axis for axis in range(len(lanes)) if math.prod(lanes[axis + 1 :]) <= length), len(lanes) - 1)
        longest = max(1, min(lanes[axis], length // math.prod(lanes[axis + 1 :])))
        return axis, (math.ceil(lanes[axis] / math.ceil(lanes[axis] / longest)), *lanes[axis + 1 :])

    def blocks(self, axis: int, count: int) -> Iterator[tuple[Any, ...]]:
        """Yield the indices of blocks that are `count` long along a lane; the last overlaps the one before it."""
        length = self.lanes[axis]
        starts = [min(start, length - count) for start in range(0, length, count)]
        for leading in itertools.product(*map(range, self.lanes[:axis])):
            for start in starts:
                yield (..., *leading, slice(start, start + count), *[slice(None)] * (len(self.lanes) - axis - 1))


# -- where everything stands -----------------------------------------------------------------------------------------------------


class Home(NamedTuple):
    """Where a value stands: a column, or a number that all samples share; of float64 or bool; its place among those alike."""

    is_column: bool
    dtype: Dtype
    place: int


class Call(NamedTuple):
    """An operation, with the homes of its operands, of its result and of its scratch columns."""

    operation: Operation
    homes: tuple[Home, ...]


class Edge(NamedTuple):
    """An input or an output.

    Attributes:
        homes: of the elements of a sample, side by side; shorter where an input's are not needed.
        elements: their places in a sample.
    """

    homes: tuple[Home, ...]
    elements: tuple[int, ...]


class Schedule:
    """How a tape runs over columns.

    Args:
        tape: what is computed for a sample.
        input_types: the types of its inputs, for one sample.
        are_shared: which inputs are the same for all samples.

    Attributes:
        constants: the homes of constants, and these.
        once: what is computed once.
        calls: what is computed for each block.
        inputs: how each input is loaded.
        outputs: how each output is stored.
        counts: how many columns and shared numbers there are, of each dtype.
    """

    def __init__(self, tape: Tape, input_types: Sequence[TensorType], are_shared: Sequence[bool]) -> None:
        self.tape = tape
        found = lower(tape, [type.dtype for type in input_types], are_shared)
        self._dtypes, self._shared = found.dtypes, found.shared
        self._homes: dict[int, Home] = {}
        self._free: dict[Dtype, list[Home]] = {Dtype.FLOAT64: [], Dtype.BOOL: []}
        self.counts: dict[tuple[bool, Dtype], int] = {}
        self._last = self._find_last_uses(found.once, found.columns)
        self.inputs = [
            self._load(registers.ravel().tolist(), item) for registers, item in zip(tape.inputs, are_shared, strict=True)
        ]
        self.constants = [(self._settle(register), number) for register, number in tape.constants.items() if register in self._last]
        self.once = [self._place_once(item) for item in found.once]
        self.outputs = [self._target(registers.ravel().tolist(), found.columns) for registers in tape.outputs]
        self.calls = [self._place(number, item) for number, item in enumerate(found.columns)]
        self.copies = self._find_copies()

    def _find_last_uses(self, once: Sequence[Operation], columns: Sequence[Operation]) -> dict[int, int]:
        """Return the last of the operations on columns that takes each value."""
        last = {operand: -1 for item in once for operand in item.operands}
        last |= {operand: number for number, item in enumerate(columns) for operand in item.operands}
        for registers in self.tape.outputs:
            last.update(dict.fromkeys(registers.ravel().tolist(), len(columns)))
        return last

    def _new(self, dtype: Dtype, *, is_column: bool = True) -> Home:
        place = self.counts.get((is_column, dtype), 0)
        self.counts[is_column, dtype] = place + 1
        return Home(is_column, dtype, place)

    def _settle(self, register: int) -> Home:
        """Give a value that all samples share a home."""
        found = self._homes[register] = self._new(self._dtypes[register], is_column=False)
        return found

    def _load(self, registers: Sequence[int], is_shared: bool) -> Edge:
        elements = tuple([element for element, register in enumerate(registers) if is_shared or register in self._last])
        homes = tuple([self._new(self._dtypes[registers[element]], is_column=not is_shared) for element in elements])
        self._homes.update(zip([registers[element] for element in elements], homes, strict=True))
        return Edge(homes, elements)

    def _target(self, registers: Sequence[int], columns: Sequence[Operation]) -> Edge:
        """Give the elements of an output columns side by side, in which what is computed is written at once."""
        homes = tuple([self._new(self._dtypes[register]) for register in registers])
        made = {item.result for item in columns}
        for register, home in zip(registers, homes, strict=True):
            if register in made and register not in self._homes:
                self._homes[register] = home
        return Edge(homes, tuple(range(len(registers))))

    def _place_once(self, item: Operation) -> Call:
        scratch = [self._new(Dtype.FLOAT64, is_column=False) for _ in range(item.scratch_count)]
        return Call(item, (*self._read(item), self._settle(item.result), *scratch))

    def _place(self, number: int, item: Operation) -> Call:
        """Give the result of an operation a home, and take those of operands that are needed no more."""
        operands = self._read(item)
        dying = [self._homes[operand] for operand in dict.fromkeys(item.operands) if self._is_dying(operand, number)]
        if item.is_writing_over:
            self._release(dying)
        if item.result not in self._homes:
            self._homes[item.result] = self._take(self._dtypes[item.result])
        scratch = [self._take(Dtype.FLOAT64) for _ in range(item.scratch_count)]
        self._release(scratch)
        if not item.is_writing_over:
            self._release(dying)
        return Call(item, (*operands, self._homes[item.result], *scratch))

    def _is_dying(self, operand: int, number: int) -> bool:
        return operand not in self._shared and self._last[operand] == number

    def _read(self, item: Operation) -> list[Home]:
        return [self._homes[operand] for operand in item.operands]

    def _take(self, dtype: Dtype) -> Home:
        free = self._free[dtype]
        return free.pop() if free else self._new(dtype)

    def _release(self, homes: Sequence[Home]) -> None:
        for home in homes:
            self._free[home.dtype].append(home)

    def _find_copies(self) -> list[tuple[Home, Home]]:
        """Return what is copied into outputs at the end of a block: inputs, constants, what stands twice."""
        return [
            (self._homes[register], home)
            for registers, edge in zip(self.tape.outputs, self.outputs, strict=True)
            for register, home in zip(registers.ravel().tolist(), edge.homes, strict=True)
            if self._homes[register] != home
        ]

    # -- what it takes -----------------------------------------------------------------------------------------------------------

    @property
    def sample_bytes(self) -> int:
        """The bytes of the columns of one sample."""
        return sum(count * dtype.numpy.itemsize for (is_column, dtype), count in self.counts.items() if is_column)

    def block(self, layout: Layout) -> tuple[int, Shape]:
        """Return the lane along which blocks are cut, and the shape of one."""
        return layout.cut(min(LONGEST, max(SHORTEST, BLOCK_BYTES // max(1, self.sample_bytes))))

    def scratch_bytes(self, layout: Layout) -> int:
        """Return the bytes of the buffers of a call."""
        return math.prod(self.block(layout)[1]) * self.sample_bytes

    def seconds(self, layout: Layout, uneven: Collection[int] = ()) -> float:
        """Return the predicted seconds of a call.

        Args:
            layout: how samples lie in its arrays.
            uneven: the places of inputs in which samples do not lie at equal distances.
        """
        axis, shape = self.block(layout)
        block_count = math.prod(layout.lanes[:axis]) * math.ceil(layout.lanes[axis] / shape[0])
        edges = sum(len(edge.homes) for edge in (*self.inputs, *self.outputs))
        calls = len(self.calls) + len(self.copies) + edges
        each = sum(call.operation.seconds for call in self.calls) + edges * EDGE_SECONDS
        broken = [self.inputs[place] for place in uneven]
        broken += [edge for edge, (_, places) in zip(self.outputs, layout.outputs, strict=True) if not is_even(places)]
        each += sum(len(edge.homes) for edge in broken) * LOOP_SECONDS / layout.lanes[-1]
        once = BATCH_SECONDS + len(self.once) * OPERATION_SECONDS
        return once + block_count * (calls * OPERATION_SECONDS + math.prod(shape) * each)
