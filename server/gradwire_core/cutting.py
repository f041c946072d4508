"""How an evaluation can be cut: into which shards, and how their results are joined.

    vmap over B            the same with fewer elements; batched inputs are sliced, results joined along axis 0
    Jacobian, by rows      outputs of the function sliced along an axis; results joined along it
    Jacobian, by columns   inputs sliced along an axis, the derivative in the slice alone; results joined along it
    Hessian                the Jacobian of the gradient

So each shard has the structure that is left of the whole. Into how many shards is not decided here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from gradwire_core.builder import Builder, Value
from gradwire_core.engine import Output, derive
from gradwire_core.ops.shaping import concatenate, slice_axes
from gradwire_core.program import Program
from gradwire_core.transforms import Transform, apply
from gradwire_core.types import Shape, TensorType

_CUT = ("jacobian", "hessian")


class Slice(NamedTuple):
    """The elements of an array from `start` to before `stop` along an axis."""

    axis: int
    start: int
    stop: int


class Argument(NamedTuple):
    """What a shard is given for an input or a seed.

    Attributes:
        source: the position of an array of the whole: its inputs first, then the seeds of each output.
        part: which slice of it; None for all.
    """

    source: int
    part: Slice | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """One evaluation of several.

    Attributes:
        program: its program.
        outputs: what it computes of it.
        inputs: the inputs of its program.
        seeds: for each output, its seeds.
    """

    program: Program
    outputs: tuple[Output, ...]
    inputs: tuple[Argument, ...]
    seeds: tuple[tuple[Argument, ...], ...]


class Piece(NamedTuple):
    """A result of a shard.

    Attributes:
        shard: the number of the shard.
        output: of its output.
        result: of the result of that.
        start: where it begins in the result of the whole, along the axis of the joint.
    """

    shard: int
    output: int
    result: int
    start: int = 0


class Joint(NamedTuple):
    """How a result of the whole is made.

    Attributes:
        axis: along which its pieces are joined.
        pieces: the pieces in order; one alone is the result itself, in any layout.
        type: of the result, if it has several.
    """

    axis: int
    pieces: tuple[Piece, ...]
    type: TensorType | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """A whole in shards.

    Attributes:
        shards: the shards.
        results: for each output of the whole, how each of its results is made.
    """

    shards: tuple[Shard, ...]
    results: tuple[tuple[Joint, ...], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    Attributes:
        program: the program.
        outputs: what is asked of it.
        input_types: the types of the inputs, batched as they come.
        seed_starts: for each output, where its seeds begin among all arrays.
        seed_counts: for each output, the number of its seeds.
        result_counts: for each output, the number of its results.
        array_types: for each output, the types of the arrays of its results.
    """

    program: Program
    outputs: tuple[Output, ...]
    input_types: Sequence[TensorType]
    seed_starts: Sequence[int]
    seed_counts: Sequence[int]
    result_counts: Sequence[int]
    array_types: Sequence[Sequence[TensorType]]

    def arguments(self, number: int) -> tuple[tuple[Argument, ...], tuple[Argument, ...]]:
        """Return the inputs, and the seeds of an output, whole."""
        start = self.seed_starts[number]
        seeds = range(start, start + self.seed_counts[number])
        return tuple(map(Argument, range(len(self.input_types)))), tuple(map(Argument, seeds))


class Way(Protocol):
    """A way to cut some outputs."""

    @property
    def numbers(self) -> Sequence[int]:
        """The outputs that are cut."""

    @property
    def most(self) -> int:
        """Into how many pieces it can cut."""

    def shard(self, count: int, index: int) -> Shard:
        """Return one shard of so many."""

    def results(self, count: int, first: int) -> list[tuple[Joint, ...]]:
        """Return how the results of each output are made of so many shards, of which the first has a number."""


def ways_to_cut(request: Request, number: int) -> list[Way]:
    """Return the ways to cut one output; none if there are none."""
    output = request.outputs[number]
    chain = output.transforms
    if output.layout != "dense" or not chain:
        return []
    batch = cut_batch(request, (number,))
    if batch is not None:
        return [batch]
    if chain[-1].name not in _CUT:
        return []
    function = derive(request.program, chain[:-1])
    if chain[-1].name == "hessian":
        function = apply(function, Transform("grad", chain[-1].argnums))
    inputs, seeds = request.arguments(number)
    return [kind(number, function, chain[-1].argnums, (*inputs, *seeds)) for kind in (_Rows, _Columns)]


