"""The Jacobians of blocks of one form, summed over their paths: partials are read from the residuals, for all blocks at once.

A matrix of every block is held as a diagonal, a full matrix and products of few columns by few rows, summed. Products come
from where a value between has few scalars, and are kept apart while that is smaller: they are what the determinant lemma needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops._declare import zeros_of
from gradwire_core.ops.contraction import matmul
from gradwire_core.ops.elementwise import add, multiply, negative, where
from gradwire_core.ops.shaping import broadcast_to, concatenate, embed, reshape, transpose
from gradwire_core.program import Literal, Var
from gradwire_core.structure.links import Link, Weight
from gradwire_core.structure.selection import picked
from gradwire_core.structure.system import INNER, INPUT, OUTPUT, Group, System
from gradwire_core.types import Array, TensorType

MOST_ENTRIES = 2**22
"""Blocks with more entries, between values that are linked, are not read."""


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """A matrix of every block, [count, m, k], as a sum; an axis along which all are alike may have length 1.

    Attributes:
        height: m.
        width: k.
        diagonal: its diagonal, [count or 1, m or 1], where m = k; None for none.
        full: a matrix, [count or 1, m, k]; None for none.
        products: pairs of factors, [count or 1, m, r] and [count or 1, r, k].
    """

    height: int
    width: int
    diagonal: Value | None = None
    full: Value | None = None
    products: tuple[tuple[Value, Value], ...] = ()

    @property
    def is_zero(self) -> bool:
        """Whether nothing is summed."""
        return self.diagonal is None and self.full is None and not self.products

    @property
    def rank(self) -> int:
        """The sum of the ranks of the products."""
        return sum(left.shape[2] for left, _ in self.products)

    def whole(self) -> Value:
        """Return the sum as a matrix, [count or 1, m, k]; there must be one."""
        parts = [matmul(left, right) for left, right in self.products]
        if self.full is not None:
            parts.append(self.full)
        if self.diagonal is not None:
            parts.append(embed(broadcast_to(self.diagonal, (self.diagonal.shape[0], self.height)), (0, 1, 1)))
        total: Value = reduce(add, parts)
        return total


def is_small(rank: int, height: int, width: int) -> bool:
    """Whether a product of this rank is better kept as one."""
    return 2 * rank <= min(height, width)


def sum_over_paths(system: System, group: Group) -> dict[tuple[Var, Var], Entries] | None:
    """Return the matrices of each output of a group's blocks by each input, for those that are linked.

    None where a link's partials are not known, or the matrices between are too large.
    """
    places, known = group.places, dict[tuple[Var, int], dict[Var, Entries]]()
    budget = MOST_ENTRIES
    for (var, kind), rows in places.items():
        if kind == INPUT:
            one = _constant(system.builder, np.ones((1, 1)), var)
            known[var, kind] = {var: Entries(rows.shape[1], rows.shape[1], one)}
            continue
        if var not in system.links:
            return None
        total: dict[Var, Entries] = {}
        for link in system.links[var]:
            for part in (INPUT, INNER):
                columns = places.get((link.operand, part))
                if columns is None:
                    continue
                found = _entries(system.builder, link, rows, columns, budget)
                if found is None:
                    return None
                budget -= 0 if found.full is None else found.full.size
                for seed, entries in known[link.operand, part].items():
                    term = _composed(found, entries)
                    total[seed] = _added(total[seed], term) if seed in total else term
        known[var, kind] = {seed: entries for seed, entries in total.items() if not entries.is_zero}
    return {(var, seed): entries for (var, kind), row in known.items() if kind == OUTPUT for seed, entries in row.items()}


# -- sums and products ---------------------------------------------------------------------------------------------------------


def _composed(outer: Entries, inner: Entries) -> Entries:
    """Return the product of a diagonal or a full matrix with any."""
    height, width = outer.height, inner.width
    if outer.diagonal is not None:
        scale = reshape(outer.diagonal, (*outer.diagonal.shape, 1))
        diagonal = None if inner.diagonal is None else _times(outer.diagonal, inner.diagonal)
        full = None if inner.full is None else _times(scale, inner.full)
        return Entries(height, width, diagonal, full, tuple((_times(scale, left), right) for left, right in inner.products))
    if outer.full is None or inner.is_zero:
        return Entries(height, width)
    matrix = outer.full
    if is_small(outer.width, height, width):
        return Entries(height, width, products=((matrix, inner.whole()),))
    parts = []
    if inner.diagonal is not None:
        parts.append(_times(matrix, reshape(inner.diagonal, (inner.diagonal.shape[0], 1, inner.diagonal.shape[1]))))
    if inner.full is not None:
        parts.append(matmul(matrix, inner.full))
    products = tuple((matmul(matrix, left), right) for left, right in inner.products)
    return _settled(Entries(height, width, None, reduce(add, parts) if parts else None, products))


def _added(one: Entries, other: Entries) -> Entries:
    def sum_of(first: Value | None, second: Value | None) -> Value | None:
        return second if first is None else first if second is None else add(first, second)

    diagonal, full = sum_of(one.diagonal, other.diagonal), sum_of(one.full, other.full)
    return _settled(Entries(one.height, one.width, diagonal, full, (*one.products, *other.products)))


def _settled(entries: Entries) -> Entries:
    """Return a sum whose products are multiplied out, unless they have few columns together, and nothing is full beside them."""
    if not entries.products or (entries.full is None and is_small(entries.rank, entries.height, entries.width)):
        return entries
    return replace(entries, full=replace(entries, diagonal=None).whole(), products=())


def _times(one: Value, other: Value) -> Value:
    """Return a product that broadcasts; a literal 1 is left out."""
    if _is_one(one) and one.ndim == other.ndim:
        return other
    if _is_one(other) and one.ndim == other.ndim:
        return one
    product: Value = multiply(one, other)
    return product


def _is_one(value: Value) -> bool:
    return isinstance(value.operand, Literal) and value.size == 1 and bool((value.operand.value == 1).all())


def joined(values: Sequence[Value], axis: int) -> Value:
    """Return arrays joined along an axis."""
    value: Value = values[0] if len(values) == 1 else concatenate(values, axis)
    return value


def assembled(group: Group, found: dict[tuple[Var, Var], Entries]) -> Value:
    """Return the matrices of the blocks of all outputs by all inputs, [count or 1, order, order]."""
    ins = [(var, places.shape[1]) for (var, kind), places in group.places.items() if kind == INPUT]
    outs = [(var, places.shape[1]) for (var, kind), places in group.places.items() if kind == OUTPUT]
    whole = {pair: entries.whole() for pair, entries in found.items()}
    count = max(value.shape[0] for value in whole.values())
    like = next(iter(whole.values()))

    def block(pair: tuple[Var, Var], height: int, width: int) -> Value:
        shape = (count, height, width)
        value: Value = broadcast_to(whole[pair], shape) if pair in whole else zeros_of(TensorType(like.type.dtype, shape), like)
        return value

    return joined([joined([block((out, var), height, width) for var, width in ins], 2) for out, height in outs], 1)


# -- the entries of a link -------------------------------------------------------------------------------------------------------


def _entries(builder: Builder, link: Link, rows: Array, columns: Array, budget: int) -> Entries | None:
    """Return the partials of a link at [count, m] rows by [count, k] columns; None where they are not known or too many."""
    if link.weights is None:
        return None
    if link.is_listed:
        return _listed(builder, link, rows, columns, budget)
    if rows.size * columns.shape[1] > budget:
        return None
    whole = _whole(builder, link, rows, columns)
    return _located(builder, link, rows, columns) if whole is None else whole


def _whole(builder: Builder, link: Link, rows: Array, columns: Array) -> Entries | None:
    """Return all partials of a link, where its tied index is that of the blocks; None where it is not."""
    if link.mask is not None or link.reach is not None or link.weights is None:
        return None
    if not np.array_equal(link.rows, rows) or not np.array_equal(link.columns, columns):
        return None
    factors = [factor for factor in map(_strided, link.weights) if factor is not None]
    if len(factors) < len(link.weights):
        return None
    height, width = rows.shape[1], columns.shape[1]
    return Entries(height, width, full=_full(builder, link, factors, (height, width)))


def _located(builder: Builder, link: Link, rows: Array, columns: Array) -> Entries | None:
    height, width = rows.shape[1], columns.shape[1]
    found = locate(link, rows[:, :, None], columns[:, None, :])
    if found is None:
        return None
    valid, positions = found
    if not valid.any():
        return Entries(height, width)
    if height == width and bool((valid == np.eye(height, dtype=bool)).all()):
        diagonals = [np.diagonal(array, axis1=1, axis2=2) for array in positions]
        return Entries(height, width, diagonal=_diagonal(builder, link, _ALL, diagonals))
    return Entries(height, width, full=_placed(builder, link, valid, positions))


def _listed(builder: Builder, link: Link, rows: Array, columns: Array, budget: int) -> Entries | None:
    (count, height), width = rows.shape, columns.shape[1]
    assert link.weights is not None
    if link.is_elementwise and np.array_equal(rows, columns):
        positions = [weight.tied[rows] + weight.out[0] + weight.into[0] for weight in link.weights]
        return Entries(height, width, diagonal=_diagonal(builder, link, _ALL, positions))
    row_block, row = _inverse(rows, link.result.type.size)
    column_block, column = _inverse(columns, link.operand.type.size)
    at, to = link.rows[:, 0], link.columns[:, 0]
    kept = np.flatnonzero((row_block[at] >= 0) & (row_block[at] == column_block[to]))
    block, row, column = row_block[at[kept]], row[at[kept]], column[to[kept]]
    if not kept.size:
        return Entries(height, width)
    is_diagonal = height == width and np.array_equal(row, column)
    if not is_diagonal and count * height * width > budget:
        return None
    index = (block, row) if is_diagonal else (block, row, column)
    valid = np.zeros((count, height) if is_diagonal else (count, height, width), dtype=bool)
    valid[index] = True
    positions = []
    for weight in link.weights:
        flat = weight.tied[kept] + weight.out[0] + weight.into[0]
        array = np.full(valid.shape, flat[0])
        array[index] = flat
        positions.append(array)
    if is_diagonal:
        return Entries(height, width, diagonal=_diagonal(builder, link, valid, positions))
    return Entries(height, width, full=_placed(builder, link, valid, positions))


_ALL = np.ones((1, 1), dtype=bool)


def _diagonal(builder: Builder, link: Link, valid: Array, positions: list[Array]) -> Value:
    assert link.weights is not None
    factors = [_read(weight.value, array) for weight, array in zip(link.weights, positions, strict=True)]
    value = reduce(_times, factors, _constant(builder, np.full((1, 1), link.sign), link.result))
    return value if valid.all() else where(builder.literal(valid), value, 0.0)


def _placed(builder: Builder, link: Link, valid: Array, positions: list[Array]) -> Value:
    assert link.weights is not None
    factors = [_read(weight.value, array) for weight, array in zip(link.weights, positions, strict=True)]
    valid = collapsed(valid, (0,))
    value = _full(builder, link, factors, valid.shape[1:])
    return value if valid.all() else where(builder.literal(valid), value, 0.0)


def _full(builder: Builder, link: Link, factors: list[Value], shape: tuple[int, ...]) -> Value:
    value = reduce(_times, factors, _constant(builder, np.ones((1, 1, 1)), link.result))
    value = negative(value) if link.sign < 0 else value
    return broadcast_to(value, (value.shape[0], *shape))  # type: ignore[no-any-return]


def _constant(builder: Builder, array: Array, like: Var) -> Value:
    return builder.literal(np.asarray(array, like.type.dtype.numpy))


def collapsed(array: Array, axes: Sequence[int] | None = None) -> Array:
    """Return an array with length 1 along the axes, by default any, along which it does not vary."""
    for axis in range(array.ndim) if axes is None else axes:
        first = array.take([0], axis)
        if (array == first).all():
            array = first
    return array


def _read(value: Value, positions: Array) -> Value:
    """Return the elements of a Value at flat positions; an axis along which they do not vary has length 1."""
    return picked(value, collapsed(positions))


def _strided(weight: Weight) -> Value | None:
    """Return the factor of a link's partials as an array [t or 1, o or 1, i or 1] where that moves whole axes only."""
    axes = []
    for place, part in enumerate((weight.tied, weight.out, weight.into)):
        stride = int(part[1] - part[0]) if part.size > 1 else 0
        if part[0] != 0 or not np.array_equal(part, stride * np.arange(part.size)):
            return None
        if stride:
            axes.append((stride, part.size, place))
    axes.sort(reverse=True)
    sizes = [size for _, size, _ in axes]
    if (
        any(stride != math.prod(sizes[place + 1 :]) for place, (stride, _, _) in enumerate(axes))
        or math.prod(sizes) != weight.value.size
    ):
        return None
    order = sorted(range(len(axes)), key=lambda place: axes[place][2])
    found = transpose(reshape(weight.value, tuple(sizes)), tuple(order))
    lengths = {place: size for _, size, place in axes}
    return reshape(found, tuple(lengths.get(place, 1) for place in range(3)))  # type: ignore[no-any-return]


