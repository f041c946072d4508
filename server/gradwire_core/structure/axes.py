"""Labels, and how the positions along an axis follow from them.

An axis of one side of a term says where along it an entry stands: `offset + sum over parts of stride * (label, or table[labels])`.
A run of labels that covers an axis row-major is the plain case; slices, flips, pads, concatenations and gathers give others. Axes
of length 1 have no parts, and a label has at least two values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops._declare import call, convert
from gradwire_core.ops.elementwise import add, multiply
from gradwire_core.ops.shaping import broadcast_to, flip, pad_with_zeros, reshape, slice_axes, take_diagonal, transpose
from gradwire_core.program import Literal, Primitive
from gradwire_core.types import Array, Dtype, Shape


class Label:
    """An index; equality is identity."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


Run = tuple[Label, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A dense array whose axes carry distinct labels."""

    value: Value
    labels: Run


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A summand of the position along an axis: a stride times the value of a label, or times an entry of a table.

    Attributes:
        label: the label; None where there is a table.
        stride: what one step of it counts; may be negative.
        table: an index, integers from 0 to before `bound` over the values of some labels; None where there is a label.
        bound: the number of values that the table may have.
    """

    label: Label | None = None
    stride: int = 1
    table: Factor | None = None
    bound: int = 0

    @property
    def labels(self) -> Run:
        """The labels it depends on."""
        if self.table is not None:
            return self.table.labels
        assert self.label is not None
        return (self.label,)

    @property
    def count(self) -> int:
        """The number of values that the stride multiplies."""
        return self.bound if self.label is None else self.label.size

    def times(self, stride: int) -> Part:
        """Return the part with its stride multiplied."""
        return Part(self.label, self.stride * stride, self.table, self.bound)


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """Where along an axis of a given length the entries of a term stand."""

    length: int
    parts: tuple[Part, ...] = ()
    offset: int = 0

    @property
    def labels(self) -> Run:
        """The labels of its parts, in order, as often as they occur."""
        return labels_of((self,))

    @property
    def run(self) -> Run | None:
        """The labels that cover the axis, row-major; None where the axis is something else than such a run."""
        size, labels = 1, []
        for part in reversed(self.parts):
            if part.label is None or part.stride != size:
                return None
            size *= part.label.size
            labels.append(part.label)
        return tuple(reversed(labels)) if size == self.length and self.offset == 0 else None

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest position."""
        low = high = self.offset
        for part in self.parts:
            reach = part.stride * (part.count - 1)
            low, high = low + min(reach, 0), high + max(reach, 0)
        return low, high

    def mapped(self, length: int, scale: int = 1, shift: int = 0) -> Axis:
        """Return an axis of another length with positions `scale * position + shift`."""
        parts = self.parts if scale == 1 else tuple(part.times(scale) for part in self.parts)
        return Axis(length, parts, self.offset * scale + shift)


def labels_of(axes: Iterable[Axis]) -> Run:
    """Return the labels of axes, in order, as often as they occur."""
    found: list[Label] = []
    for axis in axes:
        for part in axis.parts:
            if part.label is not None:
                found.append(part.label)
            else:
                found += part.labels
    return tuple(found)


def run_length(run: Run) -> int:
    """Return the length of an axis made of a run."""
    return math.prod([label.size for label in run])


def run_axis(run: Run) -> Axis:
    """Return the axis that a run covers, row-major."""
    parts: list[Part] = []
    size = 1
    for label in reversed(run):
        parts.append(Part(label, size))
        size *= label.size
    return Axis(size, tuple(reversed(parts)))


def fresh_axes(shape: Shape) -> tuple[Axis, ...]:
    """Return axes with a new label each, none for those of length 1."""
    return tuple(Axis(length, (Part(Label(length)),)) if length != 1 else Axis(1) for length in shape)


def normal_axis(length: int, parts: Iterable[Part], offset: int) -> Axis:
    """Return an axis in normal form: a label is in one part at most, affine tables are none, long strides come first."""
    strides: dict[Label, int] = {}
    tables: dict[tuple[int, Run], Part] = {}
    for part in parts:
        if part.label is not None:
            strides[part.label] = strides.get(part.label, 0) + part.stride
            continue
        assert part.table is not None
        found = _affine(part.table)
        if found is None:
            key = (id(part.table.value.operand), part.table.labels)
            known = tables.get(key)
            tables[key] = part if known is None else Part(None, known.stride + part.stride, part.table, part.bound)
        else:
            offset += part.stride * found[0]
            for label, stride in zip(part.table.labels, found[1], strict=True):
                strides[label] = strides.get(label, 0) + part.stride * stride
    kept = [Part(label, stride) for label, stride in strides.items() if stride]
    kept += [part for part in tables.values() if part.stride]
    if len(kept) > 1:
        kept.sort(key=lambda part: -abs(part.stride))
    return Axis(length, tuple(kept), offset)


def flat_axis(axes: Iterable[Axis]) -> Axis:
    """Return the one axis that axes are, row-major."""
    parts: list[Part] = []
    offset, size = 0, 1
    for axis in reversed(tuple(axes)):
        parts += [part.times(size) for part in axis.parts]
        offset += axis.offset * size
        size *= axis.length
    return normal_axis(size, parts, offset)


# -- tables ------------------------------------------------------------------------------------------------------------------


def literal_of(value: Value) -> Array | None:
    """Return the numbers of a value that is a constant; None for others."""
    return value.operand.value if isinstance(value.operand, Literal) else None


def _affine(table: Factor) -> tuple[int, tuple[int, ...]] | None:
    """Return the first entry and the strides of a constant table that is affine in its labels; None for others."""
    numbers = literal_of(table.value)
    if numbers is None:
        return None
    first = int(numbers[(0,) * numbers.ndim])
    ends = [(0,) * place + (1,) + (0,) * (numbers.ndim - place - 1) for place in range(numbers.ndim)]
    strides = tuple(int(numbers[end]) - first for end in ends)
    plain = np.asarray(first)
    for stride, size in zip(strides, numbers.shape, strict=True):
        plain = plain[..., None] + stride * np.arange(size)
    return (first, strides) if np.array_equal(plain, numbers) else None


def constant_table(builder: Builder, numbers: Array, labels: Run) -> Factor:
    """Return a table of constant integers."""
    return Factor(builder.literal(np.asarray(numbers, np.int64)), labels)


def eagerly(function: Callable[[Factor], Factor], table: Factor) -> Factor:
    """Return a function of a table; that of a constant table is a constant, whatever its size."""
    numbers = literal_of(table.value)
    if numbers is None:
        return function(table)
    found = function(Factor(Builder(folds=True).literal(numbers), table.labels))
    computed = literal_of(found.value)
    assert computed is not None
    return Factor(table.value.builder.literal(computed), found.labels)


def is_constant(axis: Axis) -> bool:
    """Whether all tables of an axis are constants."""
    return all(part.table is None or isinstance(part.table.value.operand, Literal) for part in axis.parts)


def constant_positions(axis: Axis, labels: Run) -> Array:
    """Return the positions along an axis of constant tables, with an axis for each of the given labels, that broadcast."""
    total = np.full((1,) * len(labels), axis.offset, np.int64)
    for part in axis.parts:
        if part.table is None:
            assert part.label is not None
            total = total + part.stride * _along(np.arange(part.label.size), (part.label,), labels)
        else:
            numbers = literal_of(part.table.value)
            assert numbers is not None
            total = total + part.stride * _along(numbers, part.table.labels, labels)
    return total


def _along(numbers: Array, labels: Run, wanted: Run) -> Array:
    order = sorted(range(len(labels)), key=lambda place: wanted.index(labels[place]))
    return np.transpose(numbers, order).reshape([label.size if label in labels else 1 for label in wanted])


def positions_along(builder: Builder, axis: Axis) -> Factor:
    """Return the positions along an axis as one table over its labels."""
    labels = tuple(dict.fromkeys(axis.labels))
    if is_constant(axis):
        sizes = tuple(label.size for label in labels)
        return constant_table(builder, np.broadcast_to(constant_positions(axis, labels), sizes), labels)
    plain = Axis(axis.length, tuple(part for part in axis.parts if part.table is None), axis.offset)
    shape = tuple(label.size for label in labels)
    total: Any = broadcast_to(builder.literal(constant_positions(plain, labels)), shape)
    for part in axis.parts:
        if part.table is not None:
            aligned = broadcast_to(aligned_to(part.table, labels), shape)
            total = add(total, multiply(convert(aligned, Dtype.INT64), part.stride))
    return Factor(total, labels)


def aligned_to(factor: Factor, labels: Run) -> Value:
    """Return a factor's array with one axis for each of the given labels, of length 1 where it does not carry it."""
    value = permuted(factor, tuple(label for label in labels if label in factor.labels))
    found: Value = reshape(value, tuple(label.size if label in factor.labels else 1 for label in labels))
    return found


def permuted(factor: Factor, labels: Run) -> Value:
    """Return a factor's array with its axes in the order of the given labels."""
    value: Value = transpose(factor.value, tuple(factor.labels.index(label) for label in labels))
    return value


# -- reading and writing an axis ---------------------------------------------------------------------------------------------


def diagonal_factor(value: Value, labels: Run) -> Factor:
    """Return the factor of an array whose axes carry labels, of which some repeat: its diagonal."""
    distinct = tuple(dict.fromkeys(labels))
    if len(distinct) == len(labels):
        return Factor(value, labels)
    numbers = {label: index for index, label in enumerate(distinct)}
    return Factor(take_diagonal(value, tuple(numbers[label] for label in labels)), distinct)


def read(value: Value, place: int, axis: Axis, labels: Run) -> Factor:
    """Return an array read at the positions of an axis.

    Args:
        value: the array.
        place: which of its axes is read; the labels of `axis` take its place.
        axis: where it is read.
        labels: those of the other axes of the array, in order.
    """
    before, after = labels[:place], labels[place:]
    if axis.run is not None:
        run = axis.run
        lengths = (*value.shape[:place], *[label.size for label in run], *value.shape[place + 1 :])
        return diagonal_factor(reshape(value, lengths), (*before, *run, *after))
    strided = _read_strided(value, place, axis)
    if strided is not None:
        return diagonal_factor(strided, (*before, *axis.labels, *after))
    table = positions_along(value.builder, axis)
    shared = tuple(label for label in table.labels if label in labels)
    rest = tuple(label for label in table.labels if label not in labels)
    if not shared:
        return Factor(call(_indexing("take"), value, table.value, axis=place, batch=0), (*before, *table.labels, *after))
    places = [index + (index >= place) for index in range(len(labels))]
    others = tuple(label for label in labels if label not in shared)
    order = [places[labels.index(label)] for label in shared] + [place] + [places[labels.index(label)] for label in others]
    indices = permuted(table, (*shared, *rest))
    taken = call(_indexing("take"), transpose(value, order), indices, axis=len(shared), batch=len(shared))
    return Factor(taken, (*shared, *rest, *others))


def _read_strided(value: Value, place: int, axis: Axis) -> Value | None:
    """Return an array with an axis read where it is a window of nested strides, by slices and reshapes; None where it is not."""
    if any(part.label is None for part in axis.parts):
        return None
    parts = [(abs(part.stride), part.count) for part in axis.parts]
    for (outer, _), (inner, count) in itertools.pairwise(parts):
        if outer % inner or outer < inner * count:
            return None
    start, stop = axis.bounds
    step = parts[-1][0] if parts else 1
    found = _cut(value, place, start, stop + 1, step)
    lengths = [value.shape[:place], value.shape[place + 1 :]]
    done: list[int] = []
    for index, (stride, count) in enumerate(parts[:-1]):
        width = stride // step
        found = _lengthen(found, place + index, width * count)
        found = reshape(found, (*lengths[0], *done, count, width, *lengths[1]))
        done.append(count)
        inner, many = parts[index + 1]
        found = _cut(found, place + index + 1, 0, (inner // step) * many, 1)
    if not parts:
        found = reshape(found, (*lengths[0], *lengths[1]))
    backward = tuple(place + index for index, part in enumerate(axis.parts) if part.stride < 0)
    result: Value = flip(found, backward) if backward else found
    return result


def _cut(value: Value, place: int, start: int, stop: int, step: int) -> Value:
    starts, stops, steps = [0] * value.ndim, list(value.shape), [1] * value.ndim
    starts[place], stops[place], steps[place] = start, min(stop, value.shape[place]), step
    found: Value = slice_axes(value, tuple(starts), tuple(stops), tuple(steps))
    return found


def _lengthen(value: Value, place: int, length: int) -> Value:
    missing = [0] * value.ndim
    missing[place] = length - value.shape[place]
    none = (0,) * value.ndim
    found: Value = pad_with_zeros(value, none, tuple(missing), none)
    return found


def _indexing(name: str) -> Primitive:
    from gradwire_core.ops import find_primitive

    return find_primitive(name)


def write_flat(builder: Builder, factor: Factor, axis: Axis) -> Value:
    """Return zeros of the length of an axis, to which the elements of a factor over exactly its labels are added in place."""
    levels = sorted(((part.stride, part.label) for part in axis.parts if part.label is not None), key=lambda level: abs(level[0]))
    width, nested = 1, len(levels) == len(axis.parts)
    for stride, label in levels:
        nested = nested and abs(stride) >= width
        width += abs(stride) * (label.size - 1)
    if not nested:
        table = positions_along(builder, axis)
        flat = reshape(permuted(factor, table.labels), (factor.value.size,))
        indices = reshape(table.value, (factor.value.size,))
        found: Value = call(_indexing("scatter_add"), flat, indices, axis=0, batch=0, size=axis.length)
        return found
    order = [label for _, label in reversed(levels)]
    found = permuted(factor, tuple(order))
    backward = tuple(order.index(label) for stride, label in levels if stride < 0)
    found = flip(found, backward) if backward else found
    lead, width = [label.size for label in order], 1
    found = reshape(found, (*lead, 1))
    for stride, label in levels:
        lead.pop()
        step = abs(stride)
        if width == 1:  # one pad for gaps between single elements
            found = reshape(found, (*lead, label.size))
            gaps = [0] * found.ndim
            gaps[-1] = step - 1
            found = pad_with_zeros(found, (0,) * found.ndim, (0,) * found.ndim, tuple(gaps))
        else:
            found = reshape(_lengthen(found, found.ndim - 1, step), (*lead, label.size * step))
        width += step * (label.size - 1)
        found = _cut(found, found.ndim - 1, 0, width, 1)
    low = axis.bounds[0]
    padded: Value = pad_with_zeros(found, (low,), (axis.length - low - width,), (0,))
    return padded
