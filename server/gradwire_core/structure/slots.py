"""Slots: where terms are handed on as arrays alone, from step to step of a loop or out of a branch, and what form they have there.

A slot is the form of a term: its axes, and the factors that stay outside because all that meets there has them; what differs is
one array. Terms whose axes differ by windows alone share a slot, whose array has zeros where a term has no entries. Where slots
would hold more than an array over all axes but those that every term ties, that array is the only slot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradwire_core.builder import FOLD_ELEMENTS, Builder, Value
from gradwire_core.ops._declare import convert, filled
from gradwire_core.ops.elementwise import add
from gradwire_core.ops.shaping import broadcast_to, pad_with_zeros, reshape
from gradwire_core.program import Equation, Literal, Operand, Program, Var
from gradwire_core.structure.axes import Axis, Factor, Label, Part, Run, aligned_to, run_length
from gradwire_core.structure.products import Term, contract, dense, factor_size
from gradwire_core.types import Dtype, Shape, TensorType

MOST_SLOTS = 48
SLOT_ELEMENTS = 100
"""How many elements of one array more may take the place of a slot: each costs some calls in every step."""
Resolve = Callable[[Value], Value]
Ties = frozenset[tuple[int, int]]
Ranges = tuple[tuple[int, int], ...]


# -- regions -----------------------------------------------------------------------------------------------------------------


class Region:
    """A sub-program being built, and what of it stays outside.

    Args:
        outer: the builder of the program it is in.
        hoists: whether what is computed from outside alone, and so is the same in every step, stays outside as well.

    Attributes:
        builder: where the sub-program is built.
        sources: for each operand of the sub-program that stands for a value outside, that value.
    """

    def __init__(self, outer: Builder, *, hoists: bool) -> None:
        self.outer = outer
        self.builder = Builder()
        self.sources: dict[Operand, Value] = {}
        self._inner: dict[Operand, Value] = {}
        self._fixed: set[Operand] = set()
        self._seen = 0
        self._hoists = hoists

    def lift(self, value: Value) -> Value:
        """Return what stands in the sub-program for a value outside."""
        if isinstance(value.operand, Literal):
            return _in_builder(self.builder, value.operand)
        found = self._inner.get(value.operand)
        if found is None:
            found = self._inner[value.operand] = self.builder.free(value.type)
            self.sources[found.operand] = value
            self._fixed.add(found.operand)
        return found

    def lift_term(self, term: Term) -> Term:
        """Return a term outside as one of the sub-program."""
        return moved(term, self.builder, self.lift_factor)

    def lift_factor(self, factor: Factor) -> Factor:
        """Return a factor outside as one of the sub-program."""
        return Factor(self.lift(factor.value), factor.labels)

    def is_outside(self, value: Value) -> bool:
        """Whether a value of the sub-program may stay outside."""
        if isinstance(value.operand, Literal):
            return True
        equations = self.builder.equations
        if self._hoists and self._seen < len(equations):
            for equation in equations[self._seen :]:
                if all(isinstance(operand, Literal) or operand in self._fixed for operand in equation.operands):
                    self._fixed.update(equation.results)
            self._seen = len(equations)
        return value.operand in self._fixed

    def outside(self, value: Value) -> Value:
        """Return a value that may stay outside as a value there; its equations are added."""
        pending = [value.operand]
        while pending:
            operand = pending[-1]
            equation = self.builder.producer(operand)
            if equation is None or operand in self.sources:
                pending.pop()
                continue
            missing = [item for item in equation.operands if isinstance(item, Var) and item not in self.sources]
            if missing:
                pending += missing
                continue
            operands = [self._source(item) for item in equation.operands]
            self.sources.update(zip(equation.results, self.outer.emit(equation.primitive, operands, equation.params), strict=True))
            pending.pop()
        return self._source(value.operand)

    def _source(self, operand: Operand) -> Value:
        return _in_builder(self.outer, operand) if isinstance(operand, Literal) else self.sources[operand]

    def program(
        self, inputs: Sequence[Value], optional: Sequence[Value], outputs: Sequence[Value]
    ) -> tuple[Program, list[Value], list[Value]]:
        """Return the sub-program, the values outside that are its first inputs, and those of the optional inputs that it uses.

        Args:
            inputs: its further inputs.
            optional: what may be inputs behind them.
            outputs: its outputs.
        """
        needed: dict[Operand, None] = {value.operand: None for value in outputs}
        kept: list[Equation] = []
        for equation in reversed(self.builder.equations):
            if any(result in needed for result in equation.results) and not self.is_outside(
                Value(self.builder, equation.results[0])
            ):
                needed.update(dict.fromkeys(equation.operands))
                kept.append(equation)
        first = [operand for operand in needed if isinstance(operand, Var) and self.is_outside(Value(self.builder, operand))]
        given = [self.outside(Value(self.builder, operand)) for operand in first]
        used = [value for value in optional if value.operand in needed]
        rest = [_var(value) for value in (*inputs, *used)]
        return Program((*first, *rest), tuple(kept[::-1]), tuple(value.operand for value in outputs)), given, used


def _in_builder(builder: Builder, literal: Literal) -> Value:
    """Return a constant of another builder; a large one is not copied."""
    return builder.literal(literal.value) if literal.type.size <= FOLD_ELEMENTS else Value(builder, literal)


def _var(value: Value) -> Var:
    assert isinstance(value.operand, Var)
    return value.operand


def moved(term: Term, builder: Builder, change: Callable[[Factor], Factor]) -> Term:
    """Return a term in another builder, its factors and tables changed for those there."""
    sides = [tuple(moved_axis(axis, change) for axis in side) for side in (term.out, term.into)]
    return Term(builder, term.dtype, tuple(map(change, term.factors)), *sides)


def moved_axis(axis: Axis, change: Callable[[Factor], Factor]) -> Axis:
    """Return an axis with its tables changed."""
    if all(part.table is None for part in axis.parts):
        return axis
    parts = tuple(part if part.table is None else Part(None, part.stride, change(part.table), part.bound) for part in axis.parts)
    return Axis(axis.length, parts, axis.offset)


def relabelled(axis: Axis, names: Mapping[Label, Label]) -> Axis:
    """Return an axis over other labels."""
    parts = []
    for part in axis.parts:
        table = part.table and Factor(part.table.value, tuple(names[label] for label in part.table.labels))
        parts.append(Part(part.label and names[part.label], part.stride, table, part.bound))
    return Axis(axis.length, tuple(parts), axis.offset)


class Names:
    """Numbers that tell values outside apart: equal small constants have one."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def __call__(self, value: Value) -> int:
        operand = value.operand
        is_small = isinstance(operand, Literal) and operand.type.size <= FOLD_ELEMENTS
        key: Hashable = (operand.type, operand.value.tobytes()) if is_small and isinstance(operand, Literal) else operand
        return self._numbers.setdefault(key, len(self._numbers))