def locate(link: Link, rows: Array, columns: Array) -> tuple[Array, list[Array]] | None:
    """Return where a link has partials at rows and columns, flat positions that broadcast, and where its factors stand there.

    None where they are not known; where a partial is absent, the positions mean nothing.
    """
    if link.weights is None:
        return None
    if link.is_listed:
        width = link.operand.type.size
        keys = link.rows[:, 0] * width + link.columns[:, 0]
        order = np.argsort(keys, kind="stable")
        wanted = rows * width + columns
        if keys.size == 0:
            return np.zeros(wanted.shape, dtype=bool), [np.zeros(wanted.shape, np.int64)] * len(link.weights)
        tied = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), keys.size - 1)]
        return keys[tied] == wanted, [weight.tied[tied] + weight.out[0] + weight.into[0] for weight in link.weights]
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
    return valid, [weight.tied[tied] + weight.out[out] + weight.into[into] for weight in link.weights]


def _inverse(places: Array, size: int) -> tuple[Array, Array]:
    """Return for each flat position the two indices that places [t, k] has it at, -1 where it has it not."""
    first, second = np.full(size, -1), np.full(size, -1)
    first[places], second[places] = np.broadcast_arrays(np.arange(places.shape[0])[:, None], np.arange(places.shape[1]))
    return first, second
