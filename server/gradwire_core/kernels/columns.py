"""Tapes run over columns: a register is a contiguous column of numbers, one for each sample, of a block of samples.

    load: columns of the inputs --> operations, each a NumPy call that writes into a buffer --> store: columns of the outputs

The columns in use stay in a cache, and their buffers are used again by the next block and the next call. What all samples share is
computed once, on single numbers. `Schedule` says where everything stands. Threads may share a batch, and the batches of a thread
share its memory: nothing in it outlives a call.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.kernels.lanes import Places
from gradwire_core.kernels.schedule import Call, Edge, Home, Layout, Schedule
from gradwire_core.native.columns import Samples
from gradwire_core.types import Array, Dtype, Shape, TensorType

# Up to so many elements of a sample are stored one column at a time: a copy of a transposed array has inner loops that short.
NARROW = 5


_THREAD = threading.local()


def _memory(nbytes: int) -> Array:
    """Return memory of this thread: one array for all batches, which grows."""
    found: Array | None = getattr(_THREAD, "memory", None)
    if found is None or found.nbytes < nbytes:
        found = _THREAD.memory = np.empty(max(nbytes, 0 if found is None else 2 * found.nbytes), np.uint8)
    return found[:nbytes]


class _Workspace:
    """The buffers of a thread, and the calls that are bound to them."""

    def __init__(self, schedule: Schedule, shape: Shape) -> None:
        self._shape = shape
        length = math.prod(shape)
        columns = {dtype: count for (is_column, dtype), count in schedule.counts.items() if is_column}
        self._columns: dict[Dtype, Array] = {}
        memory, start = _memory(schedule.sample_bytes * length), 0
        for dtype, count in sorted(columns.items(), key=lambda item: -item[0].numpy.itemsize):  # each aligned for its elements
            stop = start + count * length * dtype.numpy.itemsize
            self._columns[dtype] = memory[start:stop].view(dtype.numpy).reshape(count, length)
            start = stop
        self._numbers = {
            dtype: np.empty(count, dtype.numpy) for (is_column, dtype), count in schedule.counts.items() if not is_column
        }
        self._views: dict[tuple[Home, bool], Array] = {}
        for home, number in schedule.constants:
            self.view(home)[...] = number
        self.once = [self._bind(call) for call in schedule.once]
        self.calls = [self._bind(call) for call in schedule.calls]
        self.calls += [(np.copyto, (self.view(target), self.view(home))) for home, target in schedule.copies]

    def _bind(self, call: Call) -> tuple[Any, tuple[Array, ...]]:
        bits = (*call.operation.are_bits, *[False] * call.operation.scratch_count)
        return call.operation.function, tuple([self.view(home, is_bits=item) for home, item in zip(call.homes, bits, strict=True)])

    def view(self, home: Home, *, is_bits: bool = False) -> Array:
        """Return a column or a number, as integers of the same bits where asked for."""
        found = self._views.get((home, is_bits))
        if found is None:
            whole = self._columns[home.dtype] if home.is_column else self._numbers[home.dtype]
            found = whole[home.place] if home.is_column else whole[home.place : home.place + 1].reshape(())
            found = self._views[home, is_bits] = found.view(np.int64) if is_bits else found
        return found

    def block(self, homes: Sequence[Home], shape: Shape) -> Array:
        """Return columns side by side, as an array [shape of a sample, shape of a block]."""
        first = homes[0]
        return self._columns[first.dtype][first.place : first.place + len(homes)].reshape(*shape, *self._shape)

    def column(self, home: Home) -> Array:
        """Return a column in the shape of a block."""
        return self.view(home).reshape(self._shape)

    def numbers(self, homes: Sequence[Home]) -> Array:
        """Return numbers side by side."""
        return self._numbers[homes[0].dtype][homes[0].place : homes[0].place + len(homes)]


def _lanes_last(array: Array, places: Places) -> Array:
    return array.transpose([*[axis for axis in range(array.ndim) if axis not in places], *places])


def _sample_shape(type: TensorType, places: Places) -> Shape:
    return tuple([length for axis, length in enumerate(type.shape) if axis not in places])


class Columns:
    """What runs a batch.

    Args:
        schedule: how its tape runs.
        layout: how samples lie in its arrays.
    """

    def __init__(self, schedule: Schedule, layout: Layout) -> None:
        self._schedule = schedule
        self._layout = layout
        axis, self._shape = schedule.block(layout)
        self._indices = [*layout.blocks(axis, self._shape[0])]
        self._thread = threading.local()

    @property
    def samples(self) -> Samples:
        """What is computed for each sample, for the compiler of loops."""
        tape, layout = self._schedule.tape, self._layout
        inputs = [(type, registers, places) for (type, places), registers in zip(layout.inputs, tape.inputs, strict=True)]
        outputs = [(type, registers, places) for (type, places), registers in zip(layout.outputs, tape.outputs, strict=True)]
        return Samples(math.prod(layout.lanes), tape.rows, tape.constants, inputs, outputs)

    def __call__(self, *operands: Array) -> Any:
        """Return the outputs: an array, or a tuple of them."""
        results = [np.empty(type.shape, type.dtype.numpy) for type, _ in self._layout.outputs]
        workspace: _Workspace | None = getattr(self._thread, "workspace", None)
        if workspace is None:
            workspace = self._thread.workspace = _Workspace(self._schedule, self._shape)
        loads = self._loads(workspace, operands)
        stores = self._stores(workspace, results)
        for function, given in workspace.once:
            function(*given)
        calls, copy = workspace.calls, np.copyto
        for index in self._indices:
            for target, source in loads:
                copy(target, source[index])
            for function, given in calls:
                function(*given)
            for target, source in stores:
                copy(target[index], source)
        return results[0] if len(results) == 1 else tuple(results)

    def _loads(self, workspace: _Workspace, operands: Sequence[Array]) -> list[tuple[Array, Array]]:
        """Return what is loaded for each block: buffers, and arrays with the lanes last. What all samples share is loaded now."""
        found = []
        for operand, (type, places), edge in zip(operands, self._layout.inputs, self._schedule.inputs, strict=True):
            if not edge.homes:
                continue
            if not places:
                workspace.numbers(edge.homes)[...] = np.ravel(operand)
                continue
            array, shape = _lanes_last(np.asarray(operand), places), _sample_shape(type, places)
            if len(edge.homes) == math.prod(shape):
                found.append((workspace.block(edge.homes, shape), array))
            else:
                found += self._columns(workspace, edge, array, shape)
        return found

    def _stores(self, workspace: _Workspace, results: Sequence[Array]) -> list[tuple[Array, Array]]:
        """Return what is stored for each block: arrays with the lanes last, and buffers."""
        found = []
        for result, (type, places), edge in zip(results, self._layout.outputs, self._schedule.outputs, strict=True):
            array, shape = _lanes_last(result, places), _sample_shape(type, places)
            if len(edge.homes) > NARROW:
                found.append((array, workspace.block(edge.homes, shape)))
            else:
                found += [(target, source) for source, target in self._columns(workspace, edge, array, shape)]
        return found

    def _columns(self, workspace: _Workspace, edge: Edge, array: Array, shape: Shape) -> list[tuple[Array, Array]]:
        """Return the columns of an array one by one, behind their buffers."""
        places = [np.unravel_index(element, shape) if shape else () for element in edge.elements]
        return [(workspace.column(home), array[place]) for home, place in zip(edge.homes, places, strict=True)]
