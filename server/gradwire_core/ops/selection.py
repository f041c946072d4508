"""NumPy's indexing: what an index selects of a shape, and how it is read and put back by slices, reshapes and `take`.

An index known while tracing is part of the structure of a program; a traced one is an operand, and may hold integers only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire_core.builder import Value, implements
from gradwire_core.errors import DtypeError, ShapeError, TracingError
from gradwire_core.ops._declare import constant
from gradwire_core.ops.elementwise import add, greater_equal, less, logical_or, multiply, where
from gradwire_core.ops.indexing import check_static, take_flat
from gradwire_core.ops.shaping import flip, pad_with_zeros, reshape, slice_axes, stack, transpose
from gradwire_core.types import Shape

Integers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """What an index selects of an array, in two steps: a part of it, then integers along one axis of that part.

    Attributes:
        source: the shape of the array.
        starts: the first index along each axis of the array.
        stops: the end of the indices along each axis.
        steps: the step between them, positive.
        flips: the axes along which their order is then reversed.
        basic: the shape without the axes of integers, and with those of None.
        order: the order of its axes that puts those of index arrays together.
        merged: its shape with these as one axis: the shape of the part.
        place: the position of that axis.
        indices: integers along it; None where there are no index arrays.
    """

    source: Shape
    starts: Integers
    stops: Integers
    steps: Integers
    flips: Integers
    basic: Shape
    order: Integers
    merged: Shape
    place: int
    indices: Any

    @property
    def shape(self) -> Shape:
        """The shape of what is selected."""
        if self.indices is None:
            return self.merged
        return (*self.merged[: self.place], *self.indices.shape, *self.merged[self.place + 1 :])

    @property
    def is_whole(self) -> bool:
        """Whether the part has all elements of the array."""
        return math.prod(self.merged) == math.prod(self.source)

    def part(self, x: Any) -> Any:
        """Return the part of an array, to which the index arrays apply."""
        sliced = slice_axes(x, self.starts, self.stops, self.steps)
        if self.flips:
            sliced = flip(sliced, self.flips)
        return reshape(transpose(reshape(sliced, self.basic), self.order), self.merged)

    def spread(self, part: Any) -> Any:
        """Return zeros of the shape of the array, with a part in its place."""
        moved = reshape(part, tuple(self.basic[axis] for axis in self.order))
        lengths = tuple(len(range(*item)) for item in zip(self.starts, self.stops, self.steps, strict=True))
        sliced = reshape(transpose(moved, tuple(int(axis) for axis in np.argsort(self.order))), lengths)
        if self.flips:
            sliced = flip(sliced, self.flips)
        spans = [(length - 1) * step + 1 if length else 0 for length, step in zip(lengths, self.steps, strict=True)]
        high = tuple(length - start - span for length, start, span in zip(self.source, self.starts, spans, strict=True))
        return pad_with_zeros(sliced, self.starts, high, tuple(step - 1 for step in self.steps))


@implements(Value.__getitem__)
def getitem(x: Any, index: Any) -> Any:
    """Return x[index] by NumPy's rules, for integers, slices, None, ellipses, integer arrays and static masks."""
    chosen = select(x.shape, index)
    part = chosen.part(x)
    return part if chosen.indices is None else take_flat(part, chosen.indices, chosen.place)


def select(shape: Shape, index: Any) -> Selection:
    """Return what an index selects of an array of a shape, by NumPy's rules.

    Raises:
        ShapeError: there are more indices than axes, a mask has another shape, or index arrays do not broadcast.
        DtypeError: an index is neither an integer nor a mask.
        ArgumentError: an index known while tracing is out of range.
        TracingError: a mask or a slice is not known while tracing.
    """
    bounds: list[tuple[int, int, int]] = []
    flips: list[int] = []
    basic: list[int] = []
    arrays: dict[int, Any] = {}
    # Index arrays and integers side by side leave their axes there; where anything else parts them, in front.
    place: int | None = None
    was_advanced = is_parted = False
    for item in _expand(index if isinstance(index, tuple) else (index,), shape):
        is_advanced = not isinstance(item, slice) and item is not None and item is not Ellipsis
        if is_advanced and place is None:
            place = len(basic) - len(arrays)
        elif is_advanced and not was_advanced:
            is_parted = True
        was_advanced = is_advanced
        if item is None or isinstance(item, _Flag):
            if isinstance(item, _Flag):
                arrays[len(basic)] = item.indices
            basic.append(1)
        elif item is not Ellipsis:
            length = shape[len(bounds)]
            bound, kept, is_reversed = _along_axis(item, length)
            if is_reversed:
                flips.append(len(bounds))
            if isinstance(item, (np.ndarray, Value)):
                arrays[len(basic)] = item
            bounds.append(bound)
            basic += kept
    starts, stops, steps = zip(*bounds, strict=True) if bounds else ((), (), ())
    front = 0 if is_parted or place is None else place
    rest = [axis for axis in range(len(basic)) if axis not in arrays]
    order = (*rest[:front], *arrays, *rest[front:])
    if not arrays:
        return Selection(shape, starts, stops, steps, tuple(flips), tuple(basic), order, tuple(basic), 0, None)
    lengths = [basic[axis] for axis in arrays]
    merged = (*[basic[axis] for axis in rest[:front]], math.prod(lengths), *[basic[axis] for axis in rest[front:]])
    indices = _flat_indices(list(arrays.values()), lengths)
    return Selection(shape, starts, stops, steps, tuple(flips), tuple(basic), order, merged, front, indices)


