"""The determinant of a linear program as the parts that it multiplies from: what its block triangular form leaves to compute.

Blocks of one entry are read off the residuals. Blocks of one form are summed over their paths, all at once. What is left as one
large block is accumulated as terms: tied labels give smaller blocks, a diagonal plus few columns times few rows the determinant
lemma; else it is dense.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops._declare import call, find_primitive, zeros_of
from gradwire_core.ops.contraction import matmul
from gradwire_core.ops.elementwise import add, multiply, negative, where
from gradwire_core.ops.indexing import take_flat
from gradwire_core.ops.shaping import broadcast_to, concatenate, embed, reshape, slice_axes
from gradwire_core.program import Equation, Operand, Var
from gradwire_core.structure.accumulate import accumulate
from gradwire_core.structure.blocks import common_block
from gradwire_core.structure.links import Link
from gradwire_core.structure.matching import Bottleneck
from gradwire_core.structure.system import INNER, INPUT, OUTPUT, Form, Group, Pairs, System, parity
from gradwire_core.structure.terms import Term, dense
from gradwire_core.types import Array, TensorType


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
        values: the matrices, [count, b, b].
        power: how often each of them stands in the determinant.
    """

    values: Value
    power: int


Part = Partials | Matrices


@dataclass(frozen=True, slots=True, eq=False)
class Determinant:
    """A determinant: a sign times the determinants of parts.

    Attributes:
        sign: 1 or -1; 0 where the determinant is 0 whatever the inputs are.
        parts: what it is multiplied from.
        bottleneck: why the sign is 0, if it is.
    """

    sign: int
    parts: list[Part]
    bottleneck: Bottleneck | None = None


MOST_ENTRIES = 2**22
"""Blocks of one form with more entries are not gathered."""


def determinant(
    builder: Builder, equations: Sequence[Equation], inputs: Sequence[Var], outputs: Sequence[tuple[Var | None, TensorType]]
) -> Determinant:
    """Return the determinant of the outputs of a linear program by its inputs, which are as many scalars."""
    system = System(builder, equations, inputs, outputs)
    form = system.form()
    if isinstance(form, Bottleneck):
        return Determinant(0, [], form)
    if form is None:
        whole = {(var, INPUT): _every(var) for var in system.inputs}
        whole |= {(var, OUTPUT): _every(var) for var in system.outputs}
        inner = [var for equation in equations for var in equation.results]
        whole |= {(var, INNER): _every(var) for var in inner}
        form = Form(1, [], [Group(1, sum(var.type.size for var in inputs), whole)])
    sign = form.sign
    parts: list[Part] = []
    for pairs in form.pairs:
        found = _read(system, pairs)
        found = _read(system, pairs) or _accumulated(system, _group_of(pairs))
        sign, parts = sign * found[0], parts + found[1]
    for group in form.groups:
        gathered = _gathered(system, group)
        found = (1, gathered) if gathered is not None else _accumulated(system, group)
        sign, parts = sign * found[0], parts + found[1]
    return Determinant(sign, parts)


def _every(var: Var) -> Array:
    return np.arange(var.type.size)[None]


def _group_of(pairs: Pairs) -> Group:
    places = {(pairs.operand, INPUT): pairs.columns[:, None], (pairs.result, OUTPUT): pairs.rows[:, None]}
    return Group(pairs.rows.size, 1, places)


# -- entries -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Which of the asked places a link has, and where the factors of its partials stand there; 0 where it has none."""

    valid: Array
    positions: list[Array]


def _locate(link: Link, rows: Array, columns: Array) -> _Found | None:
    """Return where a link has partials at rows and columns, flat positions that broadcast; None where they are not known."""
    if link.weights is None:
        return None
    if link.is_listed:
        width = link.operand.type.size
        keys = link.rows[:, 0] * width + link.columns[:, 0]
        order = np.argsort(keys, kind="stable")
        wanted = rows * width + columns
        if keys.size == 0:
            return _Found(np.zeros(wanted.shape, dtype=bool), [np.zeros(wanted.shape, np.int64)] * len(link.weights))
        tied = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), keys.size - 1)]
        valid = keys[tied] == wanted
        tied = np.where(valid, tied, 0)
        return _Found(valid, [weight.tied[tied] + weight.out[0] + weight.into[0] for weight in link.weights])
    row_tied, out = _inverse(link.rows, link.result.type.size)
    column_tied, into = _inverse(link.columns, link.operand.type.size)
    tied, out, into = np.broadcast_arrays(row_tied[rows], out[rows], into[columns])
    valid = (tied >= 0) & (tied == column_tied[columns])
    tied, out, into = [np.where(valid, item, 0) for item in (tied, out, into)]
    if link.reach is not None:
        valid &= into < link.reach[out]
    if link.mask is not None:
        valid &= link.mask[np.minimum(tied, link.mask.shape[0] - 1), out, into]
    if link.is_partly_known and bool((valid & (out != into)).any()):
        return None
    return _Found(valid, [weight.tied[tied] + weight.out[out] + weight.into[into] for weight in link.weights])


