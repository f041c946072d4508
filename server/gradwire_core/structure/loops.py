"""Terms through sub-programs: branches and loops keep the structure of what enters them.

A linear operand enters a sub-program as its terms, whose factors become operands. The linear equations of the sub-program act on
them as they do anywhere, and what comes out leaves through slots (`slots`): one array for each form that terms have there.

For a loop, the forms of the carry are found as a fixpoint: each form is sent through one step, and what comes out has its form or
adds another, until nothing is new. The loop then carries one array a form. What does not change from step to step, and the labels,
stay outside. The axis of the steps is a label like any other: an element of stacked terms is the terms times an indicator of its
step, and where a result of the step still has that indicator, the label stands for both the step and what it was tied to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops._declare import convert
from gradwire_core.ops.control import cond_primitive, scan_primitive
from gradwire_core.ops.elementwise import equal
from gradwire_core.ops.shaping import reshape, slice_axes
from gradwire_core.program import Equation, Operand, Program, Var
from gradwire_core.structure.axes import Axis, Factor, Label, Run, fresh_axes, permuted, positions_along, read, run_length
from gradwire_core.structure.joining import join
from gradwire_core.structure.products import Term, contract, factor_size, held_elements, settle, tables_of
from gradwire_core.structure.slots import MOST_SLOTS, Names, Region, Slot, Slots, moved, moved_axis, relabelled
from gradwire_core.structure.terms import isolate, read_out
from gradwire_core.types import TensorType

ByInput = dict[Any, list[Term]]
Known = dict[Any, ByInput]
Walk = Callable[[Builder, Sequence[Equation], Known], None]
"""Adds to the terms of the operands of linear equations those of their results."""

MOST_CHANGES = 8
"""How often the slots of one carry may change before there is one for whatever comes; more often in a loop that is soon over."""

MOST_UNROLLED = 512
"""The equations of all steps up to which a loop may be taken step by step."""
MUCH_LESS = 10
"""How many times less the terms must hold for a loop to be taken step by step."""


def through(builder: Builder, equation: Equation, known: Known, walk: Walk) -> list[ByInput]:
    """Return the terms of each result of an equation with sub-programs.

    Args:
        builder: where the equation is.
        equation: linear in those of its operands that have terms.
        known: the terms of the linear operands, by input.
        walk: takes terms through the equations of a sub-program.
    """
    return _THROUGH[equation.primitive.name](builder, equation, known, walk)


def _inlined(region: Region, body: Program, inputs: Sequence[Value]) -> tuple[list[Equation], list[Value]]:
    """Return the equations of a sub-program in its region, and its outputs."""
    outputs = region.builder.inline(body, inputs)
    return list(region.builder.equations), outputs


def _lifted(region: Region, terms: ByInput) -> ByInput:
    return {index: [region.lift_term(term) for term in group] for index, group in terms.items()}


def _identity(value: Value) -> Value:
    return value


# -- branches ----------------------------------------------------------------------------------------------------------------


def _through_cond(builder: Builder, equation: Equation, known: Known, walk: Walk) -> list[ByInput]:
    names = Names()
    programs = [equation.params["on_true"], equation.params["on_false"]]
    branches = [_Branch(builder, program, equation.operands[1:], known, walk) for program in programs]
    count = len(equation.results)
    slots: list[dict[int, Slots]] = [{} for _ in range(count)]
    for branch in branches:
        for place, found in enumerate(branch.terms):
            for index, terms in found.items():
                shape = terms[0].shape_in
                mine = slots[place].setdefault(index, Slots(names, equation.results[place].type, shape))
                mine.add(branch.region, terms, 0, branch.region.outside)
    pairs = [(place, index, group) for place in range(count) for index, group in slots[place].items()]
    for place, index, group in pairs:
        occupied = [group.occupied(branch.region, branch.terms[place].get(index, []), branch.region.outside) for branch in branches]
        for slot in group:
            if slot.outside and not all(slot in found for found in occupied):
                slot.bring_in()  # where the other branch is taken, a factor of this one that is not finite must not count
    outputs: list[list[Value]] = [
        [
            value
            for place, index, group in pairs
            for value in group.arrays(branch.region, branch.terms[place].get(index, []), branch.region.outside)
        ]
        for branch in branches
    ]
    results = iter(_emit_cond(builder, Value(builder, equation.operands[0]), branches, outputs))
    left: list[ByInput] = [{} for _ in range(count)]
    for place, index, group in pairs:
        left[place][index] = [settle(slot.term(builder, next(results), _identity)) for slot in group]
    return left


class _Branch:
    """A branch: its region, and the terms of its outputs."""

    def __init__(self, builder: Builder, program: Any, operands: Sequence[Operand], known: Known, walk: Walk) -> None:
        self.region = Region(builder, hoists=False)
        free = self.region.builder.free
        linear = [operand in known for operand in operands]
        inputs = [
            free(operand.type) if flag else self.region.lift(Value(builder, operand))
            for operand, flag in zip(operands, linear, strict=True)
        ]
        given: Known = {
            value.operand: _lifted(self.region, known[operand])
            for operand, value, flag in zip(operands, inputs, linear, strict=True)
            if flag
        }
        equations, outputs = _inlined(self.region, program, inputs)
        walk(self.region.builder, equations, given)
        self.terms: list[ByInput] = [given.get(output.operand, {}) for output in outputs]


def _emit_cond(builder: Builder, condition: Value, branches: Sequence[_Branch], outputs: Sequence[list[Value]]) -> Sequence[Value]:
    """Return the outputs of the branch that is taken."""
    if not outputs[0]:
        return []
    found = [branch.region.program((), (), given) for branch, given in zip(branches, outputs, strict=True)]
    operands = list({value.operand: value for _, given, _ in found for value in given}.values())
    programs = []
    for program, given, _ in found:
        mine = {value.operand: var for value, var in zip(given, program.inputs, strict=True)}
        inputs = tuple(mine.get(value.operand) or Var(value.type) for value in operands)
        programs.append(Program(inputs, program.equations, program.outputs))
    return builder.emit(cond_primitive, [condition, *operands], {"on_true": programs[0], "on_false": programs[1]})


# -- functions of given derivative -----------------------------------------------------------------------------------------------


def _through_custom(builder: Builder, equation: Equation, known: Known, walk: Walk) -> list[ByInput]:
    """Take terms through the sub-program in place."""
    body = equation.params["body"]
    assert isinstance(body, Program)
    inputs = [builder.free(operand.type) if operand in known else Value(builder, operand) for operand in equation.operands]
    given: Known = {
        value.operand: known[operand] for operand, value in zip(equation.operands, inputs, strict=True) if operand in known
    }
    start = len(builder.equations)
    outputs = builder.inline(body, inputs)
    walk(builder, builder.equations[start:], given)
    return [given.get(output.operand, {}) for output in outputs]


# -- loops -------------------------------------------------------------------------------------------------------------------


def _through_scan(builder: Builder, equation: Equation, known: Known, walk: Walk) -> list[ByInput]:
    loop = _Loop(builder, equation, known, walk)
    if loop.length == 0:
        return [*loop.starts, *[{} for _ in equation.results[loop.carry_count :]]]
    loop.find_slots()
    found = loop.emit()
    if loop.is_spread and loop.length * len(loop.equations) <= MOST_UNROLLED:
        steps = _unrolled(builder, equation, known, walk)
        if MUCH_LESS * _held(steps) <= _held(found):
            return steps
    return found


def _held(results: Sequence[ByInput]) -> int:
    return sum(held_elements(term) for terms in results for group in terms.values() for term in group)


def _unrolled(builder: Builder, equation: Equation, known: Known, walk: Walk) -> list[ByInput]:
    """Take terms through a loop step by step: what adds a product of vectors in each step keeps them apart."""
    params: Mapping[str, Any] = equation.params
    body, length, carry_count = params["body"], params["length"], params["carry_count"]
    first = params["const_count"]
    last = first + carry_count
    carries: list[ByInput] = [known.get(operand, {}) for operand in equation.operands[first:last]]
    stacks: list[ByInput] = [{} for _ in equation.results[carry_count:]]
    for step in reversed(range(length)) if params["is_reversed"] else range(length):
        at = Axis(length, (), step)
        inputs: list[Value] = []
        given: Known = {}
        for place, (operand, var) in enumerate(zip(equation.operands, body.inputs, strict=True)):
            is_carry = first <= place < last
            if is_carry or operand in known:
                inputs.append(builder.free(var.type))
                terms = carries[place - first] if is_carry else known[operand]
                given[inputs[-1].operand] = {
                    index: [one for term in group for one in (read_out(term, 0, (), at) if place >= last else [term])]
                    for index, group in terms.items()
                }
            else:
                value = Value(builder, operand)
                inputs.append(value if place < first else _row(value, step))
        start = len(builder.equations)
        outputs = builder.inline(body, inputs)
        walk(builder, builder.equations[start:], given)
        found = [given.get(output.operand, {}) for output in outputs]
        carries = found[:carry_count]
        for stack, terms in zip(stacks, found[carry_count:], strict=True):
            for index, group in terms.items():
                stack.setdefault(index, []).extend(replace(term, out=(at, *term.out)) for term in group)
    return [*carries, *[{index: join(group) for index, group in stack.items()} for stack in stacks]]


def _row(value: Value, step: int) -> Value:
    """Return one element of a value along its first axis."""
    starts, stops = (step, *[0] * (value.ndim - 1)), (step + 1, *value.shape[1:])
    found: Value = reshape(slice_axes(value, starts, stops, (1,) * value.ndim), value.shape[1:])
    return found


Source = tuple[int, Slot | None]
"""Where terms in a step come from: the input, and the slot of a carry; None for what is not carried."""


class _Loop:
    """A loop whose carries, constants and stacked operands have terms."""

    def __init__(self, builder: Builder, equation: Equation, known: Known, walk: Walk) -> None:
        params: Mapping[str, Any] = equation.params
        self.builder, self.equation, self.walk, self.params = builder, equation, walk, params
        self.length: int = params["length"]
        self.carry_count: int = params["carry_count"]
        self.region = Region(builder, hoists=True)
        self.xs: dict[Operand, Value] = {}  # what stands for one step of a stacked value outside
        self._slices: dict[Operand, Value] = {}
        self._step: Value | None = None
        self._markers: dict[Operand, tuple[Axis, Run]] = {}  # indicators of the step: what each reads, over its labels
        first = params["const_count"]
        last = first + self.carry_count
        self.starts: list[ByInput] = [known.get(operand, {}) for operand in equation.operands[first:last]]
        body: Program = params["body"]
        inputs: list[Value] = []
        self.external: Known = {}
        for place, (operand, var) in enumerate(zip(equation.operands, body.inputs, strict=True)):
            is_carry = first <= place < last
            if not is_carry and operand not in known:
                outside = Value(builder, operand)
                inputs.append(self.region.lift(outside) if place < first else self._stacked(outside))
                continue
            inputs.append(self.region.builder.free(var.type))
            terms = {} if is_carry else known[operand]
            element = self.region.lift_term if place < first else self._element
            self.external[inputs[-1].operand] = {(index, None): [element(term) for term in group] for index, group in terms.items()}
        self.carries = inputs[first:last]
        self.equations, self.outputs = _inlined(self.region, body, inputs)
        self.names = Names()
        self.slots: list[dict[int, Slots]] = [{} for _ in self.carries]
        self.inputs: dict[Slot, Value] = {}
        self.found: dict[Slot | None, list[dict[Source, list[Term]]]] = {}

    @property
    def is_spread(self) -> bool:
        """Whether the carry holds much more than what its terms are made of."""
        return any(
            group.coarse is not None or any(slot.is_spread for slot in group) for mine in self.slots for group in mine.values()
        )

    # -- stacked operands

    def _stacked(self, outside: Value) -> Value:
        """Return what stands for one step of a stacked value."""
        found = self._slices.get(outside.operand)
        if found is None:
            found = self._slices[outside.operand] = self.region.builder.free(outside.type.with_shape(outside.shape[1:]))
            self.xs[found.operand] = outside
        return found

    def _element(self, term: Term) -> Term:
        """Return a stacked term outside in one step: without its first axis.

        Factors along that axis are stacked operands; where the axis is tied, an indicator of the step stands for it.
        """
        axis, rest = term.out[0], replace(term, out=term.out[1:])
        if axis.length == 1:
            return self.region.lift_term(rest)
        run = axis.run
        if run is None or len(set(run)) < len(run) or any(label in rest.core for label in run):
            inner = self._sliced(rest, run[0]) if run is not None and len(run) == 1 else self.region.lift_term(rest)
            return self._marked(inner, axis)
        if not any(term.carrying(label) for label in run):
            return self.region.lift_term(rest)
        single, label = isolate(term, 0)
        return self._sliced(replace(single, out=single.out[1:]), label)

    def _sliced(self, term: Term, label: Label) -> Term:
        """Return a term outside whose factors are stacked along a label in one step."""
        factors = []
        for factor in term.factors:
            if label in factor.labels:
                others = tuple(item for item in factor.labels if item is not label)
                factors.append(Factor(self._stacked(permuted(factor, (label, *others))), others))
            else:
                factors.append(self.region.lift_factor(factor))
        return replace(self.region.lift_term(replace(term, factors=())), factors=tuple(factors))

    def _marked(self, term: Term, axis: Axis) -> Term:
        """Return a term of one step times an indicator of the step, which an axis outside tells."""
        places = positions_along(self.builder, axis)
        if self._step is None:
            self._step = self._stacked(self.builder.literal(np.arange(self.length)))
        indicator = convert(equal(self.region.lift(places.value), self._step), term.dtype)
        self._markers[indicator.operand] = moved_axis(axis, self.region.lift_factor), places.labels
        return replace(term, factors=(*term.factors, Factor(indicator, places.labels)))

    # -- the forms of the carry

    def find_slots(self) -> None:
        """Send terms through one step until all that the carry may hold has a slot."""
        self._send(None, self.external)
        changed: list[tuple[int, int, Slot]] = []
        for place, terms in enumerate(self.starts):
            for index, group in terms.items():
                changed += self._add(place, index, [self.region.lift_term(term) for term in group], 0)
        changed += self._add_all(None, 1)
        counts: dict[tuple[int, int], int] = {}
        while changed:
            work: dict[tuple[int, int], dict[Slot, None]] = {}
            for place, index, slot in changed:
                work.setdefault((place, index), {})[slot] = None
            changed = []
            for (place, index), waiting in work.items():
                counts[place, index] = counts.get((place, index), 0) + 1
                mine = self.slots[place][index]
                most = MOST_CHANGES + (2 * len(list(mine)) if self.length <= MOST_SLOTS else 0)
                is_restless = mine.coarse is None and counts[place, index] > most
                for slot in [mine.make_coarse()] if is_restless else waiting:
                    changed += self._advance(place, index, slot)

    def _advance(self, place: int, index: int, slot: Slot) -> list[tuple[int, int, Slot]]:
        """Send what a slot of a carry holds through one step; return the slots that this changes."""
        if slot not in list(self.slots[place][index]) or slot.depth >= self.length:
            return []
        carry = self.carries[place]
        held = self.inputs[slot] = self.region.builder.free(TensorType(carry.type.dtype, slot.shape))
        terms = [settle(slot.term(self.region.builder, held, _identity))]
        given: Known = {var: {} for var in self.external}
        given[carry.operand] = {(index, slot): terms}
        self._send(slot, given)
        return self._add_all(slot, slot.depth + 1)

    def _send(self, source: Slot | None, given: Known) -> None:
        known = dict(given)
        self.walk(self.region.builder, self.equations, known)
        self.found[source] = [known.get(output.operand, {}) for output in self.outputs]

    def _add_all(self, source: Slot | None, depth: int) -> list[tuple[int, int, Slot]]:
        changed = []
        for place, by_source in enumerate(self.found[source][: self.carry_count]):
            for (index, _), terms in by_source.items():
                changed += self._add(place, index, terms, depth)
        return changed

    def _add(self, place: int, index: int, terms: list[Term], depth: int) -> list[tuple[int, int, Slot]]:
        if not terms:
            return []
        group = self.slots[place].get(index)
        if group is None:
            group = self.slots[place][index] = Slots(self.names, self.carries[place].type, terms[0].shape_in)
        return [(place, index, slot) for slot in group.add(self.region, terms, depth, _identity)]

    # -- the loop over arrays

    def emit(self) -> list[ByInput]:
        """Add the loop; return the terms of the results."""
        region, builder = self.region, self.region.builder
        groups = [(place, index, group) for place, mine in enumerate(self.slots) for index, group in mine.items()]
        alive: set[Slot | None] = {None}.union(*[[*group] for *_, group in groups])
        self.found = {source: found for source, found in self.found.items() if source in alive}
        held: list[tuple[int, int, Slot]] = []
        inputs: list[Value] = []
        firsts: list[Value] = []
        nexts: list[Value] = []
        for place, index, group in groups:
            start = [region.lift_term(term) for term in self.starts[place].get(index, [])]
            firsts += group.arrays(region, start, _identity)
            nexts += group.arrays(region, self._results(place).get(index, []), _identity)
            held += [(place, index, slot) for slot in group]
        for place, _, slot in held:
            known = self.inputs.get(slot)
            inputs.append(builder.free(TensorType(self.carries[place].type.dtype, slot.shape)) if known is None else known)
        rows = [
            (place, index, self._rows(term))
            for place in range(self.carry_count, len(self.outputs))
            for index, terms in self._results(place).items()
            for term in join(terms)
        ]
        stacked = {operand: value for *_, item in rows for operand, value in item.varying(region).items()}
        written = [value for operand, value in stacked.items() if operand not in self.xs]
        found = self._emit_scan(inputs, firsts, [*nexts, *written])
        whole = {operand: self.xs[operand] for operand in stacked if operand in self.xs}
        whole.update(zip([value.operand for value in written], found[len(held) :], strict=True))
        results: list[ByInput] = [{} for _ in self.outputs]
        for (place, index, slot), value in zip(held, found, strict=False):
            results[place].setdefault(index, []).append(settle(slot.term(self.builder, value, region.outside)))
        for place, index, item in rows:
            results[place].setdefault(index, []).append(settle(item.term(region, self.length, whole)))
        return results

    def _results(self, place: int) -> ByInput:
        """Return the terms of an output of the body by input, from whatever source."""
        found: ByInput = {}
        for outputs in self.found.values():
            for (index, _), terms in outputs[place].items():
                found.setdefault(index, []).extend(terms)
        return found

    def _emit_scan(self, inputs: list[Value], firsts: list[Value], outputs: list[Value]) -> Sequence[Value]:
        if not outputs:
            return []
        slices = [Value(self.region.builder, operand) for operand in self.xs]
        body, constants, used = self.region.program(inputs, slices, outputs)
        operands = [*constants, *map(self.region.outside, firsts), *[self.xs[value.operand] for value in used]]
        params = {
            **self.params,
            "body": body,
            "const_count": len(constants),
            "carry_count": len(inputs),
            "is_checkpointed": False,
        }
        return self.builder.emit(scan_primitive, operands, params)

    def _rows(self, term: Term) -> _Rows:
        """Return a term of one step as one of all steps: its factors that change are made one, unless that holds more."""
        marker = next((factor for factor in term.factors if factor.value.operand in self._markers), None)
        others = [factor for factor in term.factors if factor is not marker]
        fixed = [factor for factor in others if self.region.is_outside(factor.value)]
        varying = [factor for factor in others if not self.region.is_outside(factor.value)]
        labels = () if marker is None else marker.labels
        if len(varying) > 1:
            elsewhere = {*term.core, *labels}.union(*[factor.labels for factor in fixed])
            kept = [label for label in dict.fromkeys(label for factor in varying for label in factor.labels) if label in elsewhere]
            if run_length(tuple(kept)) <= sum(map(factor_size, varying)):
                varying = [contract(varying, kept)]
        steps = None
        if marker is not None:
            axis, stands = self._markers[marker.value.operand]
            steps = relabelled(axis, dict(zip(stands, marker.labels, strict=True)))
        return _Rows(replace(term, factors=(*fixed, *varying)), steps)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The terms of all steps, stacked.

    Attributes:
        one: the term of one step, in the region of the loop.
        steps: which step it is, where labels of the term tell; None where it stands for every step.
    """

    one: Term
    steps: Axis | None

    def varying(self, region: Region) -> dict[Operand, Value]:
        """Return the arrays that change from step to step."""
        factors = (*self.one.factors, *tables_of(self.one))
        return {factor.value.operand: factor.value for factor in factors if not region.is_outside(factor.value)}

    def term(self, region: Region, length: int, stacked: Mapping[Operand, Value]) -> Term:
        """Return the term outside.

        Args:
            region: the region of the loop.
            length: the number of steps.
            stacked: the arrays that change, of all steps.
        """

        def constant(factor: Factor) -> Factor:
            return Factor(region.outside(factor.value), factor.labels)

        steps = fresh_axes((length,))[0] if self.steps is None else moved_axis(self.steps, constant)

        def change(factor: Factor) -> Factor:
            found = stacked.get(factor.value.operand)
            return constant(factor) if found is None else read(found, 0, steps, factor.labels)

        whole = moved(self.one, region.outer, change)
        return replace(whole, out=(steps, *whole.out))


_THROUGH: dict[str, Callable[[Builder, Equation, Known, Walk], list[ByInput]]] = {
    "cond": _through_cond,
    "custom": _through_custom,
    "scan": _through_scan,
}