# -- batches -------------------------------------------------------------------------------------------------------------------


def cut_batch(request: Request, numbers: Sequence[int]) -> _Batch | None:
    """Return the way to cut the batch of some outputs, if all have the same one."""
    lasts = [request.outputs[number].transforms[-1:] for number in numbers]
    if not lasts or any(not last or last[0].name != "vmap" for last in lasts):
        return None
    count = len(request.program.inputs)
    first = lasts[0][0]
    if any(last[0].axis_size != first.axis_size or last[0].in_axes[:count] != first.in_axes[:count] for last in lasts):
        return None
    return _Batch(request, tuple(numbers), first.axis_size)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Outputs over one batch axis."""

    request: Request
    numbers: tuple[int, ...]
    most: int

    def shard(self, count: int, index: int) -> Shard:
        start, stop = _bounds(self.most, count, index)
        outputs, seeds = [], []
        inputs: tuple[Argument, ...] = ()
        for number in self.numbers:
            output = self.request.outputs[number]
            last = output.transforms[-1]
            outputs.append(replace(output, transforms=(*output.transforms[:-1], replace(last, axis_size=stop - start))))
            arguments = [
                argument if axis is None else Argument(argument.source, Slice(axis, start, stop))
                for argument, axis in zip(itertools.chain(*self.request.arguments(number)), last.in_axes, strict=True)
            ]
            inputs = tuple(arguments[: len(self.request.input_types)])
            seeds.append(tuple(arguments[len(inputs) :]))
        return Shard(self.request.program, tuple(outputs), inputs, tuple(seeds))

    def results(self, count: int, first: int) -> list[tuple[Joint, ...]]:
        found = []
        for place, number in enumerate(self.numbers):
            size = self.request.result_counts[number]
            starts = [_bounds(self.most, count, index)[0] for index in range(count)]
            pieces = (tuple(Piece(first + index, place, result, starts[index]) for index in range(count)) for result in range(size))
            found.append(tuple(Joint(0, item) for item in pieces))
        return found


# -- Jacobians -----------------------------------------------------------------------------------------------------------------


class _Jacobian:
    """The Jacobian of a function, as one output of a request.

    Args:
        number: of the output.
        function: what it is the Jacobian of.
        argnums: in which inputs.
        arguments: what the function is given.
    """

    def __init__(self, number: int, function: Program, argnums: Sequence[int], arguments: Sequence[Argument]) -> None:
        self.numbers = (number,)
        self.function = function
        self.argnums = tuple(argnums)
        self.arguments = tuple(arguments)
        self.shapes_out = [type.shape for type in function.output_types]
        self.shapes_in = [function.input_types[position].shape for position in argnums]

    def results_of(
        self, count: int, first: int, axis_of: Callable[[int, int], int], pieces_of: Callable[[int, int, int], Piece | None]
    ) -> list[tuple[Joint, ...]]:
        """Return how each block is made: where it is cut, and its piece of each shard, None where that has none."""
        joints = []
        for row, column in itertools.product(range(len(self.shapes_out)), range(len(self.shapes_in))):
            found = (pieces_of(index, row, column) for index in range(count))
            pieces = tuple(piece._replace(shard=first + piece.shard) for piece in found if piece is not None)
            joints.append(Joint(axis_of(row, column), pieces))
        return [tuple(joints)]


class _Rows(_Jacobian):
    """A Jacobian cut by rows: by slices of the outputs of its function."""

    @property
    def most(self) -> int:
        return _most(self.shapes_out)

    def shard(self, count: int, index: int) -> Shard:
        builder = Builder()
        outputs = builder.inline(self.function, [builder.input(type) for type in self.function.input_types])
        cuts = _cuts(self.shapes_out, count, index)
        kept = [_take(value, part) for value, part in zip(outputs, cuts, strict=True) if part is not None]
        output = Output((Transform("jacobian", self.argnums),))
        return Shard(builder.build(kept), (output,), self.arguments, ((),))

    def results(self, count: int, first: int) -> list[tuple[Joint, ...]]:
        places = [_places(_cuts(self.shapes_out, count, index)) for index in range(count)]

        def piece(index: int, row: int, column: int) -> Piece | None:
            found = places[index][row]
            return None if found is None else Piece(index, 0, found.place * len(self.argnums) + column, found.start)

        axes = [_axis(shape, count) for shape in self.shapes_out]
        return self.results_of(count, first, lambda row, _: axes[row], piece)


class _Columns(_Jacobian):
    """A Jacobian cut by columns: by slices of the inputs that it is in."""

    @property
    def most(self) -> int:
        return _most(self.shapes_in)

    def shard(self, count: int, index: int) -> Shard:
        builder = Builder()
        operands = [builder.input(type) for type in self.function.input_types]
        arguments, argnums = list(self.arguments), []
        for position, part in zip(self.argnums, _cuts(self.shapes_in, count, index), strict=True):
            if part is None:
                continue
            if part == _ALL:
                argnums.append(position)
                continue
            argnums.append(len(arguments))
            arguments.append(Argument(self.arguments[position].source, part))
            operands[position] = _put(builder, operands[position], part)
        outputs = builder.inline(self.function, operands)
        return Shard(builder.build(outputs), (Output((Transform("jacobian", tuple(argnums)),)),), tuple(arguments), ((),))

    def results(self, count: int, first: int) -> list[tuple[Joint, ...]]:
        places = [_places(_cuts(self.shapes_in, count, index)) for index in range(count)]

        def piece(index: int, row: int, column: int) -> Piece | None:
            found = places[index][column]
            width = sum(item is not None for item in places[index])
            return None if found is None else Piece(index, 0, row * width + found.place, found.start)

        axes = [_axis(shape, count) for shape in self.shapes_in]
        return self.results_of(count, first, lambda row, column: len(self.shapes_out[row]) + axes[column], piece)


_ALL = Slice(0, 0, 0)
"""What is not cut, for it has no axis."""


def _bounds(length: int, count: int, index: int) -> tuple[int, int]:
    """Return where a piece of so many begins and ends: all as long as each other, or the first ones longer by one."""
    size, rest = divmod(length, count)
    start = index * size + min(index, rest)
    return start, start + size + (index < rest)


def _most(shapes: Sequence[Shape]) -> int:
    """Return into how many pieces some arrays can be cut."""
    return max((length for shape in shapes if math.prod(shape) for length in shape), default=1)


def _axis(shape: Shape, count: int) -> int:
    """Return the axis along which an array is cut: the first that is long enough, else the longest; 0 if there is none."""
    enough = (axis for axis, length in enumerate(shape) if length >= count)
    return next(enough, max(range(len(shape)), key=lambda axis: shape[axis], default=0))


def _cuts(shapes: Sequence[Shape], count: int, index: int) -> list[Slice | None]:
    """Return the slice of each array that a piece has, None where it has nothing of it; the first has all that is not cut.

    An array that is too short for all pieces, or is empty, is left to the first ones, each with at least one element if any.
    """
    found: list[Slice | None] = []
    for shape in shapes:
        if not math.prod(shape) or not shape:
            found.append(_ALL if index == 0 else None)
            continue
        axis = _axis(shape, count)
        start, stop = _bounds(shape[axis], count, index)
        found.append(Slice(axis, start, stop) if start < stop else None)
    return found


class _Place(NamedTuple):
    """The position of an array among those that a piece has something of, and where that begins."""

    place: int
    start: int


def _places(cuts: Sequence[Slice | None]) -> list[_Place | None]:
    places: Iterator[int] = itertools.count()
    return [None if part is None else _Place(next(places), part.start) for part in cuts]


def _take(value: Value, part: Slice) -> Value:
    if part == _ALL:
        return value
    axis, start, stop = part
    starts = tuple(start if place == axis else 0 for place in range(value.ndim))
    stops = tuple(stop if place == axis else length for place, length in enumerate(value.shape))
    found: Value = slice_axes(value, starts, stops, (1,) * value.ndim)
    return found


def _put(builder: Builder, value: Value, part: Slice) -> Value:
    """Return an array in which a further input stands in place of a slice."""
    axis, start, stop = part
    length = value.shape[axis]
    shape = tuple(stop - start if place == axis else size for place, size in enumerate(value.shape))
    middle = builder.input(value.type.with_shape(shape))
    around = ((0, start), (stop, length))
    before, after = (_take(value, Slice(axis, *ends)) if ends[0] < ends[1] else None for ends in around)
    found: Value = concatenate([item for item in (before, middle, after) if item is not None], axis)
    return found