def _inverse(places: Array, size: int) -> tuple[Array, Array]:
    """Return for each flat position the two indices that places [t, k] has it at, -1 where it has it not."""
    tied, other = np.full(size, -1), np.full(size, -1)
    grid = np.broadcast_arrays(np.arange(places.shape[0])[:, None], np.arange(places.shape[1]))
    tied[places], other[places] = grid
    return tied, other


def _picked(value: Value, positions: Array) -> Value:
    """Return the elements of a Value at flat positions, in the shape of those."""
    flat = positions.ravel()
    if flat.size == value.size and np.array_equal(flat, np.arange(flat.size)):
        return reshape(value, positions.shape)  # type: ignore[no-any-return]
    whole = reshape(value, (value.size,))
    steps = np.diff(flat[:2])
    if flat.size > 1 and steps[0] > 0 and np.array_equal(flat, flat[0] + steps[0] * np.arange(flat.size)):
        part = slice_axes(whole, (int(flat[0]),), (int(flat[-1]) + 1,), (int(steps[0]),))
    else:
        part = take_flat(whole, flat, 0)
    return reshape(part, positions.shape)  # type: ignore[no-any-return]


def _read(system: System, pairs: Pairs) -> tuple[int, list[Part]] | None:
    """Return the sign and the factors of blocks of one entry."""
    (link,) = [link for link in system.links[pairs.result] if link.operand is pairs.operand]
    found = _locate(link, pairs.rows, pairs.columns)
    if found is None:
        return None
    assert link.weights is not None
    assert found.valid.all()
    parts: list[Part] = []
    for weight, positions in zip(link.weights, found.positions, strict=True):
        counts = np.bincount(positions, minlength=weight.value.size)
        used = np.flatnonzero(counts)
        often = counts[used]
        parts += [Partials(_picked(weight.value, used[often == power]), power) for power in np.unique(often).tolist()]
    return (-1 if link.sign < 0 and pairs.rows.size % 2 else 1), parts


# -- blocks of one form --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Diagonal:
    """A diagonal of every block, [count or 1, m or 1]; None is ones."""

    value: Value | None


@dataclass(frozen=True, slots=True, eq=False)
class _Full:
    """A matrix of every block, [count or 1, m, k]."""

    value: Value


_Entries = _Diagonal | _Full
_Row = dict[Var, _Entries]


def _gathered(system: System, group: Group) -> list[Part] | None:
    """Return the blocks of a group, summed over their paths, each link's entries being gathered; None where that is too much."""
    places = group.places
    known: dict[tuple[Var, int], _Row] = {(var, INPUT): {var: _Diagonal(None)} for var, kind in places if kind == INPUT}
    if _asked(system, group) > MOST_ENTRIES:
        return None
    for (var, kind), rows in places.items():
        if kind == INPUT:
            continue
        unit = _constant(system.builder, np.ones((1, 1)), var)
        total: _Row = {}
        for link, part in _leading_to(system, group, var):
            found = _locate(link, rows[:, :, None], places[link.operand, part][:, None, :])
            if found is None:
                return None
            entries = _entries(system.builder, link, found)
            for seed, row in known[link.operand, part].items():
                if entries is None:
                    break
                term = _composed(entries, row)
                total[seed] = _added(total[seed], term, unit, rows.shape[1]) if seed in total else term
        known[var, kind] = total
    return _assembled(system.builder, group, known)


def _leading_to(system: System, group: Group, var: Var) -> list[tuple[Link, int]]:
    """Return the links of a value by the scalars of a group, with the part that the operand takes."""
    links = system.links.get(var, [])
    return [(link, part) for link in links for part in (INPUT, INNER) if (link.operand, part) in group.places]


def _asked(system: System, group: Group) -> float:
    """Return how many entries the blocks of a group have between values that are linked; inf where links are not known."""
    places = group.places
    rows = [(var, array) for (var, kind), array in places.items() if kind != INPUT]
    if any(var not in system.links for var, _ in rows):
        return math.inf
    return float(
        sum(
            array.size * places[link.operand, part].shape[1]
            for var, array in rows
            for link, part in _leading_to(system, group, var)
        )
    )