@dataclass(frozen=True, slots=True)
class _Flag:
    """A single True or False as an index: one or no element along a new axis."""

    indices: Any


def _along_axis(item: Any, length: int) -> tuple[tuple[int, int, int], list[int], bool]:
    """Return the bounds of an index along an axis, the lengths it leaves there, and whether it reverses what it takes."""
    if isinstance(item, slice):
        start, stop, step, is_reversed = _normal_slice(item, length)
        return (start, stop, step), [len(range(start, stop, step))], is_reversed
    check_static("index", np.asarray(item) if isinstance(item, int) else item, length)
    if isinstance(item, int):
        return (item % length, item % length + 1, 1), [], False
    return (0, length, 1), [length], False


def _normal_slice(item: slice, length: int) -> tuple[int, int, int, bool]:
    """Return a slice of positive step, and whether what it takes is then reversed."""
    if item.step == 0:
        raise ShapeError("index: needed a slice of a step other than 0, got 0; leave the step out", given=0)
    start, stop, step = item.indices(length)
    places = range(start, stop, step)
    if not places:
        return 0, 0, 1, False
    if step > 0:
        return start, stop, step, False
    return places[-1], places[0] + 1, -step, True


def _expand(index: Sequence[Any], shape: Shape) -> list[Any]:
    """Return an index with every axis named: by int, slice or integer array; None, flags and at most one ellipsis stay."""
    items = [_normal(item) for item in index]
    used = sum(map(_axis_count, items))
    ellipses = sum(item is Ellipsis for item in items)
    if used > len(shape) or ellipses > 1:
        given = f"{used} and {ellipses}"
        raise ShapeError(
            f"index: needed at most {len(shape)} indices and one ellipsis, got {given}; drop some", given=used, ndim=len(shape)
        )
    place = next((place for place, item in enumerate(items) if item is Ellipsis), len(items))
    items[place:place] = [slice(None)] * (len(shape) - used)
    named: list[Any] = []
    axis = 0
    for item in items:
        count = _axis_count(item)
        if _is_mask(item):
            if item.shape != shape[axis : axis + count]:
                given = f"{list(item.shape)} for axes {list(shape[axis : axis + count])}"
                raise ShapeError(
                    f"index: needed a mask as long as the axes it masks, got {given}; correct the mask", given=item.shape
                )
            named += np.nonzero(item)
        else:
            named.append(item)
        axis += count
    return named


def _axis_count(item: Any) -> int:
    """Return how many axes of the array an item of an index speaks of."""
    if item is None or item is Ellipsis or isinstance(item, _Flag):
        return 0
    return int(item.ndim) if _is_mask(item) else 1


def _is_mask(item: Any) -> bool:
    return isinstance(item, np.ndarray) and item.dtype == np.bool_


def _normal(item: Any) -> Any:
    """Return an item of an index as None, Ellipsis, a slice, an int, a flag, a mask or an array of integers."""
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    if isinstance(item, (list, tuple)) and any(isinstance(part, Value) for part in item):
        item = stack(item)
    if isinstance(item, Value):
        if item.dtype == np.bool_:
            text = "index: needed a mask known while tracing, got a traced one; its count has no static shape: use np.where"
            raise TracingError(text, given=item.type)
        if item.dtype.kind != "i":
            raise DtypeError(f"index: needed integers, got {item.type}; convert it with astype", given=item.type)
        return item
    array = np.asarray(item)
    if array.dtype == np.bool_:
        return array if array.ndim else _Flag(np.zeros(int(array), np.int64))
    if array.dtype.kind not in "iu" and array.size:
        given = getattr(item, "dtype", type(item).__name__)
        raise DtypeError(f"index: needed an integer, a slice, None, an ellipsis or an array, got {given}; convert it", given=given)
    return array.astype(np.int64) if array.ndim else int(array)


def _flat_indices(indices: Sequence[Any], lengths: Sequence[int]) -> Any:
    """Return index arrays of several axes, broadcast together, as one of these axes in one."""
    if len(indices) == 1:
        return indices[0]
    try:
        np.broadcast_shapes(*[item.shape for item in indices])
    except ValueError:
        given = ", ".join(str(list(item.shape)) for item in indices)
        raise ShapeError(
            f"index: needed index arrays that broadcast, got shapes {given}; make them agree or 1", given=given
        ) from None
    traced = next((item for item in indices if isinstance(item, Value)), None)
    flat: Any = constant(traced, np.zeros((), np.int64))
    is_outside: Any = constant(traced, np.zeros((), np.bool_))
    for item, length in zip(indices, lengths, strict=True):
        number = item if isinstance(item, Value) else constant(traced, item)
        flat = add(multiply(flat, length), where(less(number, 0), add(number, length), number))
        if isinstance(item, Value):
            # Without this an index too large along one axis would read from the next row.
            is_outside = logical_or(is_outside, logical_or(less(number, -length), greater_equal(number, length)))
    return flat if traced is None else where(is_outside, math.prod(lengths), flat)