# -- forms -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A part of an axis over numbered labels; `table` is a value outside."""

    stride: int
    numbers: tuple[int, ...]
    table: Value | None
    bound: int


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """An axis over numbered labels, each counted from where a window over all of the axis would begin."""

    length: int
    offset: int
    steps: tuple[_Step, ...]

    def bounds(self, ranges: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Return the least and the greatest position for labels in given ranges."""
        low = high = self.offset
        for step in self.steps:
            first, last = ranges[step.numbers[0]] if step.table is None else (0, step.bound)
            ends = step.stride * first, step.stride * (last - 1)
            low, high = low + min(ends), high + max(ends)
        return low, high

    def axis(self, labels: Sequence[Label], ranges: Ranges, resolve: Resolve) -> Axis:
        offset = self.offset
        parts = []
        for step in self.steps:
            if step.table is None:
                (number,) = step.numbers
                offset += step.stride * ranges[number][0]
                parts.append(Part(labels[number], step.stride))
            else:
                table = Factor(resolve(step.table), tuple(labels[number] for number in step.numbers))
                parts.append(Part(None, step.stride, table, step.bound))
        return Axis(self.length, tuple(parts), offset)


@dataclass(frozen=True, slots=True, eq=False)
class _Outside:
    """A factor that may stay outside.

    Attributes:
        factor: the factor in the sub-program.
        value: its array outside.
        numbers: the numbers of its labels.
    """

    factor: Factor
    value: Value
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """What a term is, apart from its arrays.

    Attributes:
        key: what tells its axes from others, but for windows.
        places: its axes.
        labels: the labels of its core by number, then those that outside factors alone have.
        ranges: the values of each label of the core.
        outside: the factors that may stay outside, by what tells them apart.
        inside: the other factors.
    """

    key: Hashable
    places: tuple[_Place, ...]
    labels: Run
    ranges: Ranges
    outside: dict[tuple[Any, ...], _Outside]
    inside: tuple[Factor, ...]

    def numbers(self, factors: Sequence[Factor]) -> set[int]:
        """Return the numbers of the labels on factors; others are summed."""
        known = {label: number for number, label in enumerate(self.labels)}
        return {known[label] for factor in factors for label in factor.labels if label in known}


def _windows(sides: Sequence[Axis], fixed: set[Label]) -> tuple[list[int], dict[Label, int]]:
    """Return the offset of each axis, and where the window of each label begins: as few offsets as can be."""
    offsets = [axis.offset for axis in sides]
    starts: dict[Label, int] = {}
    for place, axis in enumerate(sides):
        for part in axis.parts:
            label = part.label
            if label is None or label in starts or label in fixed:
                continue
            starts[label] = start = (offsets[place] - offsets[place] % abs(part.stride)) // part.stride
            if start:
                for other, item in enumerate(sides):
                    offsets[other] -= start * sum(part.stride for part in item.parts if part.label is label)
    return offsets, starts


def _form(region: Region, names: Names, term: Term, name: Resolve) -> _Form | None:
    """Return the form of a term of a region; None where a table is not outside."""
    sides, core = (*term.out, *term.into), term.core
    tables = [part.table for axis in sides for part in axis.parts if part.table is not None]
    if not all(region.is_outside(table.value) for table in tables):
        return None
    number = {label: index for index, label in enumerate(core)}
    fixed = {label for table in tables for label in table.labels}
    offsets, starts = _windows(sides, fixed)

    def step(part: Part) -> _Step:
        table = None if part.table is None else name(part.table.value)
        return _Step(part.stride, tuple(number[label] for label in part.labels), table, part.bound)

    places = tuple(_Place(axis.length, offset, tuple(map(step, axis.parts))) for axis, offset in zip(sides, offsets, strict=True))
    ranges = tuple((starts.get(label, 0), starts.get(label, 0) + label.size) for label in core)
    key = (
        len(term.out),
        tuple(ranges[number[label]] if label in fixed else None for label in core),
        *[
            (
                place.length,
                place.offset,
                *[(item.stride, item.numbers, None if item.table is None else names(item.table)) for item in place.steps],
            )
            for place in places
        ],
    )
    is_kept = [bool(factor.labels) and region.is_outside(factor.value) for factor in term.factors]
    inside = tuple(factor for factor, flag in zip(term.factors, is_kept, strict=True) if not flag)
    named = [(factor, name(factor.value)) for factor, flag in zip(term.factors, is_kept, strict=True) if flag]
    named.sort(key=lambda pair: (names(pair[1]), [number.get(label, -1) for label in pair[0].labels]))
    for factor, _ in named:
        for label in factor.labels:
            number.setdefault(label, len(number))
    outside: dict[tuple[Any, ...], _Outside] = {}
    for factor, value in named:
        numbers = tuple(number[label] for label in factor.labels)
        same = (names(value), numbers, tuple(ranges[item] for item in numbers if item < len(core)))
        times = sum(1 for known in outside if known[:-1] == same)
        outside[*same, times] = _Outside(factor, value, numbers)
    return _Form(key, places, tuple(number), ranges, outside, inside)


@dataclass(eq=False)
class Slot:
    """The form of the terms that meet.

    Attributes:
        out_count: the number of its axes that are of the output.
        places: its axes.
        ranges: the values of each label of the core.
        outside: the factors outside, by what tells them apart.
        sizes: the sizes of the labels that they alone have.
        carried: the numbers of the labels of its array, in order.
        depth: the fewest steps after which its array may differ from zero.
        is_spread: whether its array is the product of factors that hold much less.
    """

    out_count: int
    places: tuple[_Place, ...]
    ranges: Ranges
    outside: dict[tuple[Any, ...], _Outside]
    sizes: tuple[int, ...]
    carried: tuple[int, ...]
    depth: int
    is_spread: bool = False

    @property
    def shape(self) -> Shape:
        """The shape of its array."""
        lengths = (*(high - low for low, high in self.ranges), *self.sizes)
        return tuple(lengths[number] for number in self.carried)

    def term(self, builder: Builder, value: Value, resolve: Resolve) -> Term:
        """Return the term of an array.

        Args:
            builder: where the term is built.
            value: the array.
            resolve: gives what stands in that builder for a value outside.
        """
        lengths = (*(high - low for low, high in self.ranges), *self.sizes)
        labels = [Label(length) for length in lengths]
        axes = tuple(place.axis(labels, self.ranges, resolve) for place in self.places)
        factors = [Factor(resolve(item.value), tuple(labels[number] for number in item.numbers)) for item in self.outside.values()]
        factors.append(Factor(value, tuple(labels[number] for number in self.carried)))
        return Term(builder, value.type.dtype, tuple(factors), axes[: self.out_count], axes[self.out_count :])

    def bring_in(self, kept: Collection[Hashable] = ()) -> None:
        """Keep no factors outside but some: its array has the labels of the others. Those with labels of their own go together."""
        if any(key not in kept for key in self._inner(self.outside)):
            kept = [key for key in kept if key not in self._inner(self.outside)]
        gone = [item for key, item in self.outside.items() if key not in kept]
        self.outside = {key: item for key, item in self.outside.items() if key in kept}
        count = len(self.ranges)
        has_inner = bool(self._inner(self.outside))
        mine = {number for number in self.carried if number < count or has_inner}
        mine.update(number for item in gone for number in item.numbers if number < count)
        self.carried, self.sizes = tuple(sorted(mine)), self.sizes if has_inner else ()

    def _inner(self, outside: Mapping[tuple[Any, ...], _Outside]) -> set[tuple[Any, ...]]:
        """Return those of outside factors that have labels of their own."""
        count = len(self.ranges)
        return {key for key, item in outside.items() if any(number >= count for number in item.numbers)}

    def takes(self, form: _Form) -> bool:
        """Whether the slot has room for a form."""
        return (
            self.holds(form)
            and self.outside.keys() <= form.outside.keys()
            and (not self.sizes or self._inner(self.outside) == self._inner(form.outside))
        )

    def _others(self, form: _Form) -> tuple[Factor, ...]:
        """Return the factors of a form that do not stay outside."""
        return (*form.inside, *[item.factor for key, item in form.outside.items() if key not in self.outside])

    def holds(self, form: _Form) -> bool:
        """Whether the entries of a form stand within its windows."""
        return all(low <= first and last <= high for (low, high), (first, last) in zip(self.ranges, form.ranges, strict=True))

    def hull(self, form: _Form) -> Ranges | None:
        """Return the windows that cover its own and those of a form; None where they leave an axis, or hold much besides."""
        found: list[tuple[int, int]] = [
            (min(low, first), max(high, last)) for (low, high), (first, last) in zip(self.ranges, form.ranges, strict=True)
        ]
        if tuple(found) == self.ranges:
            return self.ranges
        if not self._fit(found) or _volume(found) > _volume(self.ranges) + _volume(form.ranges):
            return None
        wide = list(found)
        for number, window in enumerate(found):
            if window != self.ranges[number]:
                wide[number] = self._widest(number, window)
        return tuple(wide) if self._fit(wide) and _volume(wide) <= 2 * _volume(found) else tuple(found)

    def _fit(self, ranges: Sequence[tuple[int, int]]) -> bool:
        bounds = [(place.length, *place.bounds(ranges)) for place in self.places]
        return all(low >= 0 and high < length for length, low, high in bounds)

    def _widest(self, number: int, window: tuple[int, int]) -> tuple[int, int]:
        """Return the most values of a label that stay within the axes, where it is alone on each; else those of the window."""
        low, high = -math.inf, math.inf
        for place in self.places:
            mine = [step for step in place.steps if number in step.numbers]
            if not mine:
                continue
            if len(place.steps) > 1 or mine[0].table is not None:
                return window
            stride = mine[0].stride
            ends = sorted((-place.offset / stride, (place.length - 1 - place.offset) / stride))
            low, high = max(low, math.ceil(ends[0])), min(high, math.floor(ends[1]) + 1)
        return int(low), int(high)

    def align(self, form: _Form) -> _Form | None:
        """Return a form of fewer labels over those of the slot: an entry is a window of a diagonal; None where there is no way."""
        mine: dict[int, tuple[Label | None, tuple[int, int]]] = {}
        for place, other in zip(self.places, form.places, strict=True):
            found = _aligned(place, other, form)
            if found is None or any(mine.setdefault(number, window) != window for number, window in found.items()):
                return None
        order = [mine[number] for number in range(len(self.ranges))]
        kept = [label for label, _ in order if label is not None]
        if len(set(kept)) < len(kept):
            return None
        labels = tuple(Label(1) if label is None else label for label, _ in order)
        inside = (*form.inside, *[item.factor for item in form.outside.values()])
        return _Form(None, self.places, labels, tuple(window for _, window in order), {}, inside)

    def unite(self, form: _Form, ranges: Ranges) -> bool:
        """Make room for a form, in given windows; whether that changed anything."""
        before = self.ranges, self.outside.keys(), self.carried
        common = self.outside.keys() & form.outside.keys()
        inner = self._inner(self.outside)
        self.bring_in(common - inner if inner != self._inner(form.outside) else common)
        limit = len(self.ranges) + len(self.sizes)
        carried = {*self.carried, *[number for number in form.numbers(self._others(form)) if number < limit]}
        windows = zip(self.ranges, form.ranges, ranges, strict=True)
        carried.update(number for number, (mine, theirs, hull) in enumerate(windows) if mine != hull or theirs != hull)
        self.ranges, self.carried = ranges, tuple(sorted(carried))
        self.limit()
        return before != (self.ranges, self.outside.keys(), self.carried)

    def limit(self) -> None:
        """Keep no factor outside where its array would hold more than with all of them."""
        count = len(self.ranges)
        whole = {number for number in self.carried if number < count}
        whole.update(number for item in self.outside.values() for number in item.numbers if number < count)
        if math.prod(self.shape) > _volume([self.ranges[number] for number in whole]):
            self.bring_in()

    def value(self, form: _Form, dtype: Dtype, builder: Builder) -> Value:
        """Return the array of a term of a form that it has room for."""
        factors = self._others(form)
        labels = tuple(form.labels[number] for number in self.carried)
        self.is_spread = self.is_spread or run_length(labels) > 2 * sum(map(factor_size, factors)) > 0
        factor = contract(factors, labels) if factors else Factor(builder.literal(np.ones((), dtype.numpy)), ())
        array = broadcast_to(aligned_to(factor, labels), tuple(label.size for label in labels))
        count = len(self.ranges)
        windows = [(*self.ranges[item], *form.ranges[item]) if item < count else (0, 0, 0, 0) for item in self.carried]
        low, high = tuple(first - start for start, _, first, _ in windows), tuple(stop - last for _, stop, _, last in windows)
        found: Value = convert(pad_with_zeros(array, low, high, (0,) * len(low)) if any((*low, *high)) else array, dtype)
        return found


def _aligned(place: _Place, other: _Place, form: _Form) -> dict[int, tuple[Label | None, tuple[int, int]]] | None:
    """Return which label of a form, and which of its values, stand for the label of an axis; None where none does."""
    steps = (*place.steps, *other.steps)
    if len(place.steps) > 1 or len(other.steps) > len(place.steps) or any(step.table is not None for step in steps):
        return None
    if not place.steps:
        return {} if place.offset == other.offset else None
    step = place.steps[0]
    if not other.steps:
        value, rest = divmod(other.offset - place.offset, step.stride)
        return None if rest else {step.numbers[0]: (None, (value, value + 1))}
    number = other.steps[0].numbers[0]
    is_same = (other.steps[0].stride, other.offset) == (step.stride, place.offset)
    return {step.numbers[0]: (form.labels[number], form.ranges[number])} if is_same else None


def _volume(ranges: Sequence[tuple[int, int]]) -> int:
    return math.prod(high - low for low, high in ranges)


# -- the slots of one result by one input --------------------------------------------------------------------------------------


def clean_ties(term: Term) -> Ties:
    """Return the pairs of an axis of the output and one of the input that are one label, which stands on no other axis."""
    labels = [label for axis in (*term.out, *term.into) for label in axis.labels]
    places = {axis.run[0]: place for place, axis in enumerate(term.into) if axis.run is not None and len(axis.run) == 1}
    return frozenset(
        (place, places[axis.run[0]])
        for place, axis in enumerate(term.out)
        if axis.run is not None and len(axis.run) == 1 and axis.run[0] in places and labels.count(axis.run[0]) == 2
    )


@dataclass(eq=False)
class Slots:
    """The slots of the terms of one result by one input.

    Attributes:
        names: tells values outside apart.
        type: of the result.
        shape_in: the shape of the input.
        by_key: the slots, by what tells their axes apart.
        ties: the pairs of axes that all terms tie; None before there is one.
        coarse: the only slot, where there is one for whatever comes.
    """

    names: Names
    type: TensorType
    shape_in: Shape
    by_key: dict[Hashable, list[Slot]] = field(default_factory=dict)
    ties: Ties | None = None
    coarse: Slot | None = None

    def __iter__(self) -> Iterator[Slot]:
        return iter([self.coarse] if self.coarse is not None else [slot for group in self.by_key.values() for slot in group])

    def add(self, region: Region, terms: Sequence[Term], depth: int, name: Resolve) -> list[Slot]:
        """Make room for terms; return the slots that are new or changed.

        Args:
            region: where the terms are.
            terms: the terms.
            depth: the fewest steps after which they may differ from zero.
            name: gives the value outside for one of the region that may stay there.
        """
        changed: list[Slot] = []
        for term in sorted(terms, key=lambda term: -len(term.core)):
            known = self.ties
            self.ties = clean_ties(term) if known is None else known & clean_ties(term)
            if self.coarse is not None:
                if self.ties != known:
                    changed = [self._make_coarse(depth)]
                continue
            form = _form(region, self.names, term, name)
            found = None if form is None else self._unite(term, form, depth)
            if form is None or self._is_heavy():
                changed = [self._make_coarse(depth)]
            elif found is not None and found not in changed:
                changed.append(found)
        return changed

    def _unite(self, term: Term, form: _Form, depth: int) -> Slot | None:
        """Make room for a form; return the slot if it is new or changed."""
        for slot, aligned in self._candidates(form):
            ranges = slot.hull(aligned)
            if ranges is not None:
                return slot if slot.unite(aligned, ranges) else None
        sizes = tuple(label.size for label in form.labels[len(form.ranges) :])
        carried = tuple(sorted(form.numbers(form.inside)))
        slot = Slot(len(term.out), form.places, form.ranges, dict(form.outside), sizes, carried, depth)
        slot.limit()
        self.by_key.setdefault(form.key, []).append(slot)
        return slot

    def _candidates(self, form: _Form) -> Iterator[tuple[Slot, _Form]]:
        """Yield the slots that may have room for a form, and the form over the labels of each: those of equal axes first."""
        for slot in self.by_key.get(form.key, ()):
            yield slot, form
        for slot in self:
            if len(slot.ranges) > len(form.ranges):
                aligned = slot.align(form)
                if aligned is not None:
                    yield slot, aligned

    def _is_heavy(self) -> bool:
        slots = list(self)
        saved = SLOT_ELEMENTS * (len(slots) - 1)
        return len(slots) > MOST_SLOTS or sum(math.prod(slot.shape) for slot in slots) + saved > self._coarse_size

    @property
    def _coarse_size(self) -> int:
        tied = math.prod(self.type.shape[place] for place, _ in self.ties or ())
        return self.type.size * math.prod(self.shape_in) // tied

    def make_coarse(self) -> Slot:
        """Leave one slot, over all axes but those that are tied in all terms, and return it."""
        return self._make_coarse(min(slot.depth for slot in self))

    def _make_coarse(self, depth: int) -> Slot:
        depth = min([depth, *[slot.depth for slot in self]])
        order = sorted(self.ties or ())
        shape, count = self.type.shape, len(self.type.shape)
        tied = {**{row: index for index, (row, _) in enumerate(order)}}
        tied.update({count + column: index for index, (_, column) in enumerate(order)})
        lengths = (*shape, *self.shape_in)
        ranges = [(0, shape[row]) for row, _ in order]
        places = []
        for place, length in enumerate(lengths):
            if length == 1:
                places.append(_Place(1, 0, ()))
                continue
            number = tied.get(place, len(ranges))
            if number == len(ranges):
                ranges.append((0, length))
            places.append(_Place(length, 0, (_Step(1, (number,), None, 0),)))
        carried = tuple(range(len(ranges)))
        self.coarse = Slot(count, tuple(places), tuple(ranges), {}, (), carried, depth)
        self.by_key = {}
        return self.coarse

    def arrays(self, region: Region, terms: Sequence[Term], name: Resolve) -> list[Value]:
        """Return the array of each slot, for terms that there is room for."""
        found: dict[Slot, Value] = {}
        for term in terms:
            slot, value = self._value(region, term, name)
            found[slot] = add(found[slot], value) if slot in found else value
        zero = region.builder.literal(np.zeros(()))
        return [found[slot] if slot in found else filled(0, TensorType(self.type.dtype, slot.shape), zero) for slot in self]

    def _value(self, region: Region, term: Term, name: Resolve) -> tuple[Slot, Value]:
        if self.coarse is not None:
            return self.coarse, convert(reshape(_loosened(term, sorted(self.ties or ())), self.coarse.shape), self.type.dtype)
        slot, form = self._slot(region, term, name)
        return slot, slot.value(form, self.type.dtype, region.builder)

    def _slot(self, region: Region, term: Term, name: Resolve) -> tuple[Slot, _Form]:
        form = _form(region, self.names, term, name)
        assert form is not None
        return next((slot, aligned) for slot, aligned in self._candidates(form) if slot.takes(aligned))

    def occupied(self, region: Region, terms: Sequence[Term], name: Resolve) -> set[Slot]:
        """Return the slots that terms are in."""
        return {self.coarse} if self.coarse is not None else {self._slot(region, term, name)[0] for term in terms}


def _loosened(term: Term, ties: Sequence[tuple[int, int]]) -> Value:
    """Return a term as an array over tied axes, then the other axes of both sides."""
    rows, columns = [row for row, _ in ties], {column for _, column in ties}
    out = (*[term.out[row] for row in rows], *[axis for place, axis in enumerate(term.out) if place not in rows])
    return dense(replace(term, out=out, into=tuple(axis for place, axis in enumerate(term.into) if place not in columns)))
