"""The determinant of a linear program as the parts that it multiplies from: what its block triangular form leaves to compute.

Blocks of one entry are read off the residuals, blocks of one form are summed over their paths, all at once. A diagonal plus few
columns by few rows stays that, for the determinant lemma. What cannot be read is accumulated as terms.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops._declare import zeros_of
from gradwire_core.ops.elementwise import add
from gradwire_core.ops.shaping import broadcast_to, reshape
from gradwire_core.program import Operand, Program, Var
from gradwire_core.structure.accumulate import accumulate
from gradwire_core.structure.blocks import common_block
from gradwire_core.structure.entries import entries_of
from gradwire_core.structure.local import Places, logarithm_of
from gradwire_core.structure.matching import Bottleneck
from gradwire_core.structure.paths import Entries, assembled, is_small, joined, locate, sum_over_paths
from gradwire_core.structure.restriction import dependent, restricted, var_of
from gradwire_core.structure.selection import picked
from gradwire_core.structure.sparsity import find_sparsity, residuals_of
from gradwire_core.structure.system import INPUT, OUTPUT, Form, Group, Pairs, System, parity
from gradwire_core.structure.terms import Term, dense
from gradwire_core.types import Array, Dtype


@dataclass(frozen=True, slots=True, eq=False)
class Partials:
    """Blocks of one.

    Attributes:
        values: their entries, an array of any shape.
        power: how often each of them stands in the determinant.
    """

    values: Value
    power: int


@dataclass(frozen=True, slots=True, eq=False)
class Matrices:
    """Blocks.

    Attributes:
        values: the matrices, [count, b, b]; [count, a, b] where they are parts of a Jacobian of more outputs than inputs.
        power: how often each of them stands in the determinant.
    """

    values: Value
    power: int


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """Blocks that are a diagonal plus a product of few columns by few rows.

    Attributes:
        diagonal: their diagonals, [count, b].
        left: the columns, [count, b, r].
        right: the rows, [count, r, b].
        power: how often each block stands in the determinant.
    """

    diagonal: Value
    left: Value
    right: Value
    power: int


@dataclass(frozen=True, slots=True, eq=False)
class Logarithm:
    """A block by the logarithm of its determinant.

    Attributes:
        sign: its sign.
        log: the logarithm of its absolute value.
        how: how they are computed, for the record.
        order: the number of rows of the block.
    """

    sign: Value
    log: Value
    how: str
    order: int


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """A block that is a loop: its determinant is the product of those of the steps.

    Attributes:
        builder: another builder, where that of one step is; its inputs are what the step reads.
        step: the determinant of one step.
        operands: what is read by every step, or along axis 0 by one each.
        is_stacked: which of the operands the steps read along axis 0.
        length: the number of steps.
    """

    builder: Builder
    step: Determinant
    operands: tuple[Value, ...]
    is_stacked: tuple[bool, ...]
    length: int


Part = Partials | Matrices | LowRank | Logarithm | Loop


@dataclass(frozen=True, slots=True, eq=False)
class Determinant:
    """A determinant: a sign times the determinants of parts.

    Attributes:
        sign: 1 or -1; 0 where the determinant is 0 whatever the inputs are.
        parts: what it is multiplied from.
        description: what they are, or why the sign is 0, for the record.
    """

    sign: int
    parts: list[Part]
    description: str


def determinant(system: System) -> Determinant:
    """Return the determinant of the outputs of a system by its inputs, which are as many scalars."""
    sign, parts, counts = 1, list[Part](), Counter[str]()
    for section, form in _sections(system):
        if isinstance(form, Bottleneck):
            return Determinant(0, [], f"zero: all paths lead through {form.scalars.size} numbers")
        sign *= form.sign
        for pairs in form.pairs:
            one, found = _read(section, pairs)
            sign *= one
            parts += found
            counts["of one"] += pairs.rows.size
        for group in form.groups:
            one, found = _block(section, group)
            sign *= one
            parts += found
            counts["of one" if group.order == 1 else f"{group.order} x {group.order} {_kind(found)}"] += group.count
    description = ", ".join(f"{count} {'block' if count == 1 else 'blocks'} {name}" for name, count in counts.items() if count)
    return Determinant(sign, parts, description or "no blocks")


def _sections(system: System) -> list[tuple[System, Form | Bottleneck]]:
    """Return systems of which one is the composition, with their block triangular forms: itself, if it is not too large."""
    waiting, found = [system], []
    while waiting:
        section = waiting.pop()
        form = section.form()
        halves = section.halves() if form is None else None
        if halves is None:
            found.append((section, Form(1, [], [section.whole()]) if form is None else form))
        else:
            waiting += reversed(halves)
    return found


def _kind(parts: Sequence[Part]) -> str:
    """Return how blocks are computed, as text."""
    last = parts[-1] if parts else None
    if isinstance(last, Loop):
        return f"of {last.length} steps ({last.step.description})"
    if isinstance(last, LowRank):
        return f"diagonal plus rank {last.left.shape[2]}"
    return last.how if isinstance(last, Logarithm) else "dense"


def tall_blocks(system: System) -> list[Matrices] | None:
    """Return matrices whose volumes multiply to that of the outputs of a system by its inputs; None where their rank is too low."""
    groups = system.pieces()
    if groups is None:
        groups = [system.whole()]
    blocks = []
    for group in groups:
        if sum(places.shape[1] for (_, kind), places in group.places.items() if kind == OUTPUT) < group.order:
            return None
        found = sum_over_paths(system, group)
        if found is None:
            blocks += [part for part in _accumulated(system, group)[1] if isinstance(part, Matrices)]
        else:
            values = assembled(group, found)
            blocks.append(Matrices(values, group.count // values.shape[0]))
    return blocks


Found = tuple[int, list[Part]]
"""A sign and the parts beside it."""


def _read(system: System, pairs: Pairs) -> Found:
    """Return the factors of blocks of one entry."""
    (link,) = [link for link in system.links[pairs.result] if link.operand is pairs.operand]
    found = locate(link, pairs.rows, pairs.columns)
    if found is None:
        places = {(pairs.operand, INPUT): pairs.columns[:, None], (pairs.result, OUTPUT): pairs.rows[:, None]}
        return _accumulated(system, Group(pairs.rows.size, 1, places))
    assert link.weights is not None
    parts: list[Part] = []
    for weight, positions in zip(link.weights, found[1], strict=True):
        counts = np.bincount(positions, minlength=weight.value.size)
        used = np.flatnonzero(counts)
        often = counts[used]
        parts += [Partials(picked(weight.value, used[often == power]), power) for power in np.unique(often).tolist()]
    return (-1 if link.sign < 0 and pairs.rows.size % 2 else 1), parts


def _block(system: System, group: Group) -> Found:
    """Return blocks that are more than one entry."""
    whole = _loop(system, group) or _factored(system, group)
    if whole is not None:
        return whole
    found = sum_over_paths(system, group)
    if found is None:
        return _accumulated(system, group)
    if len(found) == 1:
        (entries,) = found.values()
        if group.order == entries.height == entries.width:
            return 1, _parts(group, entries)
    values = assembled(group, found)
    return 1, [Matrices(values, group.count // values.shape[0])]


def _parts(group: Group, entries: Entries) -> list[Part]:
    if entries.diagonal is not None and entries.full is None and not entries.products:
        return [Partials(entries.diagonal, group.count * group.order // entries.diagonal.size)]
    if entries.diagonal is None or entries.full is not None or not is_small(entries.rank, group.order, group.order):
        values = entries.whole()
        part = Partials if group.order == 1 else Matrices
        return [part(values, group.count // values.shape[0])]
    count = max(value.shape[0] for value in (entries.diagonal, *[item for pair in entries.products for item in pair]))
    left, right = [
        joined([broadcast_to(pair[side], (count, *pair[side].shape[1:])) for pair in entries.products], 2 - side) for side in (0, 1)
    ]
    return [LowRank(broadcast_to(entries.diagonal, (count, group.order)), left, right, group.count // count)]


# -- loops ---------------------------------------------------------------------------------------------------------------------


def _loop(system: System, group: Group) -> Found | None:
    """Return a block that is all carries of a loop by what they begin with; None for others."""
    results = [var for var, kind in group.places if kind == OUTPUT]
    equation = system.equation(results[0])
    if equation is None or equation.primitive.name != "scan" or group.count > 1:
        return None
    params: Any = equation.params
    first, last = params["const_count"], params["const_count"] + params["carry_count"]
    carried = [index for index, var in enumerate(equation.results[: last - first]) if (var, OUTPUT) in group.places]
    begins = [equation.operands[first + index] for index in carried]
    needed = {(var, INPUT) for var in begins} | {(equation.results[index], OUTPUT) for index in carried}
    linear = [item for item in equation.operands if item in system]
    if group.places.keys() != needed or {*linear} != {*begins} or len(linear) != len(begins):
        return None
    if any(places.size != var.type.size for (var, _), places in group.places.items()):
        return None
    order = np.concatenate([system.scalars(var) for var in begins if isinstance(var, Var)])
    builder = Builder()
    step = _step(builder, params["body"], first, last, carried)
    if step is None:
        return None
    places = [place for place in range(len(equation.operands)) if not first <= place < last]
    operands = tuple(Value(system.builder, equation.operands[place]) for place in places)
    is_stacked = tuple(place >= last for place in places)
    return parity(order, np.sort(order)), [Loop(builder, step, operands, is_stacked, params["length"])]


def _step(builder: Builder, body: Program, first: int, last: int, carried: Sequence[int]) -> Determinant | None:
    """Return the determinant of some carries of one step of a linear loop by themselves; None where others lead to them."""
    types = body.input_types
    known: dict[Operand, Value] = {}
    others = []
    for place, (var, type) in enumerate(zip(body.inputs, types, strict=True)):
        is_free = first <= place < last
        known[var] = builder.free(type) if is_free else builder.input(type)
        if is_free and place - first not in carried:
            others.append(known[var])
    builder.inline_equations(body.equations, known)
    seeds = [known[body.inputs[first + index]] for index in carried]
    ends = [builder.resolve(body.outputs[index], known) for index in carried]
    reached = {var for equation in dependent(builder.equations, others) for var in equation.results}
    if not reached.isdisjoint(end.operand for end in ends) or any(end.operand is item.operand for end in ends for item in others):
        return None
    equations = [item for item in dependent(builder.equations, seeds) if reached.isdisjoint(item.results)]
    linear = {seed.operand for seed in seeds} | {var for equation in equations for var in equation.results}
    outputs = [(var_of(end) if end.operand in linear else None, end.type) for end in ends]
    return determinant(System(builder, equations, [var_of(seed) for seed in seeds], outputs))


# -- blocks from terms ---------------------------------------------------------------------------------------------------------

LEAST_LOCAL = 64
"""Smaller blocks are dense."""
MOST_LOCAL = 16
"""As many entries a row or a column may have by one link."""
DENSEST = 0.1


def _factored(system: System, group: Group) -> Found | None:
    """Return a large block by a banded or sparse factorization; None where that is not better."""
    is_real = all(var.type.dtype.numpy.kind == "f" for var, _ in group.places)
    if group.count > 1 or group.order < LEAST_LOCAL or not is_real or not system.is_local(group, MOST_LOCAL):
        return None
    builder = system.builder
    seeds, ends, equations = restricted(system, group)
    found = accumulate(builder, equations, [var_of(seed) for seed in seeds])
    values, rows, columns = [], [], []
    for (end, row), (index, (seed, column)) in itertools.product(_starts(ends), enumerate(_starts(seeds))):
        terms = found.get(var_of(end), {}).get(index, [])
        pattern = (
            find_sparsity(equations, [var_of(seed)], [var_of(end)], [end.size], residuals_of(builder), DENSEST) if terms else None
        )
        entries = None if pattern is None else entries_of(builder, terms, pattern, Dtype.of(end.dtype))
        if pattern is None or entries is None:
            if terms:
                return None
            continue
        values.append(entries)
        rows.append(pattern.rows + row)
        columns.append(pattern.columns + column)
    places = Places(group.order, np.concatenate(rows), np.concatenate(columns))
    chosen = logarithm_of(joined(values, 0), places)
    return None if chosen is None else (1, [Logarithm(chosen[1], chosen[2], chosen[0], group.order)])


def _starts(values: Sequence[Value]) -> list[tuple[Value, int]]:
    """Return values with the numbers of their first elements, one behind the other."""
    return list(zip(values, itertools.accumulate((value.size for value in values), initial=0), strict=False))


def _accumulated(system: System, group: Group) -> Found:
    """Return the blocks of a group from the terms of their Jacobian, which is at most block triangular.

    Where labels tie all terms its rows and columns are in the order of the values, those of the blocks block by block: the sign
    is that of the difference.
    """
    seeds, ends, equations = restricted(system, group)
    found = accumulate(system.builder, equations, [var_of(seed) for seed in seeds])
    terms = [[found.get(var_of(end), {}).get(index, []) for index in range(len(seeds))] for end in ends]
    if len(ends) == len(seeds) == 1 and terms[0][0]:
        block = common_block(terms[0][0])
        if block is not None:
            sign = math.prod(_reordering(system, group, kind) for kind in (INPUT, OUTPUT))
            return sign * block.parity, [Matrices(block.matrices, block.power)]
    matrix = _dense(terms, ends, seeds)
    if group.count > 1:
        rows, columns = _ranks(group, OUTPUT), _ranks(group, INPUT)
        matrix = picked(matrix, rows[:, :, None] * matrix.shape[2] + columns[:, None, :])
    return 1, [Matrices(matrix, 1)]


def _ranks(group: Group, kind: int) -> Array:
    """Return where the scalars of each block that take part in one way stand among all of these, [count, number]."""
    found, start = [], 0
    for (_, part), places in group.places.items():
        if part == kind:
            found.append(start + np.searchsorted(np.sort(places, axis=None), places))
            start += places.size
    return np.concatenate(found, axis=1)


def _reordering(system: System, group: Group, kind: int) -> int:
    scalars = [system.scalars(var)[array] for (var, part), array in group.places.items() if part == kind]
    flat = np.concatenate(scalars, axis=1).ravel()
    return parity(flat, np.sort(flat))


def _dense(terms: list[list[list[Term]]], ends: Sequence[Value], seeds: Sequence[Value]) -> Value:
    """Return terms of each end by each seed as one matrix, [1, n, n]."""
    rows = []
    for end, row in zip(ends, terms, strict=True):
        parts = []
        for seed, pair in zip(seeds, row, strict=True):
            shape = (end.size, seed.size)
            zeros = zeros_of(end.type.with_shape(shape), end)
            parts.append(reduce(add, [reshape(dense(term), shape) for term in pair]) if pair else zeros)
        rows.append(joined(parts, 1))
    matrix = joined(rows, 0)
    return reshape(matrix, (1, *matrix.shape))  # type: ignore[no-any-return]
