"""Colouring: which columns of a sparse matrix may be computed together, so that every entry can be read off.

Columns of one colour are summed in one product with the matrix. A *column colouring* gives columns that meet in a row different
colours: each entry then stands alone in its row and colour. A *star colouring* of a symmetric matrix asks less, for an entry may
be read in its own row or in its transpose's: neighbours differ, and no path of four vertices has two colours only.

Three ways are tried, all linear in the entries. A *lattice*, colour = weights . index mod count, is tried first with as few
colours as the fullest row has entries: that is best possible, and what bands and stencils have. Then the greedy colouring, with
columns in their order, and with the fullest first; the set of colours that a row has used is the bits of one integer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gradwire_core.structure.sparsity import Sparsity
from gradwire_core.types import Array, Shape

MOST_LATTICES = 64
"""How many lattices are tried for one number of colours: each costs one pass over the entries."""


@dataclass(frozen=True, slots=True, eq=False)
class Colouring:
    """Columns parted into colours, and where each entry is to be read.

    Attributes:
        colours: the colour of each column, from 0.
        count: the number of colours.
        sources: for each entry of the pattern, in its order, `colour * rows + row`: where it stands in the compressed matrix
            [colours, rows].
    """

    colours: Array
    count: int
    sources: Array


def colour_columns(pattern: Sparsity, shapes: Sequence[Shape] = ()) -> Colouring:
    """Return a colouring of the columns in which those that meet in a row differ.

    Args:
        pattern: where the matrix may be other than zero.
        shapes: the shapes of the arrays whose elements, row-major, are the columns; lattices follow their axes.
    """
    colours = _lattice(pattern, shapes) if pattern.nnz else None
    if colours is None:
        colours = _greedy(pattern)
    rows, columns = pattern.rows, pattern.columns
    count = int(colours.max(initial=-1)) + 1
    return Colouring(colours, count, colours[columns] * pattern.shape[0] + rows)


def colour_rows(pattern: Sparsity, shapes: Sequence[Shape] = ()) -> Colouring:
    """Return a colouring of the rows in which those that meet in a column differ; entries are read from [colours, columns].

    Args:
        pattern: where the matrix may be other than zero.
        shapes: the shapes of the arrays whose elements, row-major, are the rows.
    """
    found = colour_columns(pattern.T, shapes)
    return Colouring(found.colours, found.count, found.colours[pattern.rows] * pattern.shape[1] + pattern.columns)


def colour_star(pattern: Sparsity, shapes: Sequence[Shape] = ()) -> Colouring:
    """Return a star colouring of a symmetric matrix, the columns' own where that has no more colours.

    Args:
        pattern: where the matrix may be other than zero; it is symmetric.
        shapes: as for `colour_columns`.
    """
    plain = colour_columns(pattern, shapes)
    # Two colours of a star colouring leave a forest, so that it has at least as many colours as half the entries of a mean row.
    edges = (pattern.nnz - np.count_nonzero(pattern.rows == pattern.columns)) // 2
    if plain.count <= 2 * (1 + edges // max(pattern.shape[0], 1)):
        return plain
    candidates = [_greedy_star(pattern, order) for order in _orders(pattern)]
    colours = min(candidates, key=lambda found: int(found.max(initial=-1)))
    count = int(colours.max(initial=-1)) + 1
    if count >= plain.count:
        return plain
    rows, columns = pattern.rows, pattern.columns
    meeting = rows * count + colours[columns]
    alone = _occurrences(meeting, pattern.shape[0] * count) == 1
    sources = np.where(alone, colours[columns] * pattern.shape[0] + rows, colours[rows] * pattern.shape[0] + columns)
    return Colouring(colours, count, sources)


def _occurrences(keys: Array, bound: int) -> Array:
    """Return how often each key occurs; keys are below a bound."""
    if bound <= 16 * len(keys):
        return np.bincount(keys, minlength=1)[keys]
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse])


# -- lattices ----------------------------------------------------------------------------------------------------------------


def _lattice(pattern: Sparsity, shapes: Sequence[Shape]) -> Array | None:
    """Return the first lattice that is a colouring with as few colours as can be; None where those tried are not."""
    count = pattern.fullest_row
    rows, columns = pattern.rows, pattern.columns
    if not shapes or sum(map(math.prod, shapes)) != pattern.shape[1]:
        shapes = [(pattern.shape[1],)]
    if len(shapes) == 1:
        positions = _indices(shapes[0], len(shapes[0]))
    else:  # which array it is counts as one axis more
        axes = 1 + max(map(len, shapes))
        positions = np.concatenate([_indices(shape, axes) for shape in shapes], axis=1)
        positions[0] = np.repeat(np.arange(len(shapes)), [math.prod(shape) for shape in shapes])
    for weights in _weights(len(positions), count):
        colours = np.asarray(weights, np.int64) @ positions % count
        if _occurrences(rows * count + colours[columns], pattern.shape[0] * count).max() == 1:
            return np.asarray(colours)
    return None


def _indices(shape: Shape, axes: int) -> Array:
    """Return the index of each element along each axis, [axes, elements]; leading axes that are missing have index 0."""
    own = np.indices(shape, np.int64).reshape((len(shape), math.prod(shape)))
    return np.concatenate([np.zeros((axes - len(shape), math.prod(shape)), own.dtype), own])


def _weights(axes: int, count: int) -> Iterable[tuple[int, ...]]:
    """Yield the weights of lattices; that of the last axis is 1."""
    rest = itertools.product(range(min(count, 16)), repeat=max(axes - 1, 0))
    return ((*item, 1)[-axes:] if axes else () for item in itertools.islice(rest, MOST_LATTICES))


# -- greedy ------------------------------------------------------------------------------------------------------------------


def _orders(pattern: Sparsity) -> list[Array]:
    """Return the orders in which columns are coloured: their own, and the fullest first if that is another."""
    filled = np.bincount(pattern.indices, minlength=pattern.shape[1])
    own, fullest = np.arange(pattern.shape[1]), np.argsort(-filled, kind="stable")
    return [own] if np.array_equal(own, fullest) else [own, fullest]


def _greedy(pattern: Sparsity) -> Array:
    candidates = [_greedy_columns(pattern, order) for order in _orders(pattern)]
    return min(candidates, key=lambda found: int(found.max(initial=-1)))


def _greedy_columns(pattern: Sparsity, order: Array) -> Array:
    """Give each column in turn the first colour that none of its rows has used."""
    starts, rows = _columns_of(pattern)
    used = [0] * pattern.shape[0]
    colours = [0] * pattern.shape[1]
    for column in order.tolist():
        mine = rows[starts[column] : starts[column + 1]]
        taken = 0
        for row in mine:
            taken |= used[row]
        free = ~taken & (taken + 1)
        for row in mine:
            used[row] |= free
        colours[column] = free.bit_length() - 1
    return np.asarray(colours, np.int64)


def _columns_of(pattern: Sparsity) -> tuple[list[int], list[int]]:
    """Return where the rows of each column start, and the rows, column by column."""
    rows, columns = pattern.rows, pattern.columns
    starts = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=pattern.shape[1]))])
    return starts.tolist(), rows[np.argsort(columns, kind="stable")].tolist()


def _greedy_star(pattern: Sparsity, order: Array) -> Array:
    """Give each vertex in turn the first colour that leaves no two-coloured path of four vertices.

    For each vertex x three sets of colours are kept as bits: those of its neighbours, those that two neighbours share, and
    those that it must not take because a neighbour's other neighbours share its neighbour's colour.
    """
    starts, neighbours = _columns_of(pattern)
    size = pattern.shape[1]
    colour = [-1] * size
    seen, shared, barred = [0] * size, [0] * size, [0] * size
    first: list[dict[int, int]] = [{} for _ in range(size)]
    for vertex in order.tolist():
        around = [item for item in neighbours[starts[vertex] : starts[vertex + 1]] if item != vertex]
        # A path that ends here: vertex - w - x - y with w and y alike. One through here: w - vertex - x - y with w and x alike.
        taken = seen[vertex]
        for item in around:
            if colour[item] >= 0:
                taken |= barred[item]
                if shared[vertex] >> colour[item] & 1:
                    taken |= seen[item]
        bit = ~taken & (taken + 1)
        mine = colour[vertex] = bit.bit_length() - 1
        for item in around:
            if colour[item] >= 0 and shared[vertex] >> colour[item] & 1:
                barred[item] |= bit
            if not seen[item] & bit:
                seen[item] |= bit
                first[item][mine] = vertex
                continue
            shared[item] |= bit
            if colour[item] >= 0:
                barred[vertex] |= 1 << colour[item]
                barred[first[item][mine]] |= 1 << colour[item]
    return np.asarray(colour, np.int64)