def _assembled(builder: Builder, group: Group, known: dict[tuple[Var, int], _Row]) -> list[Part]:
    seeds = [(var, array.shape[1]) for (var, kind), array in group.places.items() if kind == INPUT]
    outs = [(var, array.shape[1]) for (var, kind), array in group.places.items() if kind == OUTPUT]
    if len(seeds) == len(outs) == 1 and seeds[0][1] == 1:
        entry = known[outs[0][0], OUTPUT].get(seeds[0][0])
        if entry is None:
            return [Partials(_constant(builder, np.zeros(()), seeds[0][0]), 1)]
        if entry.value is None:
            return []
        return [Partials(entry.value, group.count // entry.value.shape[0])]
    rows: list[list[tuple[Value | None, int, int]]] = []
    for var, height in outs:
        row, unit = known[var, OUTPUT], _constant(builder, np.ones((1, 1)), var)
        rows.append([(_as_full(row[seed], unit, height) if seed in row else None, height, width) for seed, width in seeds])
    present = [part for row in rows for part, _, _ in row if part is not None]
    count = max(value.shape[0] for value in present)
    full = [_joined([_repeated(part, (count, height, width), present[0]) for part, height, width in row], 2) for row in rows]
    return [Matrices(_joined(full, 1), group.count // count)]


def _joined(values: list[Value], axis: int) -> Value:
    joined: Value = values[0] if len(values) == 1 else concatenate(values, axis)
    return joined


def _repeated(value: Value | None, shape: tuple[int, ...], like: Value) -> Value:
    if value is None:
        return zeros_of(TensorType(like.type.dtype, shape), like)  # type: ignore[no-any-return]
    return broadcast_to(value, shape)  # type: ignore[no-any-return]


def _constant(builder: Builder, array: Array, like: Var) -> Value:
    return builder.literal(np.asarray(array, like.type.dtype.numpy))


def _entries(builder: Builder, link: Link, found: _Found) -> _Entries | None:
    """Return the partials of a link at [count, m, k] places; None where there are none."""
    valid, positions = found.valid, found.positions
    assert link.weights is not None
    if not valid.any():
        return None
    if all(_is_alike(array) for array in (valid, *positions)):
        valid, positions = valid[:1], [array[:1] for array in positions]
    height, width = valid.shape[1:]
    is_diagonal = height == width and bool((valid == np.eye(height, dtype=bool)).all())
    if is_diagonal:
        valid = np.ones(valid.shape[:2], dtype=bool)
        positions = [np.diagonal(array, axis1=1, axis2=2) for array in positions]
    factors = [_picked(weight.value, array) for weight, array in zip(link.weights, positions, strict=True)]
    if not factors:
        if is_diagonal and link.sign > 0:
            return _Diagonal(None)
        value = _constant(builder, link.sign * (valid[:1, :1] if is_diagonal else valid), link.result)
    else:
        value = reduce(multiply, factors)
        value = negative(value) if link.sign < 0 else value
        if not valid.all():
            value = where(builder.literal(valid), value, 0.0)
    return _Diagonal(value) if is_diagonal else _Full(value)


def _is_alike(array: Array) -> bool:
    """Whether all blocks have the same."""
    return bool((array == array[:1]).all())


def _composed(entries: _Entries, row: _Entries) -> _Entries:
    """Return the product of two."""
    if isinstance(entries, _Diagonal):
        if entries.value is None:
            return row
        if isinstance(row, _Diagonal):
            return entries if row.value is None else _Diagonal(multiply(entries.value, row.value))
        return _Full(multiply(reshape(entries.value, (*entries.value.shape, 1)), row.value))
    if isinstance(row, _Diagonal):
        if row.value is None:
            return entries
        return _Full(multiply(entries.value, reshape(row.value, (row.value.shape[0], 1, row.value.shape[1]))))
    return _Full(matmul(entries.value, row.value))


def _added(one: _Entries, other: _Entries, unit: Value, height: int) -> _Entries:
    """Return the sum of two."""
    if isinstance(one, _Diagonal) and isinstance(other, _Diagonal):
        return _Diagonal(add(*[unit if item.value is None else item.value for item in (one, other)]))
    return _Full(add(_as_full(one, unit, height), _as_full(other, unit, height)))


def _as_full(entries: _Entries, unit: Value, height: int) -> Value:
    if isinstance(entries, _Full):
        return entries.value
    value = unit if entries.value is None else entries.value
    full: Value = embed(broadcast_to(value, (value.shape[0], height)), (0, 1, 1))
    return full


# -- one large block -----------------------------------------------------------------------------------------------------------


def _accumulated(system: System, group: Group) -> tuple[int, list[Part]]:
    """Return the blocks of a group from the terms of their Jacobian: the system restricted to them, accumulated from its inputs.

    Blocks of one form may depend on each other in one direction; then their Jacobian is block triangular, and as good. Its rows
    and columns are in the order of the values, those of the blocks block by block: the sign is that of the difference.
    """
    builder = system.builder
    start = len(builder.equations)
    seeds, ends = _replayed(system, group)
    equations = _dependent(builder.equations[start:], seeds)
    found = accumulate(builder, equations, [_var(seed) for seed in seeds])
    terms = [[found[_var(end)].get(index, []) if _var(end) in found else [] for index in range(len(seeds))] for end in ends]
    sign = math.prod(_reordering(system, group, kind) for kind in (INPUT, OUTPUT))
    if len(ends) == len(seeds) == 1 and terms[0][0]:
        block = common_block(terms[0][0])
        if block is not None:
            return sign * block.parity, [Matrices(block.matrices, block.power)]
    return sign, [Matrices(_dense(terms, ends, seeds), 1)]


def _reordering(system: System, group: Group, kind: int) -> int:
    scalars = [system.scalars(var)[array] for (var, part), array in group.places.items() if part == kind]
    flat = np.concatenate(scalars, axis=1).ravel()
    return parity(flat, np.sort(flat))


def _replayed(system: System, group: Group) -> tuple[list[Value], list[Value]]:
    """Add the equations of a group's blocks again, from seeds alone; return seeds and results, each in order of the values."""
    builder = system.builder
    places = {key: np.sort(array, axis=None) for key, array in group.places.items()}
    tangents: dict[Var, Value] = {}
    seeds: list[Value] = []
    ends: list[Value] = []

    def settle(var: Var, computed: Value) -> None:
        inner, seeded, asked = [places.get((var, part)) for part in (INNER, INPUT, OUTPUT)]
        if asked is not None:
            ends.append(_picked(computed, asked))
        parts: list[Value] = []
        if inner is not None:
            parts.append(computed if inner.size == var.type.size else multiply(computed, _mask(builder, var, inner)))
        if seeded is not None:
            is_whole = seeded.size == var.type.size
            seeds.append(builder.free(var.type if is_whole else var.type.with_shape((seeded.size,))))
            parts.append(seeds[-1] if is_whole else _spread(seeds[-1], seeded, var))
        if parts:
            tangents[var] = reduce(add, parts)

    variables = dict.fromkeys(var for var, _ in places)
    for var in variables:
        if var in system.sources:
            source = system.sources[var]
            settle(var, tangents.get(source, _zeros(builder, var)) if source is not None else _zeros(builder, var))
        elif system.equation(var) is None:
            settle(var, _zeros(builder, var))
        else:
            settle(var, _again(system, var, tangents))
    return seeds, ends


def _zeros(builder: Builder, var: Var) -> Value:
    return zeros_of(var.type, builder.literal(np.zeros(())))  # type: ignore[no-any-return]


def _again(system: System, var: Var, tangents: Mapping[Var, Value]) -> Value:
    """Return the result of an equation for other tangents: none is zero."""
    builder, equation = system.builder, system.equation(var)
    assert equation is not None
    operands = [
        (tangents[item] if item in tangents else _zeros(builder, item))
        if isinstance(item, Var) and item in system
        else Value(builder, item)
        for item in equation.operands
    ]
    if not any(item in tangents for item in equation.operands):
        return _zeros(builder, var)
    return builder.emit(equation.primitive, operands, equation.params)[equation.results.index(var)]


def _mask(builder: Builder, var: Var, places: Array) -> Value:
    mask = np.zeros(var.type.size, var.type.dtype.numpy)
    mask[places] = 1
    return builder.literal(mask.reshape(var.type.shape))


def _spread(seed: Value, places: Array, var: Var) -> Value:
    """Return zeros of the shape of a value with a seed at flat positions."""
    indices = seed.builder.literal(places)
    flat = call(find_primitive("scatter_add"), seed, indices, axis=0, batch=0, size=var.type.size)
    return reshape(flat, var.type.shape)  # type: ignore[no-any-return]


def _dependent(equations: Sequence[Equation], seeds: Sequence[Value]) -> list[Equation]:
    """Return the equations that depend on seeds, in order."""
    linear: set[Operand] = {seed.operand for seed in seeds}
    found = []
    for equation in equations:
        if not linear.isdisjoint(equation.operands):
            linear.update(equation.results)
            found.append(equation)
    return found


def _var(value: Value) -> Var:
    assert isinstance(value.operand, Var)
    return value.operand


def _dense(terms: list[list[list[Term]]], ends: Sequence[Value], seeds: Sequence[Value]) -> Value:
    """Return terms of each end by each seed as one matrix, [1, n, n]."""
    rows = []
    for end, row in zip(ends, terms, strict=True):
        parts = []
        for seed, pair in zip(seeds, row, strict=True):
            shape = (end.size, seed.size)
            zeros = zeros_of(end.type.with_shape(shape), end)
            parts.append(reduce(add, [reshape(dense(term), shape) for term in pair]) if pair else zeros)
        rows.append(_joined(parts, 1))
    matrix = _joined(rows, 0)
    return reshape(matrix, (1, *matrix.shape))  # type: ignore[no-any-return]
